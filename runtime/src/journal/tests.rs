//! The files, and what a reader makes of them.

use std::fs;
use std::path::Path;

use super::pages::{DIRECTORY, LINE_BYTES_MAX, Pages, file, old_file};
use super::{FILE_BYTES_MAX, Journal, LINK, Transition, UpEntry};
use crate::status::DisconnectEntry;

const ALL: usize = usize::MAX;

fn up(session: u64) -> Transition {
    Transition::Up(UpEntry {
        at_ms: session,
        session,
        mqtt_version: "5.0".into(),
        ..UpEntry::default()
    })
}

fn ended(id: u64, text_bytes: usize) -> Transition {
    Transition::Ended(Box::new(DisconnectEntry {
        id,
        cause: "reset".into(),
        text: "x".repeat(text_bytes),
        ..DisconnectEntry::default()
    }))
}

fn bytes(state_dir: &Path, file: &str) -> u64 {
    fs::metadata(state_dir.join(DIRECTORY).join(file)).map_or(0, |file| file.len())
}

#[test]
fn what_is_written_is_read_by_the_next_process() {
    let state = tempfile::tempdir().unwrap();
    assert_eq!(
        Journal::read(state.path(), ALL).unwrap(),
        Journal::default()
    );
    Pages::new(state.path(), LINK)
        .append(&[up(1), ended(1, 10)])
        .unwrap();
    Pages::new(state.path(), LINK).append(&[up(2)]).unwrap();
    let journal = Journal::read(state.path(), ALL).unwrap();
    assert_eq!(journal.transitions, [up(1), ended(1, 10), up(2)]);
    assert_eq!(journal.skipped, 0);
    assert_eq!(Journal::read(state.path(), 1).unwrap().transitions, [up(2)]);
}

#[test]
fn a_line_cut_by_a_power_loss_costs_only_itself() {
    let state = tempfile::tempdir().unwrap();
    Pages::new(state.path(), LINK)
        .append(&[up(1), up(2)])
        .unwrap();
    let file = state.path().join(DIRECTORY).join(file(LINK));
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    Pages::new(state.path(), LINK).append(&[up(3)]).unwrap();
    let journal = Journal::read(state.path(), ALL).unwrap();
    assert_eq!(journal.transitions, [up(1), up(3)]);
    assert_eq!(journal.skipped, 1);
}

#[test]
fn foreign_lines_are_skipped_and_cost_bounded_memory() {
    let state = tempfile::tempdir().unwrap();
    Pages::new(state.path(), LINK).append(&[up(1)]).unwrap();
    let file = state.path().join(DIRECTORY).join(file(LINK));
    let mut text = fs::read(&file).unwrap();
    text.extend_from_slice(b"{\"v\":2,\"up\":{}}\n\xff\xfe\n{}\n");
    text.extend(std::iter::repeat_n(b'x', 300_000));
    fs::write(&file, text).unwrap();
    let journal = Journal::read(state.path(), ALL).unwrap();
    assert_eq!(journal.transitions, [up(1)]);
    assert_eq!(journal.skipped, 3 + 300_000_u64.div_ceil(LINE_BYTES_MAX));
}

#[test]
fn two_files_bound_what_a_flapping_link_can_write() {
    let state = tempfile::tempdir().unwrap();
    let mut pages = Pages::new(state.path(), LINK);
    let entry_bytes = 2_000;
    let entries = 4 * FILE_BYTES_MAX / entry_bytes;
    for id in 1..=entries {
        pages.append(&[ended(id, entry_bytes as usize)]).unwrap();
    }
    let bound = FILE_BYTES_MAX + 2 * entry_bytes;
    assert!(
        bytes(state.path(), &file(LINK)) < bound && bytes(state.path(), &old_file(LINK)) < bound
    );
    let journal = Journal::read(state.path(), ALL).unwrap();
    assert_eq!(
        journal.transitions.last(),
        Some(&ended(entries, entry_bytes as usize))
    );
    assert!(journal.transitions.len() as u64 > FILE_BYTES_MAX / (2 * entry_bytes));
}
