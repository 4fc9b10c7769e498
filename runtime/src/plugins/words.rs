//! A guest's own words as they may be shown: of bounded length, on one line, without anything a terminal would obey.

/// Characters of a fault, a refusal or a trap that are repeated.
const CHARS_MAX: usize = 512;

/// What a guest said of a fault, or what was said of it in names it chose.
pub(super) fn repeated(words: &str) -> String {
    let end = words.char_indices().nth(CHARS_MAX);
    shown(words, end.map_or(words.len(), |(at, _)| at))
}

/// As many whole characters as `bytes_max` hold. A control character would forge another line or move a cursor.
pub(super) fn shown(words: &str, bytes_max: usize) -> String {
    let (kept, cut) = words.split_at(words.floor_char_boundary(bytes_max));
    let mut line: String = kept
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if !cut.is_empty() {
        line.push_str(" [cut]");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_between_characters_and_say_so() {
        assert_eq!(repeated("no answer"), "no answer");
        assert_eq!(repeated(&"ü".repeat(512)), "ü".repeat(512));
        let cut = repeated(&"ü".repeat(513));
        assert_eq!(cut, format!("{} [cut]", "ü".repeat(512)));
        assert_eq!(shown("üü", 3), "ü [cut]");
    }
}
