//! Where a field is, or would be: for whoever names a line that should change.

use toml::de::{DeTable, DeValue};

/// A field's place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is there.
    Line(usize),
    /// Its table is there, at this line, and has no such key.
    Table(usize),
    /// Not even its table is there.
    Nowhere,
}

/// The place of `key` in `table` (dotted, a number counting into an array) of the TOML in `text`. A text that does not
/// parse has no place.
#[must_use]
pub fn locate(text: &str, table: &str, key: &str) -> Place {
    let Ok(root) = DeTable::parse(text) else {
        return Place::Nowhere;
    };
    let line = |offset: usize| text.get(..offset).unwrap_or(text).matches('\n').count() + 1;
    let mut current = root.get_ref();
    let mut at = None;
    let mut parts = table.split('.');
    while let Some(part) = parts.next() {
        let Some((name, mut value)) = current.get_key_value(part) else {
            return Place::Nowhere;
        };
        let mut start = name.span().start;
        if let DeValue::Array(array) = value.get_ref()
            && let Some(number) = parts.next().and_then(|part| part.parse().ok())
            && let Some(element) = array.get::<usize>(number)
        {
            start = element.span().start;
            value = element;
        }
        let DeValue::Table(inner) = value.get_ref() else {
            return Place::Nowhere;
        };
        at = Some(line(start));
        current = inner;
    }
    match (current.get_key_value(key), at) {
        (Some((name, _)), _) => Place::Line(line(name.span().start)),
        (None, Some(at)) => Place::Table(at),
        (None, None) => Place::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_however_its_table_is_written() {
        let text = "[gateway]\nname = \"a\"\n\n[link]\nurl = \"mqtt://h\"\n# keep_alive_s = 9\n\n[link.tls]\nca_file = \"x\"\n";
        assert_eq!(locate(text, "link", "url"), Place::Line(5));
        assert_eq!(locate(text, "link", "keep_alive_s"), Place::Table(4));
        assert_eq!(locate(text, "link.tls", "ca_file"), Place::Line(9));
        assert_eq!(locate(text, "link.tls", "server_name"), Place::Table(8));
        let inline = "gateway.name = \"a\"\nlink = { url = \"mqtt://h\" }\n";
        assert_eq!(locate(inline, "link", "url"), Place::Line(2));
        assert_eq!(locate(inline, "link.tls", "ca_file"), Place::Nowhere);
        assert_eq!(locate(inline, "gateway", "name"), Place::Line(1));
        assert_eq!(locate("[link", "link", "url"), Place::Nowhere);
        let several = "[[link.endpoint]]\nurl = \"a\"\n[[link.endpoint]]\npriority = 2\nurl = \"b\"\n[link.endpoint.tls]\nca_file = \"x\"\n";
        for (table, key, place) in [
            ("link.endpoint.0", "url", Place::Line(2)),
            ("link.endpoint.1", "url", Place::Line(5)),
            ("link.endpoint.1", "mqtt_version", Place::Table(3)),
            ("link.endpoint.1.tls", "ca_file", Place::Line(7)),
            ("link.endpoint.2", "url", Place::Nowhere),
            ("link.endpoint", "url", Place::Nowhere),
        ] {
            assert_eq!(locate(several, table, key), place, "{table}.{key}");
        }
    }
}
