//! As much of JSON Schema as ours uses. A keyword that is not known here ends the test.

use regex::Regex;
use serde_json::Value;

/// # Errors
/// The first fault of `value`, with its place.
pub(super) fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    Validator { root: schema }.check(schema, value, "")
}

struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (keyword, rule) in schema.as_object().unwrap() {
            let is_good = match keyword.as_str() {
                "$ref" => {
                    let pointer = rule.as_str().unwrap().trim_start_matches('#');
                    return self.check(self.root.pointer(pointer).unwrap(), value, at);
                }
                "anyOf" => rule.as_array().unwrap().iter().any(|one| self.check(one, value, at).is_ok()),
                "items" | "propertyNames" | "properties" | "additionalProperties" => {
                    self.check_parts(schema, keyword, value, at)?;
                    true
                }
                "description" | "default" | "title" | "$schema" | "$id" | "$defs" => true,
                keyword => obeys(keyword, rule, value),
            };
            if !is_good {
                return Err(format!("{at}: {keyword}: {value}"));
            }
        }
        Ok(())
    }

    fn check_parts(&self, schema: &Value, keyword: &str, value: &Value, at: &str) -> Result<(), String> {
        let rule = &schema[keyword];
        if keyword == "items" {
            for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                self.check(rule, item, &format!("{at}[{number}]"))?;
            }
        }
        for (name, value) in value.as_object().into_iter().flatten() {
            let at = format!("{at}.{name}");
            let known = schema.get("properties").and_then(|known| known.get(name));
            match (keyword, known) {
                ("propertyNames", _) => self.check(rule, &Value::from(name.as_str()), &at)?,
                ("properties", Some(schema)) => self.check(schema, value, &at)?,
                ("additionalProperties", None) if rule.is_boolean() => {
                    return Err(format!("{at}: unknown key"));
                }
                ("additionalProperties", None) => self.check(rule, value, &at)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns whether `value` obeys a rule that looks at nothing inside of it. Rules for other types are obeyed.
fn obeys(keyword: &str, rule: &Value, value: &Value) -> bool {
    let number = || rule.as_u64().unwrap() as usize;
    let length = |text: &str| text.chars().count();
    match keyword {
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "type" => match rule.as_str().unwrap() {
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("unknown type {other}"),
        },
        "pattern" => {
            value.as_str().is_none_or(|text| Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
        }
        "minLength" => value.as_str().is_none_or(|text| length(text) >= number()),
        "minimum" => value.as_f64().is_none_or(|value| value >= rule.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|value| value <= rule.as_f64().unwrap()),
        "minItems" => value.as_array().is_none_or(|items| items.len() >= number()),
        "minProperties" => value.as_object().is_none_or(|map| map.len() >= number()),
        "maxProperties" => value.as_object().is_none_or(|map| map.len() <= number()),
        "required" => value.as_object().is_none_or(|map| {
            rule.as_array().unwrap().iter().all(|name| map.contains_key(name.as_str().unwrap()))
        }),
        other => panic!("{other} is not known to this validator"),
    }
}
