//! Compiling components, each in a process of its own.
//!
//! Cranelift takes what time and memory a function makes it take, and nothing interrupts it: half a megabyte of one function with
//! many locals in nested loops takes gigabytes and minutes. So the program starts itself again for each component. The child has
//! bounds of its own, gives way to everybody, is the first to go when the system has no memory left, and ends with its parent.
//!
//! ```text
//!  parent                                child: moorline compile-component KIND
//!    component ──────── stdin ────────►   sets its bounds, compiles
//!    loads the code ◄── stdout ──────── code, exit 0
//!    a failure ◄─────── stderr ──────── why it is no component, exit 65; or a signal at a bound
//! ```
//!
//! Programs that cannot be started so, tests and benches among them, compile where they are.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use moorline_core::swap::{Failure, Reason};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use wasmtime::component::Component;

use super::cache;
use super::engine::{Kind, config};
use super::heavy;
use super::world::COMPONENT_BYTES_MAX;

/// What a compiling process is asked for, on its command line.
pub const COMMAND: &str = "compile-component";

/// How a child ends that was given no component: EX_DATAERR of sysexits.h.
pub const NO_COMPONENT: u8 = 65;

/// This program, whatever lies at its path by now.
const PROGRAM: &str = "/proc/self/exe";
/// CPU time of one compilation: of any, and more for each MiB of the component. Slow processors take ten times as long as those
/// this was measured on.
const CPU_S: u64 = 30;
const CPU_S_PER_MIB: u64 = 30;
/// Address space of one compilation, the program itself included, and more for each byte of the component. The shipped plugins
/// take a half of it in Python (18 MiB), a third in JavaScript, a quarter in Rust.
const MEMORY_BYTES: u64 = 256 * MIB;
const MEMORY_BYTES_PER_BYTE: u64 = 32;
const MIB: u64 = 1024 * 1024;
/// Characters of what a child says that are repeated.
const SAID_CHARS: usize = 2_000;

static APART: OnceLock<()> = OnceLock::new();

/// From now on components are compiled in processes of their own: this program answers to [`COMMAND`] by [`serve`].
pub fn compile_apart() {
    APART.get_or_init(|| ());
}

/// What compiling a component may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    cpu_s: u64,
    memory_bytes: u64,
}

impl Bounds {
    const fn of(component_bytes: u64) -> Self {
        Self {
            cpu_s: CPU_S + CPU_S_PER_MIB * component_bytes / MIB,
            memory_bytes: MEMORY_BYTES + MEMORY_BYTES_PER_BYTE * component_bytes,
        }
    }

    /// From now on they hold for this process.
    fn hold(self) -> io::Result<()> {
        let bound = |resource, soft, hard| {
            let limit = Rlimit {
                current: Some(soft),
                maximum: Some(hard),
            };
            setrlimit(resource, limit)
        };
        bound(Resource::As, self.memory_bytes, self.memory_bytes)?;
        // At the soft one comes a signal that says which bound it was.
        bound(Resource::Cpu, self.cpu_s, self.cpu_s + 1)?;
        bound(Resource::Core, 0, 0)?;
        Ok(())
    }
}

/// Compiles, here or in a child.
pub(super) fn compile(
    engine: &wasmtime::Engine,
    kind: Kind,
    bytes: &[u8],
) -> Result<Component, Failure> {
    if APART.get().is_none() {
        return Component::from_binary(engine, bytes).map_err(|error| no_component(&error));
    }
    let no_process = |error: io::Error| {
        Failure::new(
            Reason::Host,
            format!("no process to compile it in: {error}"),
        )
    };
    let child = start(kind).map_err(no_process)?;
    let output = answer_of(child, bytes).map_err(no_process)?;
    let code = code_of(output, Bounds::of(bytes.len() as u64))?;
    cache::from_compiler(engine, &code).map_err(|error| {
        Failure::new(
            Reason::Host,
            format!("its code cannot be loaded: {error:#}"),
        )
    })
}

fn no_component(error: &wasmtime::Error) -> Failure {
    Failure::new(Reason::NotAComponent, format!("{error:#}"))
}

