use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::probation::{Served, Terms};
use super::*;

mod comparisons;
mod starts;

const SETTINGS: Settings = Settings {
    settle: Duration::from_millis(100),
    warm: Duration::from_secs(5),
    cut_over: Duration::from_secs(10),
    roll_back: Duration::from_secs(10),
    probation: TERMS,
};

const TERMS: Terms = Terms {
    calls: 20,
    duration: Duration::from_secs(6),
    duration_max: Duration::from_secs(60),
    fault_percent: 25,
    silence_percent: 20,
};

fn digest(seed: u8) -> Digest {
    Digest([seed; 32])
}

fn at(ms: u64) -> Instant {
    Instant::from_start(Duration::from_millis(ms))
}

fn trap() -> Failure {
    Failure::new(Reason::Trapped, "unreachable")
}

fn served(generation: u64, calls: u64) -> Input {
    let served = Served {
        calls,
        ..Served::default()
    };
    Input::Served(Generation(generation), served)
}

/// Runs a script and writes down what came out of it.
struct Tracer {
    swap: Swap,
    trace: String,
}

impl Tracer {
    fn new() -> Self {
        Self {
            swap: Swap::new(SETTINGS),
            trace: String::new(),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.swap.poll_output() {
            writeln!(self.trace, "{now:?} {}", line(&output)).unwrap();
        }
    }

    fn input(&mut self, ms: u64, input: Input) -> &mut Self {
        self.swap.handle(at(ms), input);
        self.drain(at(ms));
        self
    }

    fn time(&mut self, ms: u64) -> &mut Self {
        self.swap.handle_timeout(at(ms));
        self.drain(at(ms));
        self
    }

    fn probed(&mut self, ms: u64, seed: u8) -> &mut Self {
        let probe = self.swap.probes;
        self.input(
            ms,
            Input::Probed {
                probe,
                digest: Ok(digest(seed)),
            },
        )
    }

    /// Loads or swaps to `seed` without a hitch, starting at `ms`; the file is settled 200 ms later.
    fn change_to(&mut self, ms: u64, seed: u8) -> &mut Self {
        self.input(ms, Input::FileChanged);
        self.time(ms + 100).probed(ms + 100, seed);
        self.time(ms + 200).probed(ms + 200, seed)
    }

    fn prepared(&mut self, ms: u64, generation: u64) -> &mut Self {
        let generation = Generation(generation);
        self.input(ms, Input::Compiled(generation, Ok(())));
        self.input(ms, Input::Checked(generation, Ok(())));
        self.input(ms, Input::Warmed(generation, Ok(())))
    }

    fn first(&mut self) -> &mut Self {
        self.input(0, Input::Start(None))
            .probed(0, 1)
            .prepared(1, 1);
        self.input(2, Input::CutOver(Generation(1), Ok(())));
        self.trace.clear();
        self
    }

    fn expect(&mut self, expected: &str) {
        let expected: String = expected
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(self.trace, expected, "\n{}", self.trace);
    }
}

fn line(output: &Output) -> String {
    match output {
        Output::Probe { probe } => format!("probe {probe}"),
        Output::Compile(build) => format!("compile {build}"),
        Output::CompileKept(build) => format!("compile {build}, which is kept"),
        Output::Recall(build) => format!("recall {build}"),
        Output::Check(build) => format!("check {build}"),
        Output::Warm(build) => format!("warm {build}"),
        Output::CutOver(build) => format!("cut over {build}"),
        Output::RollBack { from, to } => format!("roll back {from} to {to}"),
        Output::Discard(build) => format!("discard {build}"),
        Output::Retire(build) => format!("retire {build}"),
        Output::Report(Report::Missing(why)) => format!("report missing: it {why}"),
        Output::Report(Report::Unchanged(build)) => format!("report unchanged {build}"),
        Output::Report(Report::Shunned(digest)) => format!("report shunned {digest}"),
        Output::Report(Report::PutBack(digest)) => format!("report put back {digest}"),
        Output::Report(Report::Loaded(build)) => format!("report loaded {build}"),
        Output::Report(Report::Swapped { from, to }) => format!("report swapped {from} {to}"),
        Output::Report(Report::Proved(build)) => format!("report proved {build}"),
        Output::Report(Report::Refused {
            candidate,
            step,
            failure,
        }) => format!("report refused {candidate} at {step}: {failure}"),
        Output::Report(Report::RolledBack {
            from,
            to,
            step,
            failure,
        }) => format!("report rolled back {from} {to} at {step}: {failure}"),
    }
}

#[test]
fn the_first_load_believes_its_first_look() {
    let mut tracer = Tracer::new();
    tracer
        .input(0, Input::Start(None))
        .probed(3, 1)
        .prepared(20, 1);
    tracer.input(21, Input::CutOver(Generation(1), Ok(())));
    tracer.expect(
        "+0.000s probe 1
         +0.003s compile g1:010101010101
         +0.020s check g1:010101010101
         +0.020s warm g1:010101010101
         +0.020s cut over g1:010101010101
         +0.021s report loaded g1:010101010101",
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
}

#[test]
fn a_swap_settles_prepares_cuts_over_and_proves_itself() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(1_000, 2).prepared(1_250, 2);
    tracer.input(1_260, Input::CutOver(Generation(2), Ok(())));
    assert!(matches!(tracer.swap.state(), State::Draining { .. }));
    tracer.input(2_000, served(2, 20));
    assert_eq!(
        tracer.swap.poll_timeout(),
        Some((at(7_260), "end of probation"))
    );
    tracer.time(7_260);
    tracer.expect(
        "+1.100s probe 2
         +1.200s probe 3
         +1.200s compile g2:020202020202
         +1.250s check g2:020202020202
         +1.250s warm g2:020202020202
         +1.250s cut over g2:020202020202
         +1.260s report swapped g1:010101010101 g2:020202020202
         +7.260s retire g1:010101010101
         +7.260s report proved g2:020202020202",
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(2)));
}

