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
//! A child that nobody waits for any more, or that has not ended long after it should have, is killed. Programs that cannot be
//! started so, tests and benches among them, compile where they are.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use moorline_core::swap::{Failure, Reason};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;

use super::cache;
use super::engine::{Kind, config};
use super::words;
use super::world::COMPONENT_BYTES_MAX;

/// What a compiling process is asked for, on its command line.
pub const COMMAND: &str = "compile-component";

/// How a child ends that was given no component: EX_DATAERR of sysexits.h.
pub const NO_COMPONENT: u8 = 65;

/// This program, whatever lies at its path by now.
const PROGRAM: &str = "/proc/self/exe";
/// CPU time of one compilation: of any, and more for each MiB of code in the component. Slow processors take ten times as long as
/// those this was measured on.
const CPU_S: u64 = 30;
const CPU_S_PER_MIB: u64 = 30;
/// Address space of one compilation, the program itself included, and more for each byte of the component and of the code in it.
const MEMORY_BYTES: u64 = 256 * MIB;
const MEMORY_BYTES_PER_BYTE: u64 = 4;
const MEMORY_BYTES_PER_CODE_BYTE: u64 = 32;
const MIB: u64 = 1024 * 1024;
/// A child may take so many times its processor time until it ends: others may be before it.
const WALL_TIMES: u32 = 10;
/// How often it is looked at whether a child has ended, and whether somebody still waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of what a child says that are read.
const SAID_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of code for each byte of a component, and for any. What is read is bounded; in Python it is twice the component.
const CODE_BYTES: u64 = 16 * MIB;
const CODE_BYTES_PER_BYTE: u64 = 64;

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
    const fn of(component_bytes: u64, code_bytes: u64) -> Self {
        Self {
            cpu_s: CPU_S + CPU_S_PER_MIB * code_bytes / MIB,
            memory_bytes: MEMORY_BYTES
                + MEMORY_BYTES_PER_BYTE * component_bytes
                + MEMORY_BYTES_PER_CODE_BYTE * code_bytes,
        }
    }

    /// What is left of them where this process, and so its child, is bounded itself: nobody may raise a bound.
    fn here(component: &[u8]) -> Self {
        let all = Self::of(component.len() as u64, code_bytes(component));
        let within = |own: u64, resource| {
            let given = getrlimit(resource).maximum;
            given.map_or(own, |given| own.min(given))
        };
        Self {
            cpu_s: within(all.cpu_s, Resource::Cpu),
            memory_bytes: within(all.memory_bytes, Resource::As),
        }
    }

    /// From now on they hold for this process, which runs nothing that would raise them again. At the end of the processor time
    /// comes a signal that says so.
    fn hold(self) -> io::Result<()> {
        let bound = |resource, most| {
            let limit = Rlimit {
                current: Some(most),
                ..getrlimit(resource)
            };
            setrlimit(resource, limit)
        };
        bound(Resource::As, self.memory_bytes)?;
        bound(Resource::Cpu, self.cpu_s)?;
        bound(Resource::Core, 0)?;
        Ok(())
    }

    fn wall(self) -> Duration {
        Duration::from_secs(self.cpu_s) * WALL_TIMES
    }
}

/// What a component has to be compiled, as far as it can be read. Nothing else that is in it, however large, buys it bounds.
fn code_bytes(component: &[u8]) -> u64 {
    let mut code_bytes = 0;
    for payload in Parser::new(0).parse_all(component).map_while(Result::ok) {
        if let Payload::CodeSectionStart { size, .. } = payload {
            code_bytes += u64::from(size);
        }
    }
    // A section says itself how large it is.
    code_bytes.min(component.len() as u64)
}

/// Compiles, here or in a child, which is given up when nobody `waits` for it any more.
pub(super) fn compile(
    engine: &wasmtime::Engine,
    kind: Kind,
    bytes: &[u8],
    waits: &dyn Fn() -> bool,
) -> Result<Component, Failure> {
    if APART.get().is_none() {
        return Component::from_binary(engine, bytes).map_err(|error| no_component(&error));
    }
    let bounds = Bounds::here(bytes);
    let child = start(kind).map_err(|error| {
        let words = format!("no process to compile it in: {PROGRAM}: {error}");
        Failure::new(Reason::Host, words)
    })?;
    let output = answer_of(child, bytes, bounds.wall(), waits).map_err(|error| {
        Failure::new(Reason::Host, format!("no answer of its compiler: {error}"))
    })?;
    let code = code_of(output, bounds)?;
    cache::from_compiler(engine, &code).map_err(|error| {
        Failure::new(
            Reason::Host,
            format!("its code cannot be loaded: {error:#}"),
        )
    })
}

fn no_component(error: &wasmtime::Error) -> Failure {
    Failure::new(
        Reason::NotAComponent,
        words::repeated(&format!("{error:#}")),
    )
}

