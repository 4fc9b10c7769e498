use std::time::Duration;

use moorline_core::fleet::{Overload, Scenario};
use moorline_core::link::Settings;

use super::*;

fn scenario() -> Scenario {
    Scenario {
        gateways: 200,
        outage: Duration::from_secs(40),
        accept_per_s: 50,
        backlog: 100,
        overload: Overload::Busy,
        connack_timeout: Duration::from_secs(10),
        seed: 3,
        link: Settings::default(),
        local_time: None,
        metered: false,
    }
}

fn played(builtins: &[Builtin]) -> Vec<Played> {
    let played = builtins
        .iter()
        .map(|builtin| Contender::builtin(*builtin).play(&scenario(), &mut |_, _, _| {}));
    played.map(|one| one.unwrap()).collect()
}

#[test]
fn the_table_names_every_policy_and_lines_its_columns_up() {
    let played = played(&[Builtin::FullJitter, Builtin::Fixed15s, Builtin::Immediate]);
    let text = table(&scenario(), &played, false);
    assert!(!text.contains('\x1b'), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("200 gateways; broker away for 40 s"));
    assert!(lines[3].starts_with("full-jitter  built-in"), "{text}");
    assert!(
        lines[4].starts_with("fixed-15s    peer, unclamped"),
        "{text}"
    );
    // Fixed 15 s is inside the bounds, 0 s is not.
    assert!(lines[4].ends_with("(0)") && !lines[5].ends_with("(0)"));
    assert_eq!(lines[3].len(), lines[4].len());
    assert!(table(&scenario(), &played, true).contains("\x1b[1mpolicy"));
}

#[test]
fn the_picture_is_the_same_each_time_and_holds_what_it_should() {
    let mut played = played(&[Builtin::FullJitter, Builtin::ExponentialNoJitter]);
    played[0].name = "<script>&".to_owned();
    let svg = chart(&scenario(), &played);
    assert_eq!(svg, chart(&scenario(), &played));
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("&lt;script&gt;&amp; (built into Moorline)"));
    assert!(svg.contains("exponential-no-jitter (peer, unclamped)"));
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
    // Its outline, its milestones and the limit, for each row.
    assert!(svg.matches("class=\"l\"").count() == 3 && svg.matches("fill=\"#").count() > 3);
}

#[test]
fn a_fleet_without_attempts_can_be_drawn_too() {
    let svg = chart(&scenario(), &[]);
    assert!(!svg.contains("NaN"), "{svg}");
}

#[test]
fn names_are_shown_without_what_a_terminal_would_obey() {
    assert_eq!(harmless("\x1b[2Jevil\n"), "?[2Jevil?");
    assert_eq!(harmless(&"x".repeat(99)).len(), NAME_CHARS_MAX);
}

#[test]
fn policies_of_the_same_name_are_told_apart_by_their_files() {
    let mut contenders =
        [Builtin::FullJitter, Builtin::FullJitter, Builtin::Fixed15s].map(Contender::builtin);
    contenders[1].file = Some("dir/patient.wasm".into());
    tell_apart(&mut contenders);
    let names = contenders.map(|contender| contender.name);
    assert_eq!(names, ["full-jitter", "full-jitter [patient]", "fixed-15s"]);
}