#[test]
fn probation_ends_in_time_without_enough_calls() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2).prepared(200, 2);
    tracer.input(200, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    tracer.time(59_000).time(60_200);
    tracer.expect(
        "+60.200s retire g1:010101010101
         +60.200s report proved g2:020202020202",
    );
}

#[test]
fn a_half_written_file_settles_late() {
    let mut tracer = Tracer::new();
    tracer.first().input(1_000, Input::FileChanged);
    tracer.time(1_100).probed(1_100, 2);
    tracer.time(1_200).probed(1_200, 3);
    tracer.time(1_400).probed(1_400, 3);
    tracer.expect(
        "+1.100s probe 2
         +1.200s probe 3
         +1.400s probe 4
         +1.400s compile g2:030303030303",
    );
}

#[test]
fn a_file_that_never_holds_still_is_looked_at_rarely() {
    let mut tracer = Tracer::new();
    tracer.first().input(0, Input::FileChanged);
    let mut looks = 0;
    let mut now = 0;
    while now < 60_000 {
        let (due, _why) = tracer.swap.poll_timeout().unwrap();
        now = due.since_start().as_millis().try_into().unwrap();
        tracer
            .time(now)
            .probed(now, u8::try_from(looks % 200).unwrap());
        looks += 1;
        // Whoever writes may be heard of between the looks, or not.
        if looks % 3 == 0 {
            tracer.input(now + 1, Input::FileChanged);
        }
    }
    assert!((14..=18).contains(&looks), "{looks} looks in a minute");
    // Once it is whole the next one is waited for no longer than the first was, and neither is one that is ordered.
    for _ in 0..2 {
        let (due, _why) = tracer.swap.poll_timeout().unwrap();
        now = due.since_start().as_millis().try_into().unwrap();
        tracer.time(now).probed(now, 249);
    }
    assert!(matches!(tracer.swap.state(), State::Compiling(_)));
    tracer.change_to(now, 250);
    assert!(tracer.trace.contains("compile g3"), "{}", tracer.trace);
    for _ in 0..8 {
        now += 150;
        tracer.input(now, Input::FileChanged).time(now + 100);
    }
    tracer.input(now, Input::Ordered);
    assert_eq!(tracer.swap.poll_timeout(), Some((at(now + 100), "settle")));
}

#[test]
fn a_refused_candidate_is_not_tried_again_until_the_file_changes() {
    let mut tracer = Tracer::new();
    let failure = Failure::new(Reason::NotAComponent, "unexpected end");
    tracer.first().change_to(0, 2);
    tracer.input(210, Input::Compiled(Generation(2), Err(failure)));
    assert_eq!(tracer.swap.state(), State::Quarantined(digest(2)));
    assert_eq!(
        tracer.swap.active().map(|b| b.generation),
        Some(Generation(1))
    );
    tracer.trace.clear();
    tracer.change_to(1_000, 2).change_to(2_000, 3);
    tracer.expect(
        "+1.100s probe 4
         +1.200s probe 5
         +1.200s report shunned 020202020202
         +2.100s probe 6
         +2.200s probe 7
         +2.200s compile g3:030303030303",
    );
}

