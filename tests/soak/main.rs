//! The long run: a gateway at a high rate, a fault every few seconds, and every second how much memory it takes.
//!
//! ```text
//! cargo bench --workspace --bench soak -- [--minutes 30] [--rate 20000] [--every 20] [--out DIR]
//! ```
//!
//! Leaves `soak.csv` and `soak.svg` in DIR (default: the current directory). Ends with 1 when the gateway lost a reading or its
//! memory grew. Stops nothing but what it started itself.

#![expect(clippy::print_stdout, reason = "the report is the result")]

mod chart;
mod samples;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use moorline::fault_proxy::{Mode, Strike};
use moorline_tests::dice::Dice;
use moorline_tests::mosquitto;
use moorline_tests::plugins::{Guest, Place};
use moorline_tests::rig::{Rig, Running};
use samples::{Sample, Samples};

const DEVICES: u32 = 100;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// The last fault is over so long before the end.
const CALM: Duration = Duration::from_secs(10);
/// What is left of the faults when the run ends has this long to be drained.
const DRAINED: Duration = Duration::from_secs(60);
/// Memory may stray so much over the whole run, as a share of its median.
const GROWTH_MAX: f64 = 0.1;

struct Arguments {
    minutes: u64,
    rate: u32,
    every: Duration,
    out: PathBuf,
}

impl Arguments {
    /// None when they cannot be read.
    fn read() -> Option<Self> {
        let mut read = Self {
            minutes: 30,
            rate: 20_000,
            every: Duration::from_secs(20),
            out: PathBuf::from("."),
        };
        // Cargo adds the one it marks benches with.
        let mut arguments = std::env::args()
            .skip(1)
            .filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next()?;
            match name.as_str() {
                "--minutes" => read.minutes = value.parse().ok()?,
                "--rate" => read.rate = value.parse().ok()?,
                "--every" => read.every = Duration::from_secs(value.parse().ok()?),
                "--out" => read.out = PathBuf::from(value),
                _unknown => return None,
            }
        }
        Some(read)
    }
}

/// What is done to the line, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Reset,
    CutMidPacket,
    BlackHole,
    Refuse,
    KillBroker,
}

impl Fault {
    const ALL: [Self; 5] = [
        Self::Reset,
        Self::CutMidPacket,
        Self::BlackHole,
        Self::Refuse,
        Self::KillBroker,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::CutMidPacket => "cut in mid-packet",
            Self::BlackHole => "black hole",
            Self::Refuse => "refused",
            Self::KillBroker => "broker killed",
        }
    }

    async fn strike(self, rig: &mut Rig) -> std::io::Result<()> {
        match self {
            Self::Reset => rig.proxy.strike(Strike::Reset).await,
            Self::CutMidPacket => rig.proxy.strike(Strike::CutMidPacket).await,
            Self::BlackHole => rig.proxy.set(Mode::BlackHole(None)).await,
            Self::Refuse => {
                rig.proxy.set(Mode::Refuse).await?;
                rig.proxy.strike(Strike::Reset).await
            }
            Self::KillBroker => {
                rig.proxy.set(Mode::Refuse).await?;
                rig.broker.kill().await
            }
        }
    }

    const fn lasts(self) -> Duration {
        match self {
            Self::Reset | Self::CutMidPacket => Duration::ZERO,
            Self::BlackHole => Duration::from_secs(8),
            Self::Refuse => Duration::from_secs(5),
            Self::KillBroker => Duration::from_secs(3),
        }
    }

    async fn heal(self, rig: &mut Rig) -> std::io::Result<()> {
        if self == Self::KillBroker {
            rig.broker.resume().await?;
            rig.audit_subscribed().await;
        }
        rig.proxy.set(Mode::Pass).await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(arguments) = Arguments::read() else {
        println!("soak [--minutes 30] [--rate 20000] [--every 20] [--out DIR]");
        return ExitCode::from(64);
    };
    let Some(kind) = mosquitto() else {
        return ExitCode::from(69);
    };
    let mut rig = Rig::start(kind).await;
    let place = Place::stock(rig.path("simulated.wasm"), Guest::SIMULATED);
    let witness = Some(rig.audit.witness());
    let configuration =
        rig.configuration()
            .simulated_at("sim", place.path(), witness, DEVICES, arguments.rate);
    let mut running = rig.gateway(&configuration);
    running.flows().await;
    let length = Duration::from_secs(60 * arguments.minutes);
    let samples = match soak(&mut rig, &running, length, arguments.every).await {
        Ok(samples) => samples,
        Err(error) => {
            println!("the rig failed: {error}");
            return ExitCode::from(71);
        }
    };
    let title = format!(
        "{} minutes at {} readings/s, a fault every {} s",
        arguments.minutes,
        arguments.rate,
        arguments.every.as_secs()
    );
    let written = std::fs::write(arguments.out.join("soak.csv"), samples.csv()).and_then(|()| {
        std::fs::write(
            arguments.out.join("soak.svg"),
            chart::chart(&title, &samples),
        )
    });
    if let Err(error) = written {
        println!("{}: {error}", arguments.out.display());
    }
    judge(&title, &rig, running, &samples).await
}

