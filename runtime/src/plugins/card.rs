//! How much a component may say of itself.

use moorline_core::swap::{Failure, Reason};

/// Bytes of a name or a version: they go into tables, the history and an attribute on the platform.
const TITLE_BYTES_MAX: usize = 256;
const SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// Checks what `describe` answered.
pub(super) fn check(name: &str, version: &str, configuration_schema: &str) -> Result<(), Failure> {
    let texts = [
        ("name", name, TITLE_BYTES_MAX),
        ("version", version, TITLE_BYTES_MAX),
        ("schema", configuration_schema, SCHEMA_BYTES_MAX),
    ];
    for (what, text, most) in texts {
        let bytes = text.len();
        if bytes > most {
            let detail = format!(
                "its description is too long: the {what} has {bytes} bytes and may have {most}"
            );
            return Err(Failure::new(Reason::Refused, detail));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_version_that_fits_no_table_is_refused() {
        let (fits, long) = ("n".repeat(256), "n".repeat(257));
        let schema = "s".repeat(256 * 1024);
        check(&fits, &fits, &schema).unwrap();
        let name = check(&long, "1.0.0", "").unwrap_err();
        let words = "its description is too long: the name has 257 bytes and may have 256";
        assert_eq!(
            (name.reason, name.detail.as_str()),
            (Reason::Refused, words)
        );
        assert!(check("n", &long, "").is_err());
        assert!(check("n", "1.0.0", &format!("{schema}s")).is_err());
    }
}
