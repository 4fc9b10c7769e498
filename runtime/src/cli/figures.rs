//! Figures as people read them.

use std::time::Duration;

/// Local time, as a log shows it.
pub(super) fn when(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok();
    let at = at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(
        || format!("{at_ms:<19}"),
        |at| {
            let local = at.to_zoned(jiff::tz::TimeZone::system());
            local.strftime("%Y-%m-%d %H:%M:%S").to_string()
        },
    )
}

/// In thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Bytes, in powers of 1024.
pub(super) fn size(bytes: u64) -> String {
    scaled(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

/// Bytes as data sheets of media count them, in powers of 1000.
pub(super) fn medium_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}

fn scaled(bytes: u64, step: f64, units: [&str; 5]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let name = units.get(unit).unwrap_or(&"");
    if unit == 0 {
        format!("{bytes} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

/// A time, roughly.
pub(super) fn rough(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..100 => format!("{s} s"),
        100..6_000 => format!("{} min", s / 60),
        6_000..360_000 => format!("{:.1} h", time.as_secs_f64() / 3600.0),
        360_000.. => format!("{:.1} days", time.as_secs_f64() / 86_400.0),
    }
}

/// Text from elsewhere without anything a terminal would obey.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_units() {
        assert_eq!(count(1_234_567), "1 234 567");
        assert_eq!(count(999), "999");
        assert_eq!(
            (size(1023), size(1536)),
            ("1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(medium_size(2_000_000_000), "2.0 GB");
        assert_eq!(rough(Duration::from_secs(90)), "90 s");
        assert_eq!(rough(Duration::from_secs(7_200)), "2.0 h");
        assert_eq!(harmless("\x1b[2Jevil\n"), "?[2Jevil?");
    }
}
