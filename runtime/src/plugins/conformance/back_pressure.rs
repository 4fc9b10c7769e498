//! The rule of back-pressure: nothing of a batch was taken, so the guest has to offer the same batch again.

use std::time::Duration;

use super::bench::Bench;
use super::connector::{PATIENCE, broken, kept, no_readings, silence};
use super::life::{End, Life};
use super::platform::{Heard, Told, told};
use super::rules::Outcome;

/// The wait that back-pressure asks for, and what a timer may be early.
const RETRY_AFTER: Duration = Duration::from_millis(150);
const EARLY: Duration = Duration::from_millis(20);

/// Whether it offers what the platform did not take again, as it was, and not before it is told to.
pub(super) async fn bears_back_pressure(bench: &Bench) -> Result<Outcome, End> {
    if !bench.can_read() {
        return Ok(no_readings());
    }
    let mut life = Life::begin(bench).await?;
    if !life
        .until(PATIENCE, |heard, _| heard.has_readings())
        .await?
    {
        return Ok(broken(silence(bench, &mut life)));
    }
    let before = life.platform.heard().offered.len();
    life.platform.set_behind(Some(RETRY_AFTER));
    let refused = |heard: &Heard| {
        let later = heard.offered.iter().skip(before);
        later
            .filter(|offered| !offered.taken)
            .cloned()
            .collect::<Vec<_>>()
    };
    if !life
        .until(PATIENCE, |heard, _| refused(heard).len() >= 3)
        .await?
    {
        return Ok(broken("after back-pressure it offers nothing any more"));
    }
    let offers = refused(&life.platform.heard());
    let (Some(first), Some(last)) = (offers.first(), offers.last()) else {
        return Ok(broken("after back-pressure it offers nothing any more"));
    };
    let lost = told(&first.uplink);
    let waited = last.at.saturating_duration_since(first.at);
    let least = (RETRY_AFTER - EARLY) * u32::try_from(offers.len() - 1).unwrap_or(u32::MAX);
    if waited < least {
        let (times, ms, wait) = (offers.len(), waited.as_millis(), RETRY_AFTER.as_millis());
        return Ok(broken(format!(
            "it offered {times} times in {ms} ms and was told to wait {wait} ms each time"
        )));
    }
    life.platform.set_behind(None);
    let taken_before = life.platform.heard().taken_readings().len();
    let resumed = life
        .until(PATIENCE, |heard, _| {
            heard.taken_readings().len() >= taken_before + lost.len()
        })
        .await?;
    let taken = life.platform.heard().taken_readings();
    let next = taken.get(taken_before..).unwrap_or_default();
    Ok(match again(&lost, next) {
        Again::TheSame => kept(format!("{} readings kept and offered again", lost.len())),
        Again::Incomplete(at) => broken(format!(
            "of the batch that met back-pressure {} is missing {}",
            lost.get(at).map(shown).unwrap_or_default(),
            if resumed {
                "in what was taken next"
            } else {
                "and nothing was offered in its place"
            }
        )),
        Again::Another(at) => broken(format!(
            "the batch that met back-pressure came back as another one: in the place of {} it has {}; nothing is missing",
            lost.get(at).map(shown).unwrap_or_default(),
            next.get(at).map(shown).unwrap_or_default()
        )),
    })
}

fn shown(told: &Told) -> String {
    format!("{} {} = {:?}", told.device, told.key, told.value)
}

/// What became of a batch that the platform did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// It was offered again, and taken, as it was.
    TheSame,
    /// This reading of it was not.
    Incomplete(usize),
    /// All of it came, and from this reading on in another order or among others.
    Another(usize),
}

/// Compares the `batch` that was not taken with what was taken next.
fn again(batch: &[Told], taken: &[Told]) -> Again {
    let mut rest: Vec<&Told> = taken.iter().collect();
    for (index, told) in batch.iter().enumerate() {
        match rest.iter().position(|other| *other == told) {
            Some(at) => drop(rest.remove(at)),
            None => return Again::Incomplete(index),
        }
    }
    let alike = batch.iter().zip(taken).take_while(|(a, b)| a == b).count();
    if alike == batch.len() {
        Again::TheSame
    } else {
        Again::Another(alike)
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::message::Value;

    use super::*;

    #[test]
    fn a_batch_offered_anew_is_told_from_one_with_a_reading_missing() {
        let reading = |device: &str, number| Told {
            device: device.to_owned(),
            key: "seq".to_owned(),
            value: Value::Integer(number),
        };
        let batch = [reading("a", 1), reading("a", 2), reading("b", 1)];
        let later = [reading("a", 3), reading("b", 2)];
        let with = |first: &[Told]| [first, &later].concat();
        assert_eq!(again(&batch, &with(&batch)), Again::TheSame);
        // Grouped by device with what was read since: complete, and not the same batch.
        let grouped = [
            reading("a", 1),
            reading("a", 2),
            reading("a", 3),
            reading("b", 1),
        ];
        assert_eq!(again(&batch, &grouped), Again::Another(2));
        assert_eq!(again(&batch, &with(&batch[..2])), Again::Incomplete(2));
        assert_eq!(again(&batch, &later), Again::Incomplete(0));
        let twice = [reading("a", 1), reading("a", 1)];
        assert_eq!(again(&twice, &with(&twice[..1])), Again::Incomplete(1));
        assert_eq!(again(&[], &[]), Again::TheSame);
    }
}