fn start(kind: Kind) -> io::Result<Child> {
    Command::new(PROGRAM)
        .arg0("moorline")
        .args([COMMAND, kind.word()])
        // Secrets among it are none of a compiler's business.
        .env_clear()
        // What a terminal says to the gateway is not for it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// How a child ended, and what it gave back.
struct Output {
    /// None = it was killed: nobody waited for it any more, or it had not ended in time.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Gives `child` the component and waits for its answer, for at most `wall` and only as long as somebody `waits` for it.
fn answer_of(
    mut child: Child,
    bytes: &[u8],
    wall: Duration,
    waits: &dyn Fn() -> bool,
) -> io::Result<Output> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let code_bytes_max = CODE_BYTES + CODE_BYTES_PER_BYTE * bytes.len() as u64;
    thread::scope(|scope| {
        let code = thread::Builder::new().spawn_scoped(scope, move || {
            // A child that has ended takes no more: what it ended by says why.
            stdin.write_all(bytes).unwrap_or_default();
            drop(stdin);
            read_all(stdout, code_bytes_max)
        });
        let said =
            thread::Builder::new().spawn_scoped(scope, move || read_all(stderr, SAID_BYTES_MAX));
        let (code, said) = match (code, said) {
            (Ok(code), Ok(said)) => (code, said),
            (Err(error), _) | (_, Err(error)) => {
                end(&mut child)?;
                return Err(error);
            }
        };
        let status = status_of(&mut child, Instant::now() + wall, waits)?;
        let (stdout, stderr) = (joined(code)?, joined(said)?);
        Ok(Output {
            status,
            stdout,
            stderr,
        })
    })
}

fn status_of(
    child: &mut Child,
    deadline: Instant,
    waits: &dyn Fn() -> bool,
) -> io::Result<Option<ExitStatus>> {
    while waits() && Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) => thread::sleep(LOOK_EVERY),
            Err(error) => {
                end(child)?;
                return Err(error);
            }
        }
    }
    end(child).map(|()| None)
}

fn end(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

/// More than that is not read: whoever writes it is told so.
fn read_all(from: impl io::Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn joined(thread: ScopedJoinHandle<'_, io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    let no_end = |_panic| Err(io::Error::other("a thread that reads it broke"));
    thread.join().unwrap_or_else(no_end)
}

/// The code, or whose fault it is that there is none.
fn code_of(output: Output, bounds: Bounds) -> Result<Vec<u8>, Failure> {
    let Output {
        status,
        stdout,
        stderr,
    } = output;
    let Some(status) = status else {
        let words = format!(
            "its compiler had not ended after {} s",
            bounds.wall().as_secs()
        );
        return Err(Failure::new(Reason::Host, words));
    };
    let said = words::repeated(String::from_utf8_lossy(&stderr).trim());
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
        // What is still in a buffer at the end is lost without a word.
        Ok(code) => {
            let mut out = io::stdout().lock();
            out.write_all(&code)?;
            out.flush().map(Ok)
        }
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
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(COMPONENT_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Bounds::here(&bytes).hold()?;
    let engine = wasmtime::Engine::new(&config(kind)).map_err(io::Error::other)?;
    match engine.precompile_component(&bytes) {
        Ok(code) => Ok(Ok(code)),
        // As where an allocation fails that has nobody to tell.
        Err(error) if error.is::<wasmtime::OutOfMemory>() => std::process::abort(),
        Err(error) => Ok(Err(no_component(&error))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    const BOUNDS: Bounds = Bounds::of(3 * MIB, 2 * MIB);

    fn ended(status: i32, said: &str) -> Failure {
        let output = Output {
            status: Some(ExitStatus::from_raw(status)),
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
        assert!(large.detail.contains("more than 332 MiB"), "{large}");
        assert_eq!(ended(Signal::KILL.as_raw(), "").reason, Reason::Host);
        assert_eq!(ended(101 << 8, "panicked").reason, Reason::Host);
    }

    #[test]
    fn a_component_has_as_much_code_as_it_holds_whatever_it_says_and_padding_is_none() {
        let header = b"\0asm\x01\0\0\0";
        // A code section that claims to go on for 4 GiB, with one function.
        let lying = [header.as_slice(), b"\x0a\xff\xff\xff\xff\x0f\x01"].concat();
        assert!(code_bytes(&lying) <= lying.len() as u64);
        // A custom section of 100 bytes, and a function that does nothing: its type, that it has it, its code.
        let padded = [
            header.as_slice(),
            b"\0\x64",
            &[0; 100],
            b"\x01\x04\x01\x60\0\0",
            b"\x03\x02\x01\0",
            b"\x0a\x04\x01\x02\0\x0b",
        ]
        .concat();
        assert_eq!(code_bytes(&padded), 3, "and not how many there are");
    }

    #[test]
    fn what_it_says_is_repeated_on_one_line_and_within_bounds() {
        let said = format!("red\nFAKE{}", "x".repeat(100_000));
        let failure = ended(i32::from(NO_COMPONENT) << 8, &said);
        assert!(failure.detail.starts_with("red FAKExxx"), "{failure}");
        assert!(failure.detail.len() < 600, "{failure}");
    }

    fn child(script: &str) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_child_that_reads_nothing_is_asked_how_it_ended() {
        let large = vec![0; 4 * 1024 * 1024];
        let output = answer_of(child("exit 1"), &large, LONG, &|| true).unwrap();
        assert_eq!(output.status.and_then(|status| status.code()), Some(1));
    }

    #[test]
    fn a_child_that_says_more_than_a_pipe_holds_is_heard_to_its_end() {
        let script = "head -c 1000000 /dev/zero >&2; cat";
        let output = answer_of(child(script), b"code", LONG, &|| true).unwrap();
        assert_eq!(output.stdout, b"code");
        assert_eq!(output.stderr.len() as u64, SAID_BYTES_MAX);
    }

    #[test]
    fn a_child_that_hangs_or_that_nobody_waits_for_is_killed() {
        let large = vec![0; 4 * 1024 * 1024];
        for (wall, waits) in [(Duration::from_millis(50), true), (LONG, false)] {
            let hangs = child("exec sleep 600");
            let output = answer_of(hangs, &large, wall, &|| waits).unwrap();
            assert_eq!(output.status, None);
            assert_eq!(code_of(output, BOUNDS).unwrap_err().reason, Reason::Host);
        }
    }
}
