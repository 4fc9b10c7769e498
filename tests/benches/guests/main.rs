//! What a guest costs, language by language: to compile, to load, to instantiate, to call, to keep in memory; what its limits
//! cost; and how much of a native connector's rate is left to a component.
//!
//! The guests are `tests/guests/burst-connector` and the `burst-*` beside this file, which do the same in each language, built as `moorline plugin build` builds
//! everybody's. A language whose tools cannot be had here is said and left out. Memory is measured in processes of its own:
//! this binary starts itself again. `-- steps calls memory limits native` names the parts that are wanted, `-- Rust C
//! JavaScript Python` the languages; without, all are.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod calls;
mod host;
mod limits;
mod memory;
mod native;
mod steps;

use std::ffi::OsString;
use std::path::PathBuf;

use moorline::plugins::Limits;
use moorline_tests::plugins::Guest;

/// CPython needs more than the default.
const MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// A language and its guest.
pub(crate) struct Language {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// The same bytes.
    pub(crate) component: PathBuf,
}

/// One line of the table: a figure for each language.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) figures: Vec<f64>,
    pub(crate) decimals: usize,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, decimals: usize) -> Self {
        Self {
            what: what.into(),
            figures: Vec::new(),
            decimals,
        }
    }

    fn print(&self) {
        print!("{:<52}", self.what);
        for figure in &self.figures {
            print!("{figure:>14.*}", self.decimals);
        }
        println!();
    }
}

/// What is measured is the way, not the gates in it.
pub(crate) fn limits() -> Limits {
    Limits {
        memory_bytes: MEMORY_BYTES,
        cpu_percent: 100,
        emit_readings_per_s: u64::MAX,
        ..Limits::default()
    }
}

pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match memory::Asked::of(&arguments) {
        Some(asked) => runtime.block_on(memory::answer(asked)),
        None => runtime.block_on(all(&Wanted::of(&arguments))),
    }
}

const PARTS: [&str; 5] = ["steps", "calls", "memory", "limits", "native"];
const LANGUAGES: [&str; 4] = ["Rust", "C", "JavaScript", "Python"];

/// What is wanted; of the parts or of the languages none named = all.
struct Wanted(Vec<String>);

impl Wanted {
    fn of(arguments: &[OsString]) -> Self {
        let words = arguments
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        // Cargo adds options of its own.
        Self(words.filter(|word| !word.starts_with('-')).collect())
    }

    fn part(&self, part: &str) -> bool {
        self.has(&PARTS, part)
    }

    fn language(&self, language: &str) -> bool {
        self.has(&LANGUAGES, language)
    }

    fn has(&self, all: &[&str], one: &str) -> bool {
        let mut named = self.0.iter().filter(|word| all.contains(&word.as_str()));
        self.0.iter().any(|word| word == one) || named.next().is_none()
    }
}

async fn all(wanted: &Wanted) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let languages = languages(directory.path(), wanted);
    println!("one guest that does the same in each language; medians");
    print!("{:<52}", "");
    for language in &languages {
        print!("{:>14}", language.name);
    }
    println!();
    let place = directory.path();
    if wanted.part("steps") {
        print(&steps::measure(&languages, place).await);
    }
    if wanted.part("calls") {
        print(&calls::measure(&languages, place).await);
    }
    if wanted.part("memory") {
        print(&memory::measure(&languages, place));
    }
    if wanted.part("limits") {
        print(&limits::measure(&languages, place).await);
    }
    if wanted.part("native") {
        native::measure(&languages, place).await;
    }
}

fn print(rows: &[Row]) {
    rows.iter().for_each(Row::print);
}

fn languages(directory: &std::path::Path, wanted: &Wanted) -> Vec<Language> {
    let [c, javascript, python] = Guest::BURSTS;
    let guests = [Guest::BURST, c, javascript, python];
    let mut languages = Vec::new();
    let all = LANGUAGES.into_iter().zip(guests);
    for (name, guest) in all.filter(|(name, _)| wanted.language(name)) {
        let Some(bytes) = guest.try_bytes() else {
            println!("{name}: left out, its tools cannot be had here");
            continue;
        };
        let component = directory.join(name).with_extension("wasm");
        std::fs::write(&component, &bytes).expect("a file");
        languages.push(Language {
            name,
            bytes,
            component,
        });
    }
    languages
}
