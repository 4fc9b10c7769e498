//! What a process begins with whose predecessor ended during a probation.

use super::*;

#[test]
fn what_had_proved_itself_comes_first_and_the_files_build_on_probation() {
    let mut tracer = Tracer::new();
    tracer.input(0, Input::Start(Some(digest(1))));
    tracer.prepared(5, 1);
    tracer.input(6, Input::CutOver(Generation(1), Ok(())));
    tracer.time(106).probed(110, 2);
    tracer.time(210).probed(212, 2).prepared(220, 2);
    tracer.input(221, Input::CutOver(Generation(2), Ok(())));
    assert!(matches!(tracer.swap.state(), State::Draining { .. }));
    tracer.input(400, Input::Troubled(Generation(2), trap()));
    tracer.input(401, Input::RolledBack(Generation(2)));
    tracer.expect(
        "+0.000s compile g1:010101010101, which is kept
         +0.005s check g1:010101010101
         +0.005s warm g1:010101010101
         +0.005s cut over g1:010101010101
         +0.006s report loaded g1:010101010101
         +0.106s probe 1
         +0.210s probe 2
         +0.212s compile g2:020202020202
         +0.220s check g2:020202020202
         +0.220s warm g2:020202020202
         +0.220s cut over g2:020202020202
         +0.221s report swapped g1:010101010101 g2:020202020202
         +0.400s roll back g2:020202020202 to g1:010101010101
         +0.401s report rolled back g2:020202020202 g1:010101010101 at probation: trapped: unreachable",
    );
}

#[test]
fn a_kept_build_that_cannot_be_loaded_makes_room_for_the_files() {
    let gone = Failure::new(Reason::Unreadable, "line.wasm.before: not there");
    let starved = Failure::new(Reason::Host, "no process");
    for (failed, shunned) in [(gone, Some(digest(1))), (starved, None)] {
        let mut tracer = Tracer::new();
        tracer.input(0, Input::Start(Some(digest(1))));
        tracer.input(5, Input::Compiled(Generation(1), Err(failed)));
        assert_eq!(tracer.swap.quarantined(), shunned);
        tracer.time(105).probed(105, 2);
        tracer.time(205).probed(205, 2).prepared(210, 2);
        tracer.input(211, Input::CutOver(Generation(2), Ok(())));
        assert_eq!(tracer.swap.state(), State::Active(Generation(2)));
    }
}

#[test]
fn what_had_proved_itself_and_lies_in_the_file_fails_once() {
    let mut tracer = Tracer::new();
    tracer.input(0, Input::Start(Some(digest(1))));
    tracer.input(5, Input::Compiled(Generation(1), Err(trap())));
    tracer.trace.clear();
    tracer.time(105).probed(105, 1).time(205).probed(205, 1);
    tracer.expect(
        "+0.105s probe 1
         +0.205s probe 2
         +0.205s report shunned 010101010101",
    );
}

#[test]
fn nothing_begins_before_it_is_known_what_comes_first() {
    let early = || {
        let mut tracer = Tracer::new();
        tracer
            .input(0, Input::FileChanged)
            .input(50, Input::Ordered);
        tracer.time(100).time(10_000).expect("");
        assert_eq!(tracer.swap.state(), State::Empty);
        tracer
    };
    let mut tracer = early();
    tracer
        .input(10_001, Input::Start(Some(digest(1))))
        .prepared(10_005, 1);
    tracer.input(10_006, Input::CutOver(Generation(1), Ok(())));
    assert_eq!(tracer.swap.active().map(|b| b.digest), Some(digest(1)));
    // Another word of it is none.
    tracer.trace.clear();
    tracer
        .input(10_007, Input::Start(Some(digest(3))))
        .expect("");
    // The first look sees what has changed until then.
    let mut tracer = early();
    tracer
        .input(10_001, Input::Start(None))
        .probed(10_002, 2)
        .prepared(10_005, 1);
    tracer.input(10_006, Input::CutOver(Generation(1), Ok(())));
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
}

#[test]
fn a_change_of_the_file_does_not_push_out_what_comes_first() {
    let mut tracer = Tracer::new();
    tracer.input(0, Input::Start(Some(digest(1))));
    tracer
        .input(1, Input::FileChanged)
        .input(2, Input::TrustChanged);
    tracer.prepared(5, 1);
    tracer.input(6, Input::CutOver(Generation(1), Ok(())));
    assert_eq!(tracer.swap.active().map(|b| b.digest), Some(digest(1)));
    tracer.trace.clear();
    // The file holds the same, now.
    tracer.time(106).probed(106, 1).time(206).probed(206, 1);
    tracer.expect(
        "+0.106s probe 1
         +0.206s probe 2
         +0.206s report unchanged g1:010101010101",
    );
    assert_eq!(tracer.swap.state(), State::Active(Generation(1)));
}
