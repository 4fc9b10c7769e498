//! The outcome as a picture: attempts per second over time, one row per policy, all on the same scales.

use std::fmt::Write as _;

use moorline_core::fleet::Scenario;

use super::{Kind, Played};

const WIDTH: f64 = 980.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 70.0;
const ROW: f64 = 84.0;
const ROW_GAP: f64 = 34.0;
const BOTTOM: f64 = 46.0;
/// Below one attempt per second, so that one can be seen.
const BASELINE: f64 = 0.5;
/// Lines of the time axis, at most.
const TICKS_MAX: u32 = 12;
const TICK_STEPS_S: [u32; 9] = [10, 30, 60, 120, 300, 600, 1_800, 3_600, 10_800];
/// Seconds shown after the last gateway is back.
const MARGIN_S: u32 = 10;
/// Okabe and Ito's colours, which people who see fewer colours can tell apart.
const COLOURS: [&str; 6] = [
    "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#d55e00", "#56b4e9",
];
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}.n{font-weight:bold}\
.e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#ddd}.a{fill:#e8e8e8}.l{stroke:#c00000;stroke-dasharray:5 3}\
.b{stroke:#222;stroke-width:1.5}";

/// Where a time and a rate are on the picture.
struct Scales {
    end_s: f64,
    rate_max: f64,
}

impl Scales {
    fn of(scenario: &Scenario, played: &[Played]) -> Self {
        let lengths = played.iter().map(|one| one.outcome.connects_per_s.len());
        let longest = u32::try_from(lengths.max().unwrap_or(0)).unwrap_or(u32::MAX);
        let outage_s = u32::try_from(scenario.outage.as_secs()).unwrap_or(u32::MAX);
        let peaks = played.iter().map(|one| one.outcome.peak_per_s);
        let highest = peaks.max().unwrap_or(0).max(scenario.accept_per_s);
        Self {
            end_s: f64::from(longest.max(outage_s).saturating_add(MARGIN_S)),
            rate_max: 10_f64.powf(f64::from(highest.max(10)).log10().ceil()),
        }
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * second / self.end_s
    }

    /// Distance from the row's lower edge.
    fn height(&self, rate: f64) -> f64 {
        let share = (rate.max(BASELINE) / BASELINE).log10() / (self.rate_max / BASELINE).log10();
        ROW * share
    }

    fn decades(&self) -> Vec<f64> {
        let mut decades = vec![1.0];
        while let Some(&last) = decades.last()
            && last * 10.0 <= self.rate_max
        {
            decades.push(last * 10.0);
        }
        decades
    }

    fn tick_s(&self) -> u32 {
        let fits = |step: &&u32| self.end_s / f64::from(**step) <= f64::from(TICKS_MAX);
        *TICK_STEPS_S
            .iter()
            .find(fits)
            .unwrap_or(&TICK_STEPS_S[TICK_STEPS_S.len() - 1])
    }
}

/// An SVG of its own, for a white page.
pub(crate) fn chart(scenario: &Scenario, played: &[Played]) -> String {
    let scales = Scales::of(scenario, played);
    let rows: f64 = played.iter().map(|_| ROW + ROW_GAP).sum();
    let height = TOP + rows + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    head(&mut svg, scenario);
    let mut lower = TOP;
    for (index, one) in played.iter().enumerate() {
        lower += ROW + ROW_GAP;
        row(
            &mut svg,
            scenario,
            &scales,
            lower,
            one,
            COLOURS[index % COLOURS.len()],
        );
    }
    time_axis(&mut svg, scenario, &scales, lower);
    svg.push_str("</svg>\n");
    svg
}

// Writing to a String cannot fail.
macro_rules! line {
    ($svg:expr, $($part:tt)*) => {
        writeln!($svg, $($part)*).unwrap_or_default()
    };
}

fn head(svg: &mut String, scenario: &Scenario) {
    line!(
        svg,
        "<text class=\"t\" x=\"{LEFT}\" y=\"24\">{} gateways lose their broker for {} s: attempts to connect per second</text>",
        grouped(u64::from(scenario.gateways)),
        scenario.outage.as_secs()
    );
    let rate = grouped(u64::from(scenario.accept_per_s));
    line!(
        svg,
        "<rect class=\"a\" x=\"{LEFT}\" y=\"38\" width=\"22\" height=\"12\"/><text x=\"92\" y=\"48\">broker away</text>"
    );
    line!(
        svg,
        "<path class=\"l\" d=\"M186 44h24\"/><text x=\"216\" y=\"48\">the broker accepts at most {rate}/s</text>"
    );
    line!(
        svg,
        "<path class=\"b\" d=\"M440 38v12\"/><text x=\"448\" y=\"48\">50 %, 99 % and all are back</text>"
    );
    line!(
        svg,
        "<text class=\"e\" x=\"{}\" y=\"48\">rates on a logarithmic scale</text>",
        WIDTH - RIGHT
    );
}

fn row(
    svg: &mut String,
    scenario: &Scenario,
    scales: &Scales,
    lower: f64,
    played: &Played,
    colour: &str,
) {
    let outcome = &played.outcome;
    let (left, right, upper) = (LEFT, WIDTH - RIGHT, lower - ROW);
    let outage_s = scenario.outage.as_secs_f64();
    line!(
        svg,
        "<rect class=\"a\" x=\"{left}\" y=\"{upper:.1}\" width=\"{:.1}\" height=\"{ROW}\"/>",
        scales.x(outage_s) - left
    );
    for decade in scales.decades() {
        let y = lower - scales.height(decade);
        line!(svg, "<path class=\"g\" d=\"M{left} {y:.1}H{right}\"/>");
        if decade == 1.0 || decade.log10() % 2.0 == 0.0 {
            let (x, y, rate) = (left - 6.0, y + 4.0, decade_words(decade));
            line!(
                svg,
                "<text class=\"e\" x=\"{x}\" y=\"{y:.1}\">{rate}</text>"
            );
        }
    }
    for (from, path) in runs(scales, lower, &outcome.connects_per_s) {
        let x = scales.x(from);
        line!(
            svg,
            "<path fill=\"{colour}\" d=\"M{x:.1} {lower}{path}z\"/>"
        );
    }
    let limit = lower - scales.height(f64::from(scenario.accept_per_s));
    line!(svg, "<path class=\"l\" d=\"M{left} {limit:.1}H{right}\"/>");
    for after in outcome.back_after.iter().flatten() {
        let x = scales.x(outage_s + after.as_secs_f64());
        line!(
            svg,
            "<path class=\"b\" d=\"M{x:.1} {:.1}V{lower}\"/>",
            upper - 4.0
        );
    }
    line!(
        svg,
        "<text class=\"n\" x=\"{left}\" y=\"{:.1}\">{}</text>",
        upper - 8.0,
        title(played)
    );
    line!(
        svg,
        "<text class=\"e\" x=\"{right}\" y=\"{:.1}\">{}</text>",
        upper - 8.0,
        summary(played)
    );
}

/// Stretches of seconds with attempts: where each begins, and its outline from there.
fn runs(scales: &Scales, lower: f64, per_s: &[u32]) -> Vec<(f64, String)> {
    let mut runs = Vec::new();
    let mut second = 0_u32;
    for stretch in per_s.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        let from = f64::from(second);
        let mut outline = String::new();
        for rate in stretch {
            second += 1;
            let y = lower - scales.height(f64::from(*rate));
            let x = scales.x(f64::from(second));
            write!(outline, "V{y:.1}H{x:.1}").unwrap_or_default();
        }
        if stretch.iter().any(|rate| *rate > 0) {
            write!(outline, "V{lower}").unwrap_or_default();
            runs.push((from, outline));
        }
    }
    runs
}

