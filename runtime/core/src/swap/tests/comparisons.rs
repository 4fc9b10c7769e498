//! An operator's order, and the alarms of a probation.

use super::*;

/// Lets the active generation do something every half second, from `from` to `to`, in milliseconds.
fn works(tracer: &mut Tracer, generation: u64, from: u64, to: u64, each: Served) {
    let start = from.div_ceil(500) * 500;
    for (n, ms) in (start..=to).step_by(500).enumerate() {
        let n = n as u64 + 1;
        let served = Served {
            calls: each.calls * n,
            faults: each.faults * n,
            emitted: each.emitted * n,
            turned_back: each.turned_back * n,
        };
        tracer.input(ms, Input::Served(Generation(generation), served));
        tracer.time(ms);
    }
}

const GOOD: Served = Served {
    calls: 5,
    faults: 0,
    emitted: 50,
    turned_back: 0,
};

/// The first generation works well until 10 s, then the second one takes over.
fn swapped() -> Tracer {
    swapped_after(GOOD)
}

fn swapped_after(before: Served) -> Tracer {
    let mut tracer = Tracer::new();
    works(tracer.first(), 1, 0, 10_000, before);
    tracer.change_to(9_800, 2).prepared(10_000, 2);
    tracer.input(10_000, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    tracer
}

#[test]
fn one_that_works_as_the_one_before_has_proved_itself_when_its_time_is_over() {
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 20_000, GOOD);
    tracer.expect("+16.000s retire g1:010101010101\n+16.000s report proved g2:020202020202");
}

#[test]
fn one_that_has_too_few_calls_stays_on_probation_however_long_it_serves() {
    let mut tracer = swapped();
    let slow = Served { calls: 1, ..GOOD };
    works(&mut tracer, 2, 10_500, 20_000, slow);
    tracer.expect("+20.000s retire g1:010101010101\n+20.000s report proved g2:020202020202");
}

#[test]
fn one_that_says_nothing_is_taken_back_long_before_its_time_is_over() {
    let mut tracer = swapped();
    works(
        &mut tracer,
        2,
        10_500,
        20_000,
        Served { emitted: 0, ..GOOD },
    );
    tracer.input(20_100, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+12.500s roll back g2:020202020202 to g1:010101010101
         +20.100s report rolled back g2:020202020202 g1:010101010101 at probation: fell silent: nothing was emitted for 2.5 s; the generation before paused for at most 0.5 s",
    );
    assert_eq!(
        tracer.swap.active().map(|b| b.generation),
        Some(Generation(1))
    );
}

#[test]
fn one_that_says_much_less_is_taken_back_at_the_end() {
    let mut tracer = swapped();
    works(
        &mut tracer,
        2,
        10_500,
        16_000,
        Served { emitted: 9, ..GOOD },
    );
    tracer.input(16_100, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+16.000s roll back g2:020202020202 to g1:010101010101
         +16.100s report rolled back g2:020202020202 g1:010101010101 at probation: fell silent: 108 readings were emitted in 6.0 s; the generation before emitted 600 in 6.0 s",
    );
}

#[test]
fn one_that_says_less_but_enough_stays() {
    let mut tracer = swapped();
    works(
        &mut tracer,
        2,
        10_500,
        16_000,
        Served {
            emitted: 11,
            ..GOOD
        },
    );
    tracer.expect("+16.000s retire g1:010101010101\n+16.000s report proved g2:020202020202");
}

