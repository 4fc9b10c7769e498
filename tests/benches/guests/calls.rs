//! What one `emit` costs the guest, by its own clock: the call, the conversion, the spool's acceptance.

use std::path::Path;
use std::time::Duration;

use crate::host::{Host, Places, open_spool, reply};
use crate::{Language, Row, median};

const BATCHES: [u64; 3] = [1, 32, 256];
const CALLS: u64 = 200;
const ROUNDS: u64 = 20;

pub(crate) async fn measure(languages: &[Language], directory: &Path) -> Vec<Row> {
    let mut rows: Vec<Row> = BATCHES
        .iter()
        .map(|batch| Row::new(format!("emit of {batch} readings, µs"), 1))
        .collect();
    for language in languages {
        let state = directory.join("calls").join(language.name);
        let (spool, appender, mut outlet) = open_spool(&state);
        let places = Places {
            compiled: directory.join("compiled"),
            state: &state,
        };
        let host = Host::start(&language.component, 1, places, appender).await;
        for (row, batch) in rows.iter_mut().zip(BATCHES) {
            let mut rounds = Vec::new();
            for round in 0..ROUNDS {
                let params = format!("[{batch},{CALLS}]");
                host.ask(0, (round, "burst", &params)).await;
                let [taken, refused, took_us] = reply(&mut outlet).await;
                assert!(
                    refused == 0.0 && taken > 0.0,
                    "{taken} taken, {refused} not"
                );
                rounds.push(took_us / taken);
            }
            row.figures.push(median(rounds));
        }
        host.plugins.stop(Duration::from_secs(5)).await;
        spool.close().await.expect("a clean end");
    }
    rows
}
