//! The run as a picture: memory, depth and rates over time, and where it was struck. For a white page, like
//! `docs/fleet.svg`.

use std::fmt::Write as _;

use super::samples::Samples;

const WIDTH: f64 = 980.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const ROW: f64 = 120.0;
const ROW_GAP: f64 = 40.0;
const BOTTOM: f64 = 46.0;
const TICKS_MAX: f64 = 12.0;
const TICK_STEPS_S: [f64; 8] = [10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 3_600.0];
/// Okabe and Ito's colours, which people who see fewer colours can tell apart.
const BLUE: &str = "#0072b2";
const GREEN: &str = "#009e73";
const ORANGE: &str = "#d55e00";
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.t{font-size:15px;font-weight:bold}.n{font-weight:bold}\
.e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#ddd}.b{stroke:#222;stroke-width:1.5}.f{stroke:#bbb;stroke-dasharray:2 3}\
polyline{fill:none;stroke-width:1.4}";

/// One row: its name, and each line with its colour.
struct Row {
    name: &'static str,
    lines: Vec<(&'static str, Vec<(f64, f64)>)>,
}

// Writing to a String cannot fail.
macro_rules! line {
    ($svg:expr, $($part:tt)*) => {
        writeln!($svg, $($part)*).unwrap_or_default()
    };
}

/// An SVG of its own.
pub(crate) fn chart(title: &str, samples: &Samples) -> String {
    let rows = [
        Row {
            name: "memory of the gateway (RSS), MiB",
            lines: vec![(BLUE, samples.series(|of| of.rss_kib as f64 / 1_024.0))],
        },
        Row {
            name: "waiting in the spool, thousand readings",
            lines: vec![(ORANGE, samples.series(|of| of.depth as f64 / 1_000.0))],
        },
        Row {
            name: "thousand readings per second: accepted (green), delivered (blue)",
            lines: vec![
                (BLUE, thousands(samples.rates(|of| of.delivered))),
                (GREEN, thousands(samples.rates(|of| of.accepted))),
            ],
        },
    ];
    let end_s = samples
        .series(|_| 0.0)
        .last()
        .map_or(1.0, |(at, _)| at.max(1.0));
    let height = TOP + (ROW + ROW_GAP) * rows.len() as f64 + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    line!(
        svg,
        "<text class=\"t\" x=\"{LEFT}\" y=\"24\">{title}</text>"
    );
    line!(
        svg,
        "<text x=\"{LEFT}\" y=\"42\">dotted: a fault ({})</text>",
        faults(samples)
    );
    let mut lower = TOP;
    for row in &rows {
        lower += ROW + ROW_GAP;
        draw(&mut svg, row, samples, end_s, lower);
    }
    time_axis(&mut svg, end_s, lower);
    svg.push_str("</svg>\n");
    svg
}

fn thousands(rates: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    rates
        .into_iter()
        .map(|(at, rate)| (at, rate / 1_000.0))
        .collect()
}

fn faults(samples: &Samples) -> String {
    let counts = samples.faults_by_name();
    let words: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} \u{d7} {count}"))
        .collect();
    words.join(", ")
}

fn x(second: f64, end_s: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * second / end_s
}

/// 1, 2 or 5 times a power of ten, not below `most`.
fn round_up(most: f64) -> f64 {
    let power = 10_f64.powf(most.max(1.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|limit| *limit >= most)
        .unwrap_or(10.0 * power)
}

fn draw(svg: &mut String, row: &Row, samples: &Samples, end_s: f64, lower: f64) {
    let upper = lower - ROW;
    let points = row.lines.iter().flat_map(|(_, points)| points);
    let top = round_up(points.map(|(_, y)| *y).fold(0.0, f64::max));
    line!(
        svg,
        "<text class=\"n\" x=\"{LEFT}\" y=\"{:.1}\">{}</text>",
        upper - 8.0,
        row.name
    );
    for quarter in 0..=4 {
        let value = top * f64::from(quarter) / 4.0;
        let y = lower - ROW * f64::from(quarter) / 4.0;
        line!(
            svg,
            "<path class=\"g\" d=\"M{LEFT} {y:.1}H{}\"/><text class=\"e\" x=\"{}\" y=\"{:.1}\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (at, _name) in samples.faults() {
        let x = x(at.as_secs_f64(), end_s);
        line!(
            svg,
            "<path class=\"f\" d=\"M{x:.1} {upper:.1}V{lower:.1}\"/>"
        );
    }
    for (colour, points) in &row.lines {
        let path: Vec<String> = points
            .iter()
            .map(|(second, value)| {
                let y = lower - ROW * (value / top).clamp(0.0, 1.0);
                format!("{:.1},{y:.1}", x(*second, end_s))
            })
            .collect();
        line!(
            svg,
            "<polyline stroke=\"{colour}\" points=\"{}\"/>",
            path.join(" ")
        );
    }
}

fn time_axis(svg: &mut String, end_s: f64, lower: f64) {
    let step = TICK_STEPS_S
        .into_iter()
        .find(|step| end_s / step <= TICKS_MAX)
        .unwrap_or(7_200.0);
    let mut second = 0.0;
    while second <= end_s {
        let x = x(second, end_s);
        line!(
            svg,
            "<path class=\"b\" d=\"M{x:.1} {lower}V{}\"/><text class=\"m\" x=\"{x:.1}\" y=\"{}\">{}</text>",
            lower + 5.0,
            lower + 18.0,
            second / 60.0
        );
        second += step;
    }
    line!(
        svg,
        "<text class=\"m\" x=\"{}\" y=\"{}\">minutes</text>",
        WIDTH / 2.0,
        lower + 36.0
    );
}
