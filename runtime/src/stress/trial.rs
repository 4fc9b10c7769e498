//! One trial: calm, fault, heal, and what the link made of it.

use std::time::Duration;

use moorline_core::link::TAKEOVER_FLOOR;
use moorline_core::link::backoff::Random;
use moorline_core::time::Instant;

use super::StressError;
use super::campaign::{CALM, Fault, Trial};
use super::report::{Outcome, in_seconds};
use super::stage::Stage;
use crate::fault_proxy::{Direction, Mode, Shape, Strike};

const LATENCY: Duration = Duration::from_secs(1);
const JITTER: Duration = Duration::from_millis(1_500);
/// The narrow way carries this many times the load at least, or it would not be slow but too small.
const BANDWIDTH_BYTES_PER_S: u64 = 32 * 1024;
/// The network comes and goes at this pace.
const FLAP_MIN: Duration = Duration::from_millis(100);
const FLAP_MAX: Duration = Duration::from_secs(2);
const FLAP_SEED: u64 = 1;

pub(super) async fn play(stage: &mut Stage, trial: &Trial) -> Result<Outcome, StressError> {
    stage.hold(CALM).await;
    let known = stage
        .link
        .borrow()
        .disconnects
        .back()
        .map_or(0, |last| last.id);
    let struck_at = stage.clock.now();
    let mut backlog = strike(stage, trial).await?;
    // Readings are behind what was accepted up to now only because of the fault.
    let healed_at = stage.clock.now();
    let (acked, last) = {
        let spool = stage.spool.borrow();
        (spool.settled_records, spool.accepted_records)
    };
    let patience = patience(stage, trial.fault);
    let recovered = stage
        .delivered_after(acked, patience)
        .await
        .then(|| stage.clock.now());
    let drained = match recovered {
        Some(_) => stage
            .settled_through(last, patience)
            .await
            .then(|| stage.clock.now()),
        None => None,
    };
    backlog = backlog.max(stage.spool.borrow().depth_readings);
    let since =
        |at: Option<Instant>, from: Instant| at.map(|at| in_seconds(at.saturating_since(from)));
    let found: Vec<_> = {
        let link = stage.link.borrow();
        link.disconnects
            .iter()
            .filter(|record| record.id > known)
            .cloned()
            .collect()
    };
    let detected = found.first().map(|record| record.record.at);
    let mut outcome = Outcome {
        fault: trial.fault,
        lasted_s: in_seconds(trial.lasts),
        detected_s: since(detected, struck_at),
        recovered_s: since(recovered, healed_at),
        drained_s: since(drained, healed_at),
        causes: found
            .iter()
            .map(|record| record.record.disconnect.cause.name().to_owned())
            .collect(),
        told: found.first().map(|record| record.text.clone()),
        backlog_readings_max: backlog,
        problems: Vec::new(),
    };
    let first = found
        .first()
        .map(|record| record.record.disconnect.cause.class());
    outcome
        .problems
        .extend(judge(stage, trial, first, &outcome));
    Ok(outcome)
}

/// Does it, for as long as it lasts, and heals it. Returns the most readings that waited.
async fn strike(stage: &mut Stage, trial: &Trial) -> Result<u64, StressError> {
    let shape = |shape| Mode::Shape(shape);
    let mode = match trial.fault {
        Fault::Reset => return blow(stage, Strike::Reset).await,
        Fault::Close => return blow(stage, Strike::Close).await,
        Fault::CutMidPacket => return blow(stage, Strike::CutMidPacket).await,
        Fault::Takeover => {
            stage.take_over().await?;
            return Ok(0);
        }
        Fault::Flap => return flap(stage, trial.lasts).await,
        Fault::Refuse => {
            set(stage, Mode::Refuse).await?;
            stage
                .proxy
                .strike(Strike::Close)
                .await
                .map_err(StressError::Proxy)?;
            Mode::Refuse
        }
        Fault::BlackHole => Mode::BlackHole(None),
        Fault::HalfOpenUp => Mode::BlackHole(Some(Direction::ToBroker)),
        Fault::HalfOpenDown => Mode::BlackHole(Some(Direction::ToClient)),
        Fault::SlowReader => Mode::Unread,
        Fault::Latency => shape(Shape {
            latency: LATENCY,
            ..Shape::default()
        }),
        Fault::Jitter => shape(Shape {
            jitter: JITTER,
            ..Shape::default()
        }),
        Fault::Bandwidth => shape(Shape {
            bytes_per_s: Some(BANDWIDTH_BYTES_PER_S),
            ..Shape::default()
        }),
    };
    set(stage, mode).await?;
    let backlog = stage.hold(trial.lasts).await;
    set(stage, Mode::Pass).await?;
    Ok(backlog)
}

async fn set(stage: &Stage, mode: Mode) -> Result<(), StressError> {
    stage.proxy.set(mode).await.map_err(StressError::Proxy)
}

async fn blow(stage: &Stage, strike: Strike) -> Result<u64, StressError> {
    stage
        .proxy
        .strike(strike)
        .await
        .map_err(StressError::Proxy)?;
    Ok(0)
}

async fn flap(stage: &mut Stage, lasts: Duration) -> Result<u64, StressError> {
    let mut random = Random::seeded(FLAP_SEED);
    let mut left = lasts;
    let mut backlog = 0;
    while !left.is_zero() {
        set(stage, Mode::Refuse).await?;
        stage
            .proxy
            .strike(Strike::Reset)
            .await
            .map_err(StressError::Proxy)?;
        for mode in [Mode::Refuse, Mode::Pass] {
            let pause = random.between(FLAP_MIN, FLAP_MAX).min(left);
            set(stage, mode).await?;
            backlog = backlog.max(stage.hold(pause).await);
            left -= pause;
        }
    }
    set(stage, Mode::Pass).await?;
    Ok(backlog)
}

/// How long the way back may take.
fn patience(stage: &Stage, fault: Fault) -> Duration {
    let usual = stage.recovery_max();
    if fault == Fault::Takeover {
        // It yields: the other client might be the right one.
        usual + TAKEOVER_FLOOR
    } else {
        usual
    }
}

fn judge(
    stage: &Stage,
    trial: &Trial,
    first: Option<moorline_core::link::cause::CauseClass>,
    outcome: &Outcome,
) -> Vec<String> {
    let mut problems = Vec::new();
    let expected = trial.fault.expected();
    match first {
        Some(class) if expected.is_empty() => {
            problems.push(format!(
                "the link was dropped ({}) although bytes still passed",
                class.name()
            ));
        }
        Some(class) if !expected.contains(&class) => {
            let names: Vec<_> = expected.iter().map(|class| class.name()).collect();
            problems.push(format!(
                "told as {}, expected {}",
                class.name(),
                names.join(" or ")
            ));
        }
        Some(_) => {}
        // A broker that lets two clients live with one id is none of ours to judge, and a slow reader may be too fast.
        None if expected.is_empty()
            || matches!(trial.fault, Fault::Takeover | Fault::SlowReader) => {}
        None => problems.push("nothing was told".to_owned()),
    }
    let detection_max = in_seconds(stage.detection_max());
    if outcome
        .detected_s
        .is_some_and(|seconds| seconds > detection_max)
        && !expected.is_empty()
    {
        problems.push(format!("found only after more than {detection_max:.0} s"));
    }
    if outcome.recovered_s.is_none() {
        problems.push(format!(
            "not back within {:?}",
            patience(stage, trial.fault)
        ));
    } else if outcome.drained_s.is_none() {
        problems.push(
            "the backlog did not go: the broker takes readings more slowly than they come"
                .to_owned(),
        );
    }
    problems
}
