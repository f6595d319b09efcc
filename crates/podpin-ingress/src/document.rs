//! Manifests as text: YAML with several documents, or JSON as `kubectl get -o json` prints it.
//!
//! Documents are split before they are parsed, so that one that is no YAML does not take the others with it.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value};

/// Deepest nesting that is read, in lists opened on one line too: the YAML reader recurses.
const DEPTH_MAX: usize = 128;

/// Returns the documents of `text`, each a value or the reason why it is none. Empty documents are left out.
pub(crate) fn values(text: &str) -> Vec<Result<Value, String>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{')
        && let Ok(value) = serde_json::from_str(text)
    {
        return vec![Ok(value)];
    }
    split(text).into_iter().flat_map(|(line, document)| read(line, document)).collect()
}

/// Splits at lines that begin a document; with the number of lines before each.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut begin, mut begin_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if is_marker && at > begin {
            documents.extend(text.get(begin..at).map(|document| (begin_line, document)));
            (begin, begin_line) = (at, number);
        }
        at += line.len();
    }
    documents.extend(text.get(begin..).map(|document| (begin_line, document)));
    documents
}

fn read(lines_before: usize, text: &str) -> Vec<Result<Value, String>> {
    if is_too_deep(text) {
        return vec![Err(format!("line {}: nested too deep", lines_before + 1))];
    }
    match Yaml::load_from_str(text) {
        Ok(documents) => {
            let values = documents.iter().map(|yaml| convert(yaml, 0));
            values.filter(|value| !matches!(value, Ok(Value::Null))).collect()
        }
        Err(error) => {
            let line = lines_before + error.marker().line();
            vec![Err(format!("line {line}: not YAML: {}", error.info()))]
        }
    }
}

fn is_too_deep(text: &str) -> bool {
    let opens =
        |line: &str| line.bytes().take_while(|b| b" \t-?:".contains(b)).filter(|b| *b != b' ').count();
    text.lines().any(|line| opens(line) > DEPTH_MAX)
}

fn convert(yaml: &Yaml<'_>, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err("nested too deep".to_owned());
    }
    match yaml {
        Yaml::Value(scalar) => Ok(scalar_value(scalar)),
        Yaml::Sequence(items) => {
            items.iter().map(|item| convert(item, depth + 1)).collect::<Result<_, _>>().map(Value::Array)
        }
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                let key = match convert(key, depth + 1)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                map.insert(key, convert(value, depth + 1)?);
            }
            Ok(Value::Object(map))
        }
        Yaml::Tagged(_, inner) => convert(inner, depth + 1),
        Yaml::Representation(text, ..) => Ok(Value::from(text.as_ref())),
        Yaml::Alias(_) | Yaml::BadValue => Err("a value that does not fit its tag".to_owned()),
    }
}

fn scalar_value(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(flag) => Value::from(*flag),
        Scalar::Integer(number) => Value::from(*number),
        Scalar::FloatingPoint(number) => Value::from(number.into_inner()),
        Scalar::String(text) => Value::from(text.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_no_yaml_takes_no_other_with_it() {
        let read = values("---\na: 1\n---\nb: [\n--- # third\nc: x\n---\n---\n# nothing\n");
        assert_eq!(read.len(), 3, "{read:?}");
        assert_eq!(read[0].as_ref().unwrap()["a"], 1);
        assert!(read[1].as_ref().unwrap_err().starts_with("line "), "{read:?}");
        assert_eq!(read[2].as_ref().unwrap()["c"], "x");
    }

    #[test]
    fn json_is_read_with_its_escapes() {
        let read = values("{\"a\": \"\\ud83d\\ude00\",\n\t\"b\": null}");
        assert_eq!(read[0].as_ref().unwrap()["a"], "😀");
    }

    #[test]
    fn bad_text_is_an_error_and_no_crash() {
        for text in [
            "- ".repeat(100_000),
            "[".repeat(100_000),
            "\0".to_owned(),
            "a: &x [*x]".to_owned(),
            "{".repeat(5_000),
        ] {
            drop(values(&text));
        }
    }
}
