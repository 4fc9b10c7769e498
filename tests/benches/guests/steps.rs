//! From a file to a guest that can be called, step by step.

use std::path::Path;
use std::time::Instant;

use moorline::plugins::{Confinement, Workbench};

use crate::{Language, Row, limits, median};

const COMPILATIONS: usize = 3;
const LOADS: usize = 11;
const INSTANCES: usize = 101;
const CALLS: usize = 1001;

pub(crate) async fn measure(languages: &[Language], directory: &Path) -> Vec<Row> {
    let mut size = Row::new("component, KiB", 0);
    let mut compile = Row::new("compile, ms", 1);
    let mut load = Row::new("load what was compiled, HMAC checked, ms", 2);
    let mut instantiate = Row::new("instantiate and drop, µs", 0);
    let mut call = Row::new("a call that does nothing, µs", 1);
    for language in languages {
        let place = directory.join("workbench").join(language.name);
        std::fs::create_dir_all(&place).expect("a directory");
        let workbench =
            Workbench::set_up(&place, Confinement::Gateway, limits()).expect("an engine");
        size.figures.push(language.bytes.len() as f64 / 1024.0);
        let mut sample = None;
        compile.figures.push(ms(COMPILATIONS, || {
            sample = Some(workbench.compile(&language.bytes).expect("a component"));
        }));
        let sample = sample.expect("compiled above");
        workbench.keep(&sample);
        load.figures.push(ms(LOADS, || {
            assert!(workbench.load(sample.digest()).is_some(), "it was kept");
        }));
        let ready = workbench.prepare(&sample).await.expect("a connector");
        let mut took = Vec::new();
        for _ in 0..INSTANCES {
            let start = Instant::now();
            drop(ready.instantiate().await.expect("a guest"));
            took.push(start.elapsed().as_secs_f64() * 1e6);
        }
        instantiate.figures.push(median(took));
        let mut guest = ready.instantiate().await.expect("a guest");
        guest.start().await.expect("a start");
        let mut took = Vec::new();
        for _ in 0..CALLS {
            let start = Instant::now();
            guest.wake().await.expect("an answer");
            took.push(start.elapsed().as_secs_f64() * 1e6);
        }
        call.figures.push(median(took));
    }
    vec![size, compile, load, instantiate, call]
}

/// The median of so many times, in milliseconds.
fn ms(times: usize, mut work: impl FnMut()) -> f64 {
    let took = (0..times).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    });
    median(took.collect())
}