#[test]
fn a_signature_that_comes_late_gives_its_build_another_chance() {
    let mut tracer = Tracer::new();
    let unsigned = || Failure::new(Reason::Unsigned, "no plugin.wasm.minisig");
    tracer.first().change_to(0, 2);
    tracer.input(210, Input::Compiled(Generation(2), Err(unsigned())));
    assert_eq!(tracer.swap.state(), State::Quarantined(digest(2)));
    tracer.change_to(1_000, 2);
    tracer.trace.clear();
    tracer.input(2_000, Input::TrustChanged).time(2_100);
    tracer.probed(2_100, 2).time(2_200).probed(2_200, 2);
    tracer.expect("+2.100s probe 6\n+2.200s probe 7\n+2.200s compile g3:020202020202");
    assert_eq!(
        tracer.swap.active().map(|b| b.generation),
        Some(Generation(1))
    );
}

#[test]
fn a_signature_does_not_free_a_build_that_trapped() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2);
    tracer.input(210, Input::Compiled(Generation(2), Err(trap())));
    tracer.trace.clear();
    tracer.input(1_000, Input::TrustChanged).time(1_100);
    tracer.probed(1_100, 2).time(1_200).probed(1_200, 2);
    tracer.expect("+1.100s probe 4\n+1.200s probe 5\n+1.200s report shunned 020202020202");
    assert_eq!(tracer.swap.state(), State::Quarantined(digest(2)));
}

#[test]
fn a_touched_file_is_no_change_and_the_active_build_lifts_the_quarantine() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2);
    tracer.input(210, Input::Checked(Generation(2), Ok(())));
    tracer.input(210, Input::Compiled(Generation(2), Err(trap())));
    tracer.trace.clear();
    tracer.change_to(1_000, 1);
    tracer.expect(
        "+1.100s probe 4
         +1.200s probe 5
         +1.200s report unchanged g1:010101010101",
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
    assert_eq!(tracer.swap.quarantined(), None);
}

#[test]
fn a_candidate_that_is_not_ready_in_time_is_refused_and_its_late_answer_ignored() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2);
    tracer.input(200, Input::Compiled(Generation(2), Ok(())));
    tracer.input(200, Input::Checked(Generation(2), Ok(())));
    tracer.trace.clear();
    tracer.time(5_200);
    tracer.input(5_300, Input::Warmed(Generation(2), Ok(())));
    tracer.expect(
        "+5.200s discard g2:020202020202
         +5.200s report refused g2:020202020202 at warm-up: missed its deadline: it was not ready in time",
    );
}

#[test]
fn a_failed_cut_over_rolls_back() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2).prepared(200, 2);
    tracer.trace.clear();
    tracer.input(210, Input::CutOver(Generation(2), Err(trap())));
    assert!(matches!(tracer.swap.state(), State::RollingBack { .. }));
    tracer.input(220, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+0.210s roll back g2:020202020202 to g1:010101010101
         +0.220s report rolled back g2:020202020202 g1:010101010101 at cut-over: trapped: unreachable",
    );
    assert_eq!(tracer.swap.state(), State::Quarantined(digest(2)));
}

#[test]
fn a_cut_over_and_a_roll_back_have_deadlines() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2).prepared(200, 2);
    tracer.trace.clear();
    tracer.time(10_200);
    tracer.input(10_300, Input::CutOver(Generation(2), Ok(())));
    tracer.time(20_200);
    tracer.expect(
        "+10.200s roll back g2:020202020202 to g1:010101010101
         +20.200s report rolled back g2:020202020202 g1:010101010101 at cut-over: missed its deadline: it had not taken over in time",
    );
}