fn time_axis(svg: &mut String, scenario: &Scenario, scales: &Scales, lower: f64) {
    let step = scales.tick_s();
    let mut second = 0_u32;
    while f64::from(second) <= scales.end_s {
        let x = scales.x(f64::from(second));
        let (tick, words) = (lower + 5.0, lower + 18.0);
        line!(svg, "<path class=\"b\" d=\"M{x:.1} {lower}V{tick}\"/>");
        line!(
            svg,
            "<text class=\"m\" x=\"{x:.1}\" y=\"{words}\">{second}</text>"
        );
        second = second.saturating_add(step);
    }
    line!(
        svg,
        "<text class=\"m\" x=\"{}\" y=\"{}\">seconds since the broker went away (seed {})</text>",
        WIDTH / 2.0,
        lower + 36.0,
        scenario.seed
    );
}

fn title(played: &Played) -> String {
    let kind = match played.kind {
        Kind::Component => "component in Moorline",
        Kind::BuiltIn => "built into Moorline",
        Kind::Clamped => "clamped by Moorline",
        Kind::Unclamped => "peer, unclamped",
    };
    format!("{} ({kind})", escaped(&played.name))
}

fn summary(played: &Played) -> String {
    let outcome = &played.outcome;
    let all = outcome.back_after[2].map_or_else(
        || "not all back".to_owned(),
        |after| format!("all back {:.0} s after the broker", after.as_secs_f64()),
    );
    format!(
        "{} CONNECTs, at most {}/s once it is back, {all}",
        grouped(outcome.connects),
        grouped(u64::from(outcome.peak_after_return_per_s))
    )
}

fn decade_words(decade: f64) -> String {
    let plain = format!("{decade:.0}");
    plain.parse().map_or(plain, grouped)
}

/// 1234567 as 1 234 567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut words = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            words.push('\u{202f}');
        }
        words.push(digit);
    }
    words
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