fn start(kind: Kind) -> io::Result<Child> {
    Command::new(PROGRAM)
        .args([COMMAND, kind.word()])
        // Secrets among it are none of a compiler's business.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// A child that has ended takes no more: what it ended by says why.
fn answer_of(mut child: Child, bytes: &[u8]) -> io::Result<Output> {
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(bytes) {
            Ok(()) | Err(_) => {}
        }
    }
    child.wait_with_output()
}

/// The code, or whose fault it is that there is none.
fn code_of(output: Output, bounds: Bounds) -> Result<Vec<u8>, Failure> {
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let said: String = String::from_utf8_lossy(&stderr)
        .trim()
        .chars()
        .take(SAID_CHARS)
        .collect();
    let signal = status.signal();
    let is = |known: Signal| signal == Some(known.as_raw());
    let (reason, words) = if status.success() {
        return Ok(stdout);
    } else if status.code() == Some(i32::from(NO_COMPONENT)) {
        (Reason::NotAComponent, said)
    } else if is(Signal::XCPU) {
        let words = format!(
            "compiling it takes more than {} s of processor time; one of its functions is too large, split it",
            bounds.cpu_s
        );
        (Reason::OverLimit, words)
    } else if is(Signal::ABORT) {
        let words = format!(
            "compiling it takes more than {} MiB of memory; one of its functions is too large, split it ({said})",
            bounds.memory_bytes / MIB
        );
        (Reason::OverLimit, words)
    } else {
        (
            Reason::Host,
            format!("its compiler ended with {status} ({said})"),
        )
    };
    Err(Failure::new(reason, words))
}

/// What the child does: a component from standard input, its code to standard output.
///
/// # Errors
/// When the system refuses a bound, or to read or write; within it what is said of a component that is none, for standard error
/// and an end with [`NO_COMPONENT`].
pub fn serve(kind: Kind) -> io::Result<Result<(), String>> {
    match precompile(kind)? {
        Ok(code) => io::stdout().write_all(&code).map(Ok),
        Err(failure) => Ok(Err(failure.detail)),
    }
}

fn precompile(kind: Kind) -> io::Result<Result<Vec<u8>, Failure>> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The bounds hold without it, too.
        std::fs::write("/proc/self/oom_score_adj", "1000").unwrap_or_default();
    }
    heavy::give_way();
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(COMPONENT_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Bounds::of(bytes.len() as u64).hold()?;
    let compiled = wasmtime::Engine::new(&config(kind))
        .and_then(|engine| engine.precompile_component(&bytes))
        .map_err(|error| no_component(&error));
    Ok(compiled)
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    const BOUNDS: Bounds = Bounds::of(2 * MIB);

    fn ended(status: i32, said: &str) -> Failure {
        let output = Output {
            status: ExitStatus::from_raw(status),
            stdout: Vec::new(),
            stderr: said.as_bytes().to_vec(),
        };
        code_of(output, BOUNDS).unwrap_err()
    }

    #[test]
    fn how_a_child_ended_says_whose_fault_it_is() {
        let not_one = ended(i32::from(NO_COMPONENT) << 8, "truncated\n");
        assert_eq!(not_one.to_string(), "is not a component: truncated");
        let slow = ended(Signal::XCPU.as_raw(), "");
        assert_eq!(slow.reason, Reason::OverLimit);
        assert!(slow.detail.contains("more than 90 s"), "{slow}");
        let large = ended(Signal::ABORT.as_raw(), "memory allocation failed");
        assert_eq!(large.reason, Reason::OverLimit);
        assert!(large.detail.contains("more than 320 MiB"), "{large}");
        assert_eq!(ended(Signal::KILL.as_raw(), "").reason, Reason::Host);
        assert_eq!(ended(101 << 8, "panicked").reason, Reason::Host);
    }

    #[test]
    fn what_it_says_is_repeated_within_bounds() {
        let said = "x".repeat(10 * SAID_CHARS);
        let failure = ended(i32::from(NO_COMPONENT) << 8, &said);
        assert_eq!(failure.detail.len(), SAID_CHARS);
    }

    #[test]
    fn a_child_that_reads_nothing_is_asked_how_it_ended() {
        let child = Command::new("false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let large = vec![0; 4 * 1024 * 1024];
        let output = answer_of(child, &large).unwrap();
        assert_eq!(output.status.code(), Some(1));
    }
}