/// Each of these fell silent, and none is to blame.
#[test]
fn silence_is_no_alarm_where_nothing_was_said_before_or_the_host_refuses() {
    let quiet = Served { emitted: 0, ..GOOD };
    let refused = Served {
        turned_back: 1,
        ..quiet
    };
    for (before, after) in [(quiet, quiet), (GOOD, refused)] {
        let mut tracer = swapped_after(before);
        works(&mut tracer, 2, 10_500, 16_000, after);
        tracer.expect("+16.000s retire g1:010101010101\n+16.000s report proved g2:020202020202");
    }
    // Once in five seconds is not regular where the probation lasts six.
    let mut tracer = Tracer::new();
    tracer.first();
    for ms in (0..10_000).step_by(500) {
        let served = Served {
            emitted: ms / 5_000,
            ..GOOD
        };
        tracer.input(ms, Input::Served(Generation(1), served));
    }
    tracer.change_to(9_800, 2).prepared(10_000, 2);
    tracer.input(10_000, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    works(&mut tracer, 2, 10_500, 16_000, quiet);
    tracer.expect("+16.000s retire g1:010101010101\n+16.000s report proved g2:020202020202");
}

#[test]
fn one_whose_calls_end_with_faults_is_taken_back_unless_those_of_the_one_before_did() {
    let faulty = Served {
        calls: 6,
        faults: 4,
        ..GOOD
    };
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 11_500, faulty);
    tracer.input(11_600, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+11.000s roll back g2:020202020202 to g1:010101010101
         +11.600s report rolled back g2:020202020202 g1:010101010101 at probation: failed too often: 8 of 20 calls ended with a fault; of the generation before, 0 of 60",
    );
    let mut tracer = swapped_after(faulty);
    works(&mut tracer, 2, 10_500, 16_000, faulty);
    tracer.expect("+16.000s retire g1:010101010101\n+16.000s report proved g2:020202020202");
}

#[test]
fn what_counts_of_the_one_before_is_its_last_stretch() {
    let mut tracer = Tracer::new();
    works(tracer.first(), 1, 0, 100_000, GOOD);
    // It spoke for a hundred seconds and was silent for the last seven.
    let last = Served {
        calls: 1_100,
        emitted: 50 * 201,
        ..Served::default()
    };
    for ms in (100_500..107_500).step_by(500) {
        tracer.input(ms, Input::Served(Generation(1), last));
    }
    tracer.change_to(107_300, 2).prepared(107_500, 2);
    tracer.input(107_500, Input::CutOver(Generation(2), Ok(())));
    tracer.trace.clear();
    works(
        &mut tracer,
        2,
        108_000,
        113_500,
        Served { emitted: 0, ..GOOD },
    );
    tracer.expect("+113.500s retire g1:010101010101\n+113.500s report proved g2:020202020202");
}

#[test]
fn an_operator_takes_a_generation_back_while_it_is_on_probation() {
    let mut tracer = swapped();
    assert!(tracer.swap.can_revert());
    tracer.input(10_100, Input::Revert);
    tracer.input(10_200, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+10.100s roll back g2:020202020202 to g1:010101010101
         +10.200s report rolled back g2:020202020202 g1:010101010101 at probation: was taken back: an operator ordered the generation before",
    );
    assert!(!tracer.swap.can_revert());
    tracer.trace.clear();
    tracer.input(10_300, Input::Revert);
    tracer.expect("");
    assert_eq!(tracer.swap.state(), State::Quarantined(digest(2)));
}

/// The gateway once took what it had put back for the next start for a new build, and the good change between them was gone.
#[test]
fn what_is_put_back_for_the_next_start_does_not_replace_what_serves() {
    let mut tracer = swapped();
    tracer.change_to(10_100, 3).prepared(10_400, 3);
    tracer.input(10_500, Input::CutOver(Generation(3), Ok(())));
    tracer.trace.clear();
    tracer.input(10_600, Input::Troubled(Generation(3), trap()));
    tracer.input(10_700, Input::RolledBack(Generation(3)));
    // The file changes in the moment before, and in that in which it is put back.
    tracer.change_to(11_000, 3);
    tracer.input(11_900, Input::PutBack(digest(1)));
    tracer.change_to(12_000, 1);
    tracer.expect(
        "+10.600s roll back g3:030303030303 to g2:020202020202
         +10.700s report rolled back g3:030303030303 g2:020202020202 at probation: trapped: unreachable
         +11.100s probe 6
         +11.200s probe 7
         +11.200s report shunned 030303030303
         +12.100s probe 8
         +12.200s probe 9
         +12.200s report put back 010101010101",
    );
    tracer.trace.clear();
    // An operator may want it all the same, and another build is another build.
    tracer.input(13_000, Input::Ordered);
    tracer.time(13_100).probed(13_100, 1);
    tracer.time(13_200).probed(13_200, 1);
    tracer.expect("+13.100s probe 10\n+13.200s probe 11\n+13.200s compile g4:010101010101");
}

