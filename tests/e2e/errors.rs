//! The judge of every gateway's log ([`moorline_tests::errors`]) itself.

use moorline_tests::errors::{Provoked, judge};

const LOG: &str = r#"{"level":"INFO","message":"the link is up"}
{"level":"ERROR","message":"plugin refused: it traps: ERROR","component":"a"}
{"level":"WARN","message":"no ERROR"}
{"level":"ERROR","message":"the spool was not committed at the end"}
thread 'main' panicked at src/main.rs:1:1:
"#;

#[test]
fn an_error_is_explained_by_what_was_declared_and_by_nothing_else() {
    assert_eq!(judge(LOG, &[]).len(), 3, "two errors and a panic");
    let left = judge(LOG, &[Provoked::CandidateRefused]);
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left[0].contains("not committed") && left[1].contains("panicked"),
        "{left:?}"
    );
}

#[test]
fn what_was_declared_must_come() {
    let left = judge("", &[Provoked::PolicyFailed]);
    assert_eq!(left, ["expected and not logged: PolicyFailed"]);
}
