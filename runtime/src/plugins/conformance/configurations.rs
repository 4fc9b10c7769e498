//! Configurations that are wrong, made from one that works and from its schema.

use serde_json::{Map, Value, json};

/// No plugin has a field of this name.
const STRANGER: &str = "moorline-conformance-unknown";

/// A configuration that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bad {
    /// What is wrong, for the report.
    pub(super) what: String,
    pub(super) text: String,
    /// By its own schema the plugin must refuse it. Others it may take, if only it does not break.
    pub(super) must: bool,
}

/// What to try on a plugin whose schema is `schema`, empty or JSON, and that `good` works for.
pub(super) fn bad(good: &Value, schema: &str) -> Vec<Bad> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let empty = Map::new();
    let fields = good.as_object().unwrap_or(&empty);
    let mut bad = vec![
        Bad {
            what: "half an object".to_owned(),
            text: "{".to_owned(),
            must: false,
        },
        Bad {
            what: "a list".to_owned(),
            text: "[]".to_owned(),
            must: false,
        },
    ];
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for name in required.iter().filter_map(Value::as_str) {
        let mut fields = fields.clone();
        fields.remove(name);
        bad.push(Bad {
            what: format!("without {name}"),
            text: Value::from(fields).to_string(),
            must: true,
        });
    }
    for name in fields.keys() {
        let kind = schema["properties"][name]["type"].as_str();
        let wrongs = [
            ("array", "a list", json!([[null]])),
            ("boolean", "false", json!(false)),
        ];
        for (of_kind, what, wrong) in wrongs {
            if kind == Some(of_kind) {
                continue;
            }
            let mut fields = fields.clone();
            fields.insert(name.clone(), wrong);
            bad.push(Bad {
                what: format!("{name} = {what}"),
                text: Value::from(fields).to_string(),
                must: kind.is_some(),
            });
        }
    }
    let mut strange = fields.clone();
    strange.insert(STRANGER.to_owned(), json!(1));
    bad.push(Bad {
        what: "with an unknown field".to_owned(),
        text: Value::from(strange).to_string(),
        must: schema["additionalProperties"] == json!(false),
    });
    bad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_what_must_be_refused() {
        let schema = r#"{"required": ["a"], "properties": {"a": {"type": "boolean"}}, "additionalProperties": false}"#;
        let bad = bad(&json!({"a": true, "b": 1}), schema);
        let must: Vec<&str> = bad
            .iter()
            .filter(|bad| bad.must)
            .map(|bad| bad.what.as_str())
            .collect();
        assert_eq!(must, ["without a", "a = a list", "with an unknown field"]);
        assert!(bad.iter().any(|bad| bad.text == r#"{"a":true,"b":false}"#));
        assert!(super::bad(&json!({}), "").iter().all(|bad| !bad.must));
    }
}