#[test]
fn trouble_on_probation_rolls_back_and_trouble_after_it_does_not() {
    let mut tracer = Tracer::new();
    tracer.first();
    tracer.input(10, Input::Troubled(Generation(1), trap()));
    tracer.change_to(100, 2).prepared(300, 2);
    tracer.input(300, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    tracer.input(400, Input::Troubled(Generation(1), trap()));
    tracer.input(500, Input::Troubled(Generation(2), trap()));
    tracer.input(501, Input::Troubled(Generation(2), trap()));
    tracer.input(510, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+0.500s roll back g2:020202020202 to g1:010101010101
         +0.510s report rolled back g2:020202020202 g1:010101010101 at probation: trapped: unreachable",
    );
    assert_eq!(
        tracer.swap.active().map(|b| b.generation),
        Some(Generation(1))
    );
}

#[test]
fn a_fix_that_was_being_prepared_is_looked_at_again_after_the_roll_back() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2).prepared(200, 2);
    tracer.input(200, Input::CutOver(Generation(2), Ok(())));
    tracer.change_to(1_000, 3);
    tracer.trace.clear();
    tracer.input(1_210, Input::Troubled(Generation(2), trap()));
    tracer.input(1_220, Input::RolledBack(Generation(2)));
    tracer.time(1_320).probed(1_320, 3);
    tracer.time(1_420).probed(1_420, 3);
    tracer.expect(
        "+1.210s discard g3:030303030303
         +1.210s roll back g2:020202020202 to g1:010101010101
         +1.220s report rolled back g2:020202020202 g1:010101010101 at probation: trapped: unreachable
         +1.320s probe 6
         +1.420s probe 7
         +1.420s compile g4:030303030303",
    );
}

