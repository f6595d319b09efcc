//! Rows of the documentation become a JSON Schema (2020-12).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A row of the tables.
struct Row<'a> {
    /// The parts of the key, without brackets.
    path: Vec<&'a str>,
    is_item: Vec<bool>,
    kind: &'a str,
    default: &'a str,
    range: &'a str,
    meaning: &'a str,
}

/// A key with those below it.
#[derive(Default)]
struct Node<'a> {
    row: Option<&'a Row<'a>>,
    /// Keys of the mapping that it is, or of the items of the list.
    children: BTreeMap<&'a str, Node<'a>>,
    has_items: bool,
}

/// Returns the schema for the page docs/configuration.md.
pub(super) fn generate(page: &str, version: &str) -> Value {
    let rows: Vec<Row<'_>> = page.lines().filter_map(read_row).collect();
    let mut root = Node::default();
    for row in &rows {
        let mut node = &mut root;
        for (name, is_item) in row.path.iter().zip(&row.is_item) {
            node = node.children.entry(name).or_default();
            node.has_items |= *is_item;
        }
        node.row = Some(row);
    }
    let mut schema = object(&root);
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:podpin:configuration:{version}"),
        "title": "The configuration of podpin",
        "$defs": {
            "duration": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"},
            "size": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+ ?([KMG]i?)?B?$"}]},
            "off": {"enum": ["off", false]},
            "name": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
        },
    });
    if let (Value::Object(schema), Value::Object(head)) = (&mut schema, head) {
        schema.extend(head);
    }
    schema
}

fn read_row(line: &str) -> Option<Row<'_>> {
    let (key, rest) = line.strip_prefix("| `")?.split_once("` |")?;
    let cells: Vec<&str> = rest.trim_end_matches('|').split('|').map(str::trim).collect();
    let [kind, default, range, meaning @ ..] = cells.as_slice() else { return None };
    let parts: Vec<&str> = key.split('.').collect();
    Some(Row {
        path: parts.iter().map(|part| part.trim_end_matches("[]")).collect(),
        is_item: parts.iter().map(|part| part.ends_with("[]")).collect(),
        kind,
        default,
        range,
        meaning: meaning.first().copied().unwrap_or_default(),
    })
}

