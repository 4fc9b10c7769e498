//! A week of windows. Times are milliseconds since Monday 00:00, local; a window that passes Sunday's midnight goes on
//! on Monday.

use serde::Deserialize;

pub(crate) const MINUTE_MS: u32 = 60_000;
const DAY_MINUTES: u32 = 24 * 60;
pub(crate) const WEEK_MS: u32 = 7 * DAY_MINUTES * MINUTE_MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

const EVERY_DAY: [Day; 7] = [
    Day::Mon,
    Day::Tue,
    Day::Wed,
    Day::Thu,
    Day::Fri,
    Day::Sat,
    Day::Sun,
];

/// As the operator writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Window {
    days: Option<Vec<Day>>,
    from: String,
    to: String,
}

/// From `start_ms`, inside the week, for `length_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start_ms: u32,
    length_ms: u32,
}

impl Span {
    /// How much of it is left at `now_ms`.
    fn left_ms(self, now_ms: u32) -> Option<u32> {
        let since = (now_ms + WEEK_MS - self.start_ms) % WEEK_MS;
        self.length_ms.checked_sub(since).filter(|left| *left > 0)
    }
}

/// All windows of a week.
#[derive(Debug)]
pub(crate) struct Calendar {
    spans: Vec<Span>,
}

impl Calendar {
    /// # Errors
    /// The window and what is wrong with it.
    pub(crate) fn new(windows: &[Window]) -> Result<Self, String> {
        let mut spans = Vec::new();
        for (index, window) in windows.iter().enumerate() {
            let wrong = |field: &str, why: String| format!("windows[{index}].{field}: {why}");
            let from = minutes(&window.from).map_err(|why| wrong("from", why))?;
            let to = minutes(&window.to).map_err(|why| wrong("to", why))?;
            if from == DAY_MINUTES {
                return Err(wrong("from", "a day begins at 00:00".into()));
            }
            if from == to {
                return Err(wrong(
                    "to",
                    "the window is empty; a whole day is from 00:00 to 24:00".into(),
                ));
            }
            let length = if to > from {
                to - from
            } else {
                DAY_MINUTES + to - from
            };
            let days = window.days.as_deref().unwrap_or(&EVERY_DAY);
            if days.is_empty() {
                return Err(wrong(
                    "days",
                    "none; leave the field out for every day".into(),
                ));
            }
            spans.extend(days.iter().map(|day| Span {
                start_ms: (*day as u32 * DAY_MINUTES + from) * MINUTE_MS,
                length_ms: length * MINUTE_MS,
            }));
        }
        Ok(Self { spans })
    }

    /// How long windows go on without a gap; none = `now_ms` is in none.
    pub(crate) fn left_ms(&self, now_ms: u32) -> Option<u32> {
        let mut left = 0;
        // Each round crosses at least one window; in a full week it comes around.
        while left < WEEK_MS {
            let at = (now_ms + left) % WEEK_MS;
            match self.spans.iter().filter_map(|span| span.left_ms(at)).max() {
                Some(more) => left += more,
                None => break,
            }
        }
        (left > 0).then_some(left)
    }

    /// How long until a window begins; a week if there is none.
    pub(crate) fn until_next_ms(&self, now_ms: u32) -> u32 {
        let until = |span: &Span| (span.start_ms + WEEK_MS - now_ms) % WEEK_MS;
        self.spans.iter().map(until).min().unwrap_or(WEEK_MS)
    }

    pub(crate) fn covers_the_week(&self) -> bool {
        let from = self.spans.first().map_or(0, |span| span.start_ms);
        self.left_ms(from).is_some_and(|left| left >= WEEK_MS)
    }
}

/// `HH:MM` in minutes, up to `24:00`.
fn minutes(text: &str) -> Result<u32, String> {
    let two = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    text.split_once(':')
        .and_then(|(hours, minutes)| Some((two(hours)?, two(minutes)?)))
        .filter(|(_, minutes)| *minutes < 60)
        .map(|(hours, minutes)| hours * 60 + minutes)
        .filter(|minutes| *minutes <= DAY_MINUTES)
        .ok_or_else(|| format!("{text:?} is not a time from 00:00 to 24:00"))
}