/// An operator who put the good build there himself was once told that it had failed.
#[test]
fn what_the_host_has_not_put_back_is_a_candidate() {
    let mut tracer = swapped();
    tracer.change_to(10_100, 3).prepared(10_400, 3);
    tracer.input(10_500, Input::CutOver(Generation(3), Ok(())));
    tracer.input(10_600, Input::Troubled(Generation(3), trap()));
    tracer.input(10_700, Input::RolledBack(Generation(3)));
    let mut forgotten = tracer.swap.clone();
    tracer.trace.clear();
    tracer.change_to(12_000, 1);
    tracer.expect("+12.100s probe 6\n+12.200s probe 7\n+12.200s compile g4:010101010101");
    // Nor is it one no more once another has been there.
    forgotten.handle(at(11_000), Input::PutBack(digest(1)));
    let mut tracer = Tracer {
        swap: forgotten,
        trace: String::new(),
    };
    tracer.change_to(12_000, 2).change_to(13_000, 1);
    tracer.expect(
        "+12.100s probe 6
         +12.200s probe 7
         +12.200s report unchanged g2:020202020202
         +13.100s probe 8
         +13.200s probe 9
         +13.200s compile g4:010101010101",
    );
}

#[test]
fn an_operator_takes_a_proved_generation_back_and_forth() {
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 16_000, GOOD);
    tracer.trace.clear();
    tracer.input(20_000, Input::Revert).prepared(20_001, 3);
    tracer.input(20_002, Input::CutOver(Generation(3), Ok(())));
    // The file still holds the build that was taken back.
    tracer.change_to(21_000, 2);
    tracer.expect(
        "+20.000s recall g3:010101010101
         +20.001s check g3:010101010101
         +20.001s warm g3:010101010101
         +20.001s cut over g3:010101010101
         +20.002s report swapped g2:020202020202 g3:010101010101
         +21.100s probe 4
         +21.200s probe 5
         +21.200s report shunned 020202020202",
    );
    tracer.trace.clear();
    // Until somebody wants it all the same.
    tracer.input(22_000, Input::Again);
    tracer.time(22_100).probed(22_100, 2);
    tracer.time(22_200).probed(22_200, 2);
    tracer.expect("+22.100s probe 6\n+22.200s probe 7\n+22.200s compile g4:020202020202");
}

#[test]
fn a_signature_does_not_free_a_build_that_was_taken_back() {
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 16_000, GOOD);
    // The build that is refused for want of trust is another one.
    tracer.change_to(17_000, 3);
    let unsigned = Failure::new(Reason::Unsigned, "no plugin.wasm.minisig");
    tracer.input(17_300, Input::Compiled(Generation(3), Err(unsigned)));
    tracer.input(20_000, Input::Revert).prepared(20_001, 4);
    tracer.input(20_002, Input::CutOver(Generation(4), Ok(())));
    tracer.trace.clear();
    tracer.input(21_000, Input::TrustChanged).time(21_100);
    tracer.probed(21_100, 2).time(21_200).probed(21_200, 2);
    tracer.expect(
        "+21.100s probe 6
         +21.200s probe 7
         +21.200s report shunned 020202020202",
    );
}

#[test]
fn a_recalled_build_that_fails_is_refused_and_the_active_one_stays() {
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 16_000, GOOD);
    tracer.trace.clear();
    tracer.input(20_000, Input::Revert);
    tracer.input(20_001, Input::Compiled(Generation(3), Err(trap())));
    tracer.expect(
        "+20.000s recall g3:010101010101
         +20.001s discard g3:010101010101
         +20.001s report refused g3:010101010101 at compile: trapped: unreachable",
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(2)));
    assert!(tracer.swap.can_revert());
}

#[test]
fn a_failed_cut_over_takes_no_way_back_away() {
    let mut tracer = swapped();
    works(&mut tracer, 2, 10_500, 16_000, GOOD);
    tracer.change_to(17_000, 3).prepared(17_200, 3);
    assert!(!tracer.swap.can_revert(), "a cut-over is under way");
    tracer.input(17_300, Input::CutOver(Generation(3), Err(trap())));
    tracer.input(17_400, Input::RolledBack(Generation(3)));
    assert_eq!(tracer.swap.previous().map(|b| b.digest), Some(digest(1)));
    assert!(tracer.swap.can_revert());
}