/// Returns the schema of a mapping with the children of `node`.
fn object(node: &Node<'_>) -> Value {
    if let Some(named) = node.children.get("<name>") {
        let of_name = object(named);
        return json!({"type": "object", "additionalProperties": of_name, "propertyNames": {"$ref": "#/$defs/name"}, "minProperties": 1});
    }
    let properties: Map<String, Value> =
        node.children.iter().map(|(name, child)| ((*name).to_owned(), property(child))).collect();
    let is_required = |child: &Node<'_>| child.row.is_some_and(|row| row.default == "required");
    let required: Vec<&str> =
        node.children.iter().filter(|(_, child)| is_required(child)).map(|(name, _)| *name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if node.children.contains_key("static") && node.children.contains_key("dns") {
        schema["minProperties"] = json!(1);
        schema["maxProperties"] = json!(1);
    }
    schema
}

/// Returns the schema of a key: its type, null where it may be left out, its default and what it means.
fn property(node: &Node<'_>) -> Value {
    let Some(row) = node.row else { return object(node) };
    let own = kind(node, row);
    let mut schema = if row.default == "required" {
        own
    } else {
        let mut any = match own {
            Value::Object(map) if map.len() == 1 && map.contains_key("anyOf") => {
                map["anyOf"].as_array().unwrap().clone()
            }
            other => vec![other],
        };
        any.push(json!({"type": "null"}));
        json!({"anyOf": any})
    };
    let mut description = plain(row.meaning);
    if !row.range.is_empty() {
        let before = if description.is_empty() { String::new() } else { format!("{description}. ") };
        description = format!("{before}Range: {}", plain(row.range));
    }
    if !description.is_empty() {
        schema["description"] = description.into();
    }
    if let Some(default) = default(row) {
        schema["default"] = default;
    }
    schema
}

fn kind(node: &Node<'_>, row: &Row<'_>) -> Value {
    let off = json!({"$ref": "#/$defs/off"});
    let name = json!({"$ref": "#/$defs/name"});
    let text = json!({"type": "string", "minLength": 1});
    let any = |schemas: Vec<Value>| json!({ "anyOf": schemas });
    let base = row.kind.strip_suffix(" or `off`").filter(|base| !base.contains('`'));
    let own = match base.unwrap_or(row.kind) {
        "duration" => json!({"$ref": "#/$defs/duration"}),
        "duration or `session`" => {
            any(vec![json!({"$ref": "#/$defs/duration"}), json!({"const": "session"})])
        }
        "size" => json!({"$ref": "#/$defs/size"}),
        "number" => number(row.range),
        "boolean" | "`true`, `false`" => json!({"type": "boolean"}),
        "mapping" | "mapping by name" => object(node),
        "names and values" => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        "list of statuses" => {
            json!({"type": "array", "items": {"type": "integer", "minimum": 500, "maximum": 599}})
        }
        "list, or the word `ephemeral`" => any(vec![list(node, row), json!({"const": "ephemeral"})]),
        "name" | "name of a service" => name,
        "name or number" => any(vec![name, json!({"type": "integer", "minimum": 1, "maximum": 65_535})]),
        "list of CIDR ranges" | "list of names" => json!({"type": "array", "items": text}),
        "list" => list(node, row),
        words if words.contains('`') && !words.contains("for stdout") => one_of(words),
        _ => text,
    };
    match base {
        Some(_) => any(vec![own, off]),
        None => own,
    }
}

fn list(node: &Node<'_>, row: &Row<'_>) -> Value {
    let items = if node.has_items && !node.children.is_empty() {
        object(node)
    } else {
        json!({"type": "string", "minLength": 1})
    };
    let mut schema = json!({"type": "array", "items": items});
    if row.range.starts_with("at least one") {
        schema["minItems"] = json!(1);
    }
    schema
}

/// Returns the schema of words: `true` and `false` are flags, `off` may be false and `on` true, as YAML readers have them.
fn one_of(words: &str) -> Value {
    let mut values: Vec<Value> = Vec::new();
    for word in words.split('`').skip(1).step_by(2) {
        match word {
            "true" => values.push(json!(true)),
            "false" => values.push(json!(false)),
            "on" => values.extend([json!("on"), json!(true)]),
            "off" => values.extend([json!("off"), json!(false)]),
            _ => values.push(json!(word.trim_matches('"'))),
        }
        if let Ok(number) = word.parse::<u64>() {
            values.push(json!(number));
        }
    }
    json!({ "enum": values })
}

/// Returns the schema of a number, with the bounds of `1 to 10` or the values of `` `301`, `302` ``.
fn number(range: &str) -> Value {
    let range = range.replace(',', "");
    if range.starts_with('`') {
        let values: Vec<u64> = range.split('`').filter_map(|word| word.parse().ok()).collect();
        return json!({ "enum": values });
    }
    let bounds = range.split(';').next().unwrap_or_default().split_once(" to ");
    let whole = |text: &str| text.trim().parse::<u64>().ok();
    match bounds.map(|(min, max)| (min.trim(), max.trim())) {
        Some((min, max)) if min.contains('.') => {
            json!({"type": "number", "minimum": min.parse::<f64>().unwrap(), "maximum": max.parse::<f64>().unwrap()})
        }
        Some((min, max)) => match (whole(min), whole(max)) {
            (Some(min), Some(max)) => json!({"type": "integer", "minimum": min, "maximum": max}),
            _ => json!({"type": "integer"}),
        },
        None => json!({"type": "integer"}),
    }
}

/// Returns the default, where the page has one value in backticks, or a number.
fn default(row: &Row<'_>) -> Option<Value> {
    let text = row.default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(row.default);
    if text.contains('`') || text.contains('<') {
        return None;
    }
    let is_written = row.default.starts_with('`');
    match serde_json::from_str(text) {
        Ok(Value::Null) => None,
        Ok(value) => Some(value),
        Err(_) if is_written && text.starts_with('[') => {
            let words = text.trim_matches(['[', ']']).split(", ").map(Value::from);
            Some(words.collect())
        }
        Err(_) => is_written.then(|| text.into()),
    }
}

/// Returns the text without links.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (head, words) = before.rsplit_once('[').unwrap_or((before, ""));
        out.push_str(head);
        out.push_str(words);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    out.push_str(rest);
    out
}
