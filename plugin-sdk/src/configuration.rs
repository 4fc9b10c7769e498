//! Reading the configuration a connector or a policy is started with.

use serde::de::DeserializeOwned;

use crate::{Fault, Setup};

/// The configuration as a type of the author's.
///
/// # Errors
/// [`Fault::Configuration`] naming the field and what is wrong with it.
pub fn configuration<T: DeserializeOwned>(setup: &Setup) -> Result<T, Fault> {
    parsed(&setup.configuration)
        .map_err(|error| Fault::Configuration(format!("{}: {error}", setup.instance)))
}

/// A JSON text as that type, or which field is not of it and why. In two steps, because the operator who reads the error has
/// written keys in a TOML file, and never saw the text that lines and columns would be of.
pub(crate) fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        unit: u8,
        #[serde(default)]
        points: Vec<Point>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Point {
        address: u16,
    }

    #[test]
    fn an_error_names_the_field_and_its_way() {
        let error = |text| parsed::<Wanted>(text).unwrap_err();
        assert_eq!(
            error(r#"{"unit": "1"}"#),
            "unit: invalid type: string \"1\", expected u8"
        );
        assert_eq!(
            error(r#"{"unit": 1, "points": [{"address": 1}, {"address": 70000}]}"#),
            "points[1].address: invalid value: integer `70000`, expected u16"
        );
        assert_eq!(error("{}"), "missing field `unit`");
        let unknown = error(r#"{"unit": 1, "unti": 2}"#);
        assert!(unknown.contains("unknown field `unti`"), "{unknown}");
    }

    #[test]
    fn what_fits_is_taken() {
        let wanted = parsed(r#"{"unit": 1, "points": [{"address": 2}]}"#);
        let points = vec![Point { address: 2 }];
        assert_eq!(wanted, Ok(Wanted { unit: 1, points }));
    }
}