/// Samples and faults, side by side, until the time is over.
async fn soak(
    rig: &mut Rig,
    running: &Running,
    length: Duration,
    every: Duration,
) -> std::io::Result<Samples> {
    let mut dice = Dice::seeded("soak");
    let mut samples = Samples::default();
    let start = Instant::now();
    let mut next_fault = start + every;
    let mut under_way: Option<(Fault, Instant)> = None;
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    while start.elapsed() < length {
        tick.tick().await;
        let now = Instant::now();
        if let Some((fault, _)) = under_way.take_if(|(_, until)| *until <= now) {
            fault.heal(rig).await?;
        }
        if under_way.is_none() && next_fault <= now && start.elapsed() + CALM < length {
            let fault = dice.one_of(&Fault::ALL);
            fault.strike(rig).await?;
            under_way = Some((fault, now + fault.lasts()));
            next_fault += every;
            samples.struck(start.elapsed(), fault.name());
        }
        let sample = Sample::take(start.elapsed(), running, &rig.audit)?;
        samples.push(sample);
    }
    if let Some((fault, _)) = under_way {
        fault.heal(rig).await?;
    }
    Ok(samples)
}

async fn judge(title: &str, rig: &Rig, running: Running, samples: &Samples) -> ExitCode {
    let (history, balance) = rig.settle_within(running, DRAINED).await;
    let spool = &history.now.spool;
    let (median, growth) = samples.rss_growth();
    println!("{title}");
    println!(
        "faults {:?}; {} sessions",
        samples.faults_by_name(),
        history.sessions()
    );
    println!(
        "accepted {}, delivered {}, missing {} (of them lost by the broker after its PUBACK: {}), evicted {}, damaged {}, \
         duplicates {}, out of order {}",
        spool.accepted_readings,
        balance.delivered,
        balance.missing,
        balance.missing_after_ack,
        spool.evicted_readings,
        spool.damaged_readings,
        balance.duplicates,
        balance.out_of_order
    );
    println!(
        "RSS: median {:.1} MiB, at most {:.1} MiB; along the fitted line it changed by {:.2} MiB over the run; deepest spool {} \
         readings; {:.0} readings/s accepted",
        median / 1024.0,
        samples.rss_max() / 1024.0,
        growth / 1024.0,
        samples.depth_max(),
        samples.accepted_per_s()
    );
    let lost = balance.missing - balance.missing_after_ack;
    let flat = growth.abs() <= GROWTH_MAX * median;
    if lost > 0 || !balance.holes.is_empty() {
        println!("missing: {:?}", balance.holes);
    }
    if lost == 0 && flat && spool.evicted_readings == 0 {
        println!("passed: nothing lost, memory flat");
        return ExitCode::SUCCESS;
    }
    println!("FAILED: lost {lost}, memory flat: {flat}");
    ExitCode::FAILURE
}