#[test]
fn a_newer_file_replaces_the_candidate_and_ends_the_probation_it_follows() {
    let mut tracer = Tracer::new();
    tracer.first().change_to(0, 2).prepared(200, 2);
    tracer.input(200, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    tracer.change_to(1_000, 3).change_to(2_000, 4);
    tracer.input(2_200, Input::Compiled(Generation(3), Ok(())));
    tracer.prepared(2_300, 4);
    tracer.input(2_310, Input::FileChanged);
    tracer.input(2_320, Input::CutOver(Generation(4), Ok(())));
    tracer.time(2_420);
    tracer.expect(
        "+1.100s probe 4
         +1.200s probe 5
         +1.200s compile g3:030303030303
         +2.000s discard g3:030303030303
         +2.100s probe 6
         +2.200s probe 7
         +2.200s compile g4:040404040404
         +2.300s check g4:040404040404
         +2.300s warm g4:040404040404
         +2.300s retire g1:010101010101
         +2.300s cut over g4:040404040404
         +2.320s report swapped g2:020202020202 g4:040404040404
         +2.420s probe 8",
    );
}

#[test]
fn a_missing_file_leaves_the_active_generation_alone() {
    let mut tracer = Tracer::new();
    tracer.first().input(0, Input::FileChanged).time(100).input(
        100,
        Input::Probed {
            probe: 2,
            digest: Err(NoFile::Absent),
        },
    );
    tracer.expect("+0.100s probe 2\n+0.100s report missing: it is not there");
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
}

#[test]
fn a_file_that_cannot_be_read_is_tried_again_though_nobody_says_that_it_changed() {
    let mut tracer = Tracer::new();
    let busy = NoFile::Unreadable("too many open files".to_owned());
    tracer.first().input(0, Input::FileChanged).time(100).input(
        100,
        Input::Probed {
            probe: 2,
            digest: Err(busy),
        },
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
    let due = tracer.swap.poll_timeout();
    assert_eq!(due, Some((at(5_100), "look again")));
    tracer.time(5_099).time(5_100).probed(5_100, 2);
    tracer.expect(
        "+0.100s probe 2
         +0.100s report missing: it cannot be read: too many open files
         +5.100s probe 3",
    );
}

#[test]
fn a_build_that_the_host_could_not_compile_is_tried_again_later_and_later() {
    let mut tracer = Tracer::new();
    let starved = || Err(Failure::new(Reason::Host, "no process"));
    tracer.first().change_to(0, 2);
    tracer.input(200, Input::Compiled(Generation(2), starved()));
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
    assert_eq!(tracer.swap.poll_timeout(), Some((at(5_200), "look again")));
    tracer.time(5_200).probed(5_200, 2);
    tracer.time(5_300).probed(5_300, 2);
    tracer.input(5_300, Input::Compiled(Generation(3), starved()));
    assert_eq!(tracer.swap.poll_timeout(), Some((at(15_300), "look again")));
    tracer.time(15_300).probed(15_300, 2);
    tracer.time(15_400).probed(15_400, 2).prepared(15_500, 4);
    tracer.input(15_510, Input::CutOver(Generation(4), Ok(())));
    assert_eq!(
        tracer.swap.active().map(|active| active.digest),
        Some(digest(2))
    );
    let trapped = Failure::new(Reason::Host, "no thread");
    tracer.change_to(20_000, 3);
    tracer.input(20_200, Input::Compiled(Generation(5), Ok(())));
    tracer.input(20_200, Input::Checked(Generation(5), Err(trapped)));
    assert_eq!(tracer.swap.quarantined(), Some(digest(3)));
}

#[test]
fn a_bad_first_file_leaves_nothing_active_and_is_replaced_by_a_good_one() {
    let mut tracer = Tracer::new();
    tracer
        .input(0, Input::Start(None))
        .probed(0, 9)
        .prepared(1, 1);
    tracer.input(2, Input::CutOver(Generation(1), Err(trap())));
    assert_eq!(tracer.swap.active(), None);
    tracer.change_to(100, 1).prepared(300, 2);
    tracer.input(310, Input::CutOver(Generation(2), Ok(())));
    assert_eq!(tracer.swap.state(), State::Active(Generation(2)));
}

/// What may happen next, in words the machine must survive in any order.
#[derive(Clone, Debug)]
enum Move {
    Change,
    /// Writes build 0..4 and answers the probe under way.
    Probe(Option<u8>),
    /// Answers the job under way, well or badly.
    Answer(bool),
    /// Answers a job nobody waits for.
    Stale(u64),
    Served,
    Faults,
    Trouble,
    Again,
    Revert,
    /// A signature appears or changes.
    Trust,
    Wait(u16),
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        2 => Just(Move::Change),
        4 => proptest::option::weighted(0.9, 0_u8..4).prop_map(Move::Probe),
        6 => proptest::bool::weighted(0.8).prop_map(Move::Answer),
        1 => (0_u64..6).prop_map(Move::Stale),
        1 => Just(Move::Served),
        1 => Just(Move::Faults),
        1 => Just(Move::Again),
        1 => Just(Move::Revert),
        1 => Just(Move::Trouble),
        1 => Just(Move::Trust),
        4 => (0_u16..20_000).prop_map(Move::Wait),
    ]
}

/// An independent account of who serves, kept from the outputs alone.
#[derive(Default)]
struct Witness {
    serving: Option<Build>,
    kept: Option<Build>,
    warmed: Option<Build>,
    /// What served before.
    before: Option<Digest>,
    failed: Option<Digest>,
    last_generation: u64,
}

impl Witness {
    fn see(&mut self, output: &Output) {
        match output {
            Output::Recall(build) => {
                assert!(
                    build.generation.0 > self.last_generation,
                    "a number is reused"
                );
                assert_eq!(self.before, Some(build.digest), "brings back another");
                self.last_generation = build.generation.0;
            }
            Output::CompileKept(build) => {
                assert_eq!((self.serving, self.last_generation), (None, 0), "not first");
                self.last_generation = build.generation.0;
            }
            Output::Probe { .. } | Output::Check(_) | Output::Discard(_) => {}
            Output::Compile(build) => {
                assert_ne!(
                    self.failed,
                    Some(build.digest),
                    "a failed build is tried again"
                );
                assert!(
                    build.generation.0 > self.last_generation,
                    "a number is reused"
                );
                assert_ne!(self.serving.map(|b| b.digest), Some(build.digest));
                self.last_generation = build.generation.0;
            }
            Output::Warm(build) => self.warmed = Some(*build),
            Output::CutOver(build) => {
                assert_eq!(self.warmed, Some(*build), "cut over without a warm-up");
                assert_eq!(self.kept, None, "three generations at once");
            }
            Output::RollBack { from, to } => {
                assert!(
                    self.serving == Some(*to)
                        || (self.serving == Some(*from) && self.kept == Some(*to))
                );
                self.serving = Some(*to);
                self.kept = None;
                self.failed = Some(from.digest);
            }
            Output::Retire(build) => assert_eq!(self.kept.take(), Some(*build)),
            Output::Report(Report::Loaded(build)) => {
                assert_eq!(self.serving, None);
                self.serving = Some(*build);
                self.failed = None;
            }
            Output::Report(Report::Swapped { from, to }) => {
                assert_eq!(self.serving, Some(*from));
                self.serving = Some(*to);
                self.kept = Some(*from);
                self.before = Some(from.digest);
                self.failed = None;
            }
            Output::Report(Report::Refused { candidate, .. }) => {
                assert_ne!(self.serving, Some(*candidate));
                self.failed = Some(candidate.digest);
            }
            Output::Report(
                Report::RolledBack { .. }
                | Report::Proved(_)
                | Report::Missing(_)
                | Report::Unchanged(_)
                | Report::Shunned(_)
                | Report::PutBack(_),
            ) => {}
        }
    }
}

fn answer(swap: &mut Swap, now: Instant, good: bool) {
    let result = if good { Ok(()) } else { Err(trap()) };
    let input = match swap.state() {
        State::Compiling(build) => Input::Compiled(build.generation, result),
        State::Checking(build) => Input::Checked(build.generation, result),
        State::Warming { candidate, .. } => Input::Warmed(candidate.generation, result),
        State::Cutover { candidate, .. } => Input::CutOver(candidate.generation, result),
        State::RollingBack { .. } => Input::RolledBack(Generation(swap.generations)),
        State::Empty
        | State::Active(_)
        | State::Settling { .. }
        | State::Probing
        | State::Draining { .. }
        | State::Quarantined(_) => return,
    };
    swap.handle(now, input);
}

proptest! {
    #[test]
    fn one_generation_serves_whatever_happens(
        kept in proptest::option::of(0..4_u8),
        started in 0..3_usize,
        steps in proptest::collection::vec(any_move(), 4..120),
    ) {
        let mut swap = Swap::new(SETTINGS);
        let mut witness = Witness::default();
        let mut now = Instant::ZERO;
        for (at, step) in steps.into_iter().enumerate() {
            if at == started {
                prop_assert_eq!((swap.generations, swap.probes), (0, 0), "it began by itself");
                swap.handle(now, Input::Start(kept.map(digest)));
                while let Some(output) = swap.poll_output() {
                    witness.see(&output);
                }
            }
            let before = swap.active();
            match step {
                Move::Change => swap.handle(now, Input::FileChanged),
                Move::Trust => swap.handle(now, Input::TrustChanged),
                Move::Probe(seed) => {
                    let probe = swap.probes;
                    if seed.is_some_and(|seed| Some(digest(seed)) != swap.quarantined()) {
                        // The file holds something else now, so the quarantine may end.
                        witness.failed = swap.quarantined();
                    }
                    swap.handle(now, Input::Probed { probe, digest: seed.map(digest).ok_or(NoFile::Absent) });
                    witness.failed = swap.quarantined();
                }
                Move::Answer(good) => answer(&mut swap, now, good),
                Move::Stale(generation) => {
                    let stale = Generation(generation + 1_000);
                    swap.handle(now, Input::Warmed(stale, Ok(())));
                    swap.handle(now, Input::CutOver(stale, Ok(())));
                    swap.handle(now, Input::Troubled(stale, trap()));
                    swap.handle(now, Input::RolledBack(stale));
                    prop_assert_eq!(swap.active(), before);
                }
                Move::Served => if let Some(active) = swap.active() {
                    swap.handle(now, Input::Served(active.generation, Served { calls: 25, ..Served::default() }));
                },
                Move::Faults => if let Some(active) = swap.active() {
                    swap.handle(now, Input::Served(active.generation, Served { faults: 25, ..Served::default() }));
                },
                Move::Again => {
                    swap.handle(now, Input::Again);
                    witness.failed = swap.quarantined();
                }
                Move::Revert => swap.handle(now, Input::Revert),
                Move::Trouble => if let Some(active) = swap.active() {
                    swap.handle(now, Input::Troubled(active.generation, trap()));
                },
                Move::Wait(ms) => {
                    now = now + Duration::from_millis(u64::from(ms));
                    swap.handle_timeout(now);
                }
            }
            while let Some(output) = swap.poll_output() {
                witness.see(&output);
            }
            prop_assert_eq!(swap.active(), witness.serving);
            prop_assert!(before.is_none() || swap.active().is_some(), "nobody serves any more");
            if let Some((at, _)) = swap.poll_timeout() {
                prop_assert!(at <= now + TERMS.duration_max);
            }
        }
        // Heal: every job answers well and the file holds one good build; it must come to serve.
        let good = 200;
        swap.handle(now, Input::FileChanged);
        for _ in 0..40 {
            match swap.state() {
                State::Probing => {
                    let probe = swap.probes;
                    swap.handle(now, Input::Probed { probe, digest: Ok(digest(good)) });
                }
                State::Settling { until } => { now = until; swap.handle_timeout(now); }
                State::Empty | State::Active(_) | State::Draining { .. } | State::Quarantined(_) => {}
                State::Compiling(_)
                | State::Checking(_)
                | State::Warming { .. }
                | State::Cutover { .. }
                | State::RollingBack { .. } => answer(&mut swap, now, true),
            }
            while let Some(output) = swap.poll_output() {
                witness.see(&output);
            }
        }
        prop_assert_eq!(swap.active().map(|build| build.digest), Some(digest(good)));
    }
}
