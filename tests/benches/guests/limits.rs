//! What a guest's limits cost: the same call under each of them. Rounds alternate; a ratio is the median of the rounds' own.

use std::path::Path;
use std::time::Instant;

use moorline::plugins::{Confinement, Subject, Workbench};

use crate::{Language, Row, limits, median};

const CONFINEMENTS: [(Confinement, &str); 5] = [
    (Confinement::None, "none"),
    (Confinement::Epochs, "epochs"),
    (
        Confinement::Limiter,
        "bounds of memory, tables and host calls",
    ),
    (Confinement::Gateway, "all a connector has"),
    (Confinement::Fuel, "the same and fuel"),
];
const ROUNDS: usize = 21;
/// Emits of 32 readings, made anew each time; nobody takes them.
const CALL: (&str, &str) = ("burst", "[32,10]");
const CALLS: usize = 10;

pub(crate) async fn measure(languages: &[Language], directory: &Path) -> Vec<Row> {
    let mut base = Row::new("10 emits of 32, refused at the boundary, no limits, µs", 1);
    let mut rows: Vec<Row> = CONFINEMENTS[1..]
        .iter()
        .map(|(_, name)| Row::new(format!("  under {name}, times"), 2))
        .collect();
    for language in languages {
        let mut subjects = Vec::new();
        for (confinement, name) in CONFINEMENTS {
            subjects.push(subject(language, confinement, &directory.join(name)).await);
        }
        let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
        for round in 0..ROUNDS {
            for turn in 0..subjects.len() {
                // What comes first meets another machine than what comes last.
                let at = (turn + round) % subjects.len();
                rounds[at].push(one(&mut subjects[at]).await);
            }
        }
        base.figures.push(median(rounds[0].clone()));
        for (row, times) in rows.iter_mut().zip(&rounds[1..]) {
            let ratios = times.iter().zip(&rounds[0]).map(|(time, base)| time / base);
            row.figures.push(median(ratios.collect()));
        }
    }
    rows.insert(0, base);
    rows
}

async fn subject(language: &Language, confinement: Confinement, directory: &Path) -> Subject {
    std::fs::create_dir_all(directory).expect("a directory");
    let workbench = Workbench::set_up(directory, confinement, limits()).expect("an engine");
    let sample = workbench.compile(&language.bytes).expect("a component");
    let ready = workbench.prepare(&sample).await.expect("a connector");
    let mut subject = ready.instantiate().await.expect("a guest");
    subject.start().await.expect("a start");
    subject
}

/// The median time of one call, in microseconds.
async fn one(subject: &mut Subject) -> f64 {
    let mut took = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        subject.ask(CALL.0, CALL.1).await.expect("an answer");
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(took)
}
