//! What a guest may write: it is there when the guest, its build or the gateway has changed, it is bounded in every way of writing,
//! and none of them leads out.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use moorline_core::confine::Limit;
use tempfile::TempDir;

use super::gateway::Plan;
use super::grants::Reach;
use super::guests::reaching;
use crate::demo::mark;
use crate::plugins::{DirectoryGrant, Grants, Limits};

const FULL: &str = "'insufficient-space'";

fn granted(guest: &str, host: &Path) -> DirectoryGrant {
    DirectoryGrant {
        guest: guest.to_owned(),
        host: host.to_owned(),
    }
}

/// One to be read and two to be written, beside a file that is granted to nobody.
fn place() -> (TempDir, Grants) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["maps", "data", "more"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("maps/press"), "40001 u16").unwrap();
    std::fs::write(at("secret"), "key").unwrap();
    let grants = Grants {
        directories: vec![granted("/maps", &at("maps"))],
        writable_directories: vec![granted("/data", &at("data")), granted("/more", &at("more"))],
        ..Grants::default()
    };
    (directory, grants)
}

fn limits(directory_bytes: u64, directory_entries: u64) -> Limits {
    Limits {
        directory_bytes,
        directory_entries,
        ..Limits::default()
    }
}

impl Reach {
    async fn may(&mut self, method: &str, text: &str) {
        let answer = self.tries(method, text).await;
        assert!(answer.starts_with("granted "), "{method} {text}: {answer}");
    }

    async fn may_not(&mut self, method: &str, text: &str, why: &str) {
        let answer = self.tries(method, text).await;
        let refused = answer.contains(why) && !answer.starts_with("granted ");
        assert!(refused, "{method} {text}: {answer}");
    }

    async fn reads(&mut self, path: &str, text: &str) {
        let read = self.tries("read", path).await;
        assert_eq!(read, format!("granted {text}"), "{path}");
    }

    async fn exceeds(&mut self, limit: Limit, words: &str) {
        let line = self.status(|line| line.limits.count(limit) > 0).await;
        let mut limits = line.limits.iter();
        let exceeded = limits.find(|(exceeded, _)| exceeded.limit == limit);
        let exceeded = exceeded.unwrap().0.to_string();
        assert_eq!(exceeded, format!("{words} of [connector.limits]"));
        assert_eq!((line.traps, line.faults), (0, 0));
    }

    /// Another build of the same takes over.
    async fn is_swapped(&mut self, number: u64) {
        let before = self.status(|line| line.generation.is_some()).await;
        let mut build = reaching();
        mark(&mut build, number);
        self.gateway.replace("line", &build);
        self.status(|line| line.generation > before.generation)
            .await;
    }

    /// Another gateway goes on where this one stopped. Answers to this one's requests are in the spool still.
    async fn starts_again(self) -> Self {
        let mut next = Self::start(self.gateway.stop().await).await;
        next.asked = self.asked;
        next
    }

    /// It ends in the middle of a call and is started again.
    async fn is_restarted(&mut self) {
        let before = self.status(|line| line.generation.is_some()).await;
        self.asked += 1;
        self.gateway
            .ask_with("line", self.asked, "trap", "\"\"")
            .await;
        self.status(|line| line.restarts > before.restarts).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_there_after_a_swap_a_restart_and_a_stop() {
    let (directory, grants) = place();
    let mut reach = Reach::within(grants, Limits::default()).await;
    reach.may("write", "/data/press=40001 u16").await;
    reach.reads("/data/press", "40001 u16").await;
    reach.may("make-directory", "/data/old").await;
    reach.may("rename", "/data/press=/data/old/press").await;
    reach
        .may_not("remove-directory", "/data/old", "'not-empty'")
        .await;
    reach.may("write", "/data/press=40002 u16").await;
    reach.may("rename", "/data/press=/more/press").await;
    reach.may("append", "/data/log=100000").await;
    reach.may("stream-at", "/data/log=100000").await;
    reach.is_swapped(2).await;
    reach.reads("/data/old/press", "40001 u16").await;
    reach.is_restarted().await;
    reach.reads("/more/press", "40002 u16").await;
    reach.may("remove", "/data/old/press").await;
    reach.may("remove-directory", "/data/old").await;
    reach.may("cut", "/more/press").await;
    let mut reach = reach.starts_again().await;
    reach.reads("/more/press", "").await;
    reach.may("write", "/more/press=40003").await;
    reach.gateway.stop().await;
    let log = std::fs::read(directory.path().join("data/log")).unwrap();
    assert_eq!(log, [b'x'; 100_001]);
    assert!(!directory.path().join("data/old").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_bounded_in_every_way_of_writing_and_free_again_when_they_are_gone() {
    let (directory, grants) = place();
    let mut reach = Reach::within(grants, limits(10_000, 100)).await;
    // A hole counts: somebody may fill it later.
    reach.may("write-at", "/data/a=8999").await;
    reach.may("append", "/more/b=1000").await;
    let far = u64::MAX.to_string();
    for (method, text) in [
        ("append", "/data/a=1"),
        ("append", "/more/c=5000"),
        ("write", "/data/c=1"),
        ("write-at", "/more/b=1000"),
        ("write-at", &format!("/more/b={far}")),
        ("stream-at", "/data/a=9000"),
        ("stream-at", &format!("/data/a={far}")),
        ("resize", "/data/a=9001"),
        ("resize", &format!("/data/a={far}")),
    ] {
        reach.may_not(method, text, FULL).await;
    }
    // What it has it may write again.
    reach.may("write-at", "/data/a=5").await;
    reach.may("stream-at", "/more/b=999").await;
    reach
        .exceeds(Limit::DirectoryBytes, "directory_bytes_max = 10000")
        .await;
    reach.may("resize", "/data/a=5000").await;
    reach.may("append", "/more/c=4000").await;
    reach.may_not("append", "/more/c=1", FULL).await;
    reach.may("rename", "/more/c=/data/a").await;
    reach.may("append", "/data/d=5000").await;
    reach.may_not("append", "/data/d=1", FULL).await;
    // The next guests find what those before have left, whatever they had under way.
    reach.is_swapped(2).await;
    reach.may_not("append", "/data/d=1", FULL).await;
    reach.is_restarted().await;
    reach.may_not("resize", "/data/new=1", FULL).await;
    let mut reach = reach.starts_again().await;
    reach.may_not("append", "/data/d=1", FULL).await;
    reach.may("cut", "/data/d").await;
    reach.may("remove", "/more/b").await;
    reach.may("append", "/data/d=6000").await;
    reach.may_not("append", "/data/d=1", FULL).await;
    reach.gateway.stop().await;
    let length = |name: &str| directory.path().join(name).metadata().unwrap().len();
    assert_eq!((length("data/a"), length("data/d")), (4_000, 6_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_keeps_its_name_so_that_it_counts() {
    let (directory, mut grants) = place();
    let again = granted("/read", &directory.path().join("data"));
    grants.directories.push(again);
    let mut reach = Reach::within(grants, limits(10_000, 100)).await;
    reach.may("append", "/data/a=9000").await;
    reach.may("append", "/data/b=1000").await;
    reach.may("keep", "/data/a").await;
    reach.may_not("remove", "/data/a", "'busy'").await;
    reach.may_not("rename", "/data/b=/data/a", "'busy'").await;
    // It may be called otherwise.
    reach.may("rename", "/data/a=/data/c").await;
    reach.may_not("remove", "/data/c", "'busy'").await;
    reach.may("let-go", "").await;
    // Nor does it help to open it where it can only be read.
    let files = reach.tries("files", "/read/c").await;
    assert!(files.starts_with("granted 64 "), "{files}");
    reach.may_not("remove", "/data/c", "'busy'").await;
    reach.may("let-go", "").await;
    reach.may("remove", "/data/c").await;
    reach.may("append", "/data/d=9000").await;
    reach.may_not("append", "/data/d=1", FULL).await;
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_directories_are_bounded_too() {
    let (directory, grants) = place();
    let mut reach = Reach::within(grants, limits(1_000_000, 5)).await;
    reach.may("make-directory", "/data/d").await;
    let filled = reach.tries("fill", "/data/d/f").await;
    assert!(
        filled.starts_with("granted 4 then ") && filled.contains(FULL),
        "{filled}"
    );
    for (method, text) in [
        ("write", "/more/f=1"),
        ("make-directory", "/more/d"),
        ("make-directory", "/data/d/e"),
        // There is no room to find out that it is there.
        ("make-directory", "/data/d"),
    ] {
        reach.may_not(method, text, FULL).await;
    }
    reach
        .exceeds(Limit::DirectoryEntries, "directory_entries_max = 5")
        .await;
    reach.may("write", "/data/d/f0=1").await;
    reach.may("rename", "/data/d/f0=/data/d/f1").await;
    reach.may("make-directory", "/more/d").await;
    reach.may_not("make-directory", "/more/e", FULL).await;
    reach.may("remove-directory", "/more/d").await;
    reach.may("remove", "/data/d/f2").await;
    // What is not made after all costs nothing.
    for _ in 0..10 {
        reach.may_not("create", "/data/none/f", "'no-entry'").await;
        reach.may_not("make-directory", "/data/d", "'exist'").await;
    }
    let filled = reach.tries("fill", "/more/f").await;
    assert!(filled.starts_with("granted 2 then "), "{filled}");
    reach.gateway.stop().await;
    let entries = |name: &str| directory.path().join(name).read_dir().unwrap().count();
    assert_eq!(entries("data") + entries("data/d") + entries("more"), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_counts_and_is_looked_for_no_further_than_may_be() {
    let (directory, grants) = place();
    for number in 0..20 {
        let name = directory.path().join(format!("data/{number}"));
        std::fs::write(name, [b'y'; 100]).unwrap();
    }
    let mut reach = Reach::within(grants.clone(), limits(1_000, 50)).await;
    reach.may_not("append", "/data/0=1", FULL).await;
    reach.may("resize", "/data/0=50").await;
    reach.may_not("append", "/data/0=1", FULL).await;
    reach.gateway.stop().await;

    let mut reach = Reach::within(grants, limits(1_000_000, 10)).await;
    reach.may_not("append", "/data/0=1", FULL).await;
    reach.may_not("create", "/more/new", FULL).await;
    reach.may("resize", "/data/0=10").await;
    for number in 0..15 {
        reach.may("remove", &format!("/data/{number}")).await;
    }
    reach.may_not("create", "/more/new", FULL).await;
    // Counted anew.
    reach.is_swapped(2).await;
    reach.may("create", "/more/new").await;
    reach.gateway.stop().await;
}

/// What somebody may have put there that leads out, or is no file.
fn set_traps(directory: &Path) {
    let at = |name: &str| directory.join(name);
    for (link, target) in [
        ("up", &*at("secret")),
        ("beside", Path::new("../secret")),
        ("parent", Path::new("..")),
        ("dangling", Path::new("../made")),
        ("inside", Path::new("kept")),
    ] {
        symlink(target, at("data").join(link)).unwrap();
    }
    std::fs::write(at("data/kept"), "kept").unwrap();
    std::fs::hard_link(at("secret"), at("data/another-name")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mkfifoat(rustix::fs::CWD, at("data/pipe"), mode).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_of_writing_leads_out() {
    let (directory, grants) = place();
    set_traps(directory.path());
    let at = |name: &str| directory.path().join(name);
    let mut reach = Reach::within(grants, Limits::default()).await;
    for (method, text) in [
        ("write", "/data/../secret=x"),
        ("write", "/data/up=x"),
        ("write", "/data/beside=x"),
        ("write", "/data/parent/secret=x"),
        ("write", "/data/parent/made=x"),
        ("write", "/data/dangling=x"),
        ("write", "/data//tmp/made=x"),
        ("write", "/data/another-name=x"),
        ("append", "/data/another-name=1"),
        ("resize", "/data/another-name=0"),
        ("cut", "/data/another-name"),
        ("cut", "/data/up"),
        ("write", "/data/pipe=x"),
        ("make-directory", "/data/../made"),
        ("make-directory", "/data/parent/made"),
        ("make-directory", "/data/dangling"),
        ("remove", "/data/../secret"),
        ("remove", "/data/parent/secret"),
        ("remove-directory", "/data/../more"),
        ("rename", "/data/kept=/data/../made"),
        ("rename", "/data/kept=/data/parent/made"),
        ("rename", "/data/../secret=/data/taken"),
        ("rename", "/data/pipe=/data/moved"),
        ("rename", "/data/kept=/maps/made"),
        ("rename", "/maps/press=/data/press"),
        ("link", "/data/kept=/data/again"),
        ("link", "/maps/press=/data/press"),
        ("link", "/data/../secret=/data/taken"),
        ("symlink", "kept=/data/again"),
        ("symlink", "/etc=/data/etc"),
        ("symlink", "../secret=/data/out"),
    ] {
        let began = std::time::Instant::now();
        let answer = reach.tries(method, text).await;
        assert!(!answer.starts_with("granted"), "{method} {text}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{method} {text}");
    }
    reach.may("write", "/data/inside=still").await;
    reach.reads("/data/kept", "still").await;
    reach
        .denied(
            "symlink",
            "kept=/data/again",
            "'not-permitted'",
            "granted to nobody",
        )
        .await;
    // A link itself is a name like others.
    reach.may("remove", "/data/up").await;
    reach.gateway.stop().await;
    assert_eq!(std::fs::read_to_string(at("secret")).unwrap(), "key");
    assert_eq!(
        std::fs::read_to_string(at("maps/press")).unwrap(),
        "40001 u16"
    );
    assert!(!at("made").exists() && !Path::new("/tmp/made").exists());
    assert_eq!(at("maps").read_dir().unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_has_a_directory_of_its_own() {
    let (directory, grants) = place();
    let plan = Plan::new().connector("line", &reaching()).grants(grants);
    let plan = plan.limits(limits(10, 10));
    let gateway = plan
        .connection("a", None)
        .connection("b", None)
        .start()
        .await;
    let mut reach = Reach { gateway, asked: 0 };
    for instance in ["line/a", "line/b"] {
        let gateway = &mut reach.gateway;
        gateway
            .instance(instance, "service", |line| line.generation.is_some())
            .await;
    }
    for instance in ["line/a", "line/b"] {
        let text = format!("/data/name={instance}");
        let written = reach.tries_at(instance, "write", &text).await;
        assert_eq!(written, "granted ");
    }
    // Nor is one's share the other's.
    let more = reach.tries_at("line/a", "append", "/data/name=4").await;
    assert_eq!(more, "granted ");
    for (instance, text) in [("line/a", "line/axxxx"), ("line/b", "line/b")] {
        let read = reach.tries_at(instance, "read", "/data/name").await;
        assert_eq!(read, format!("granted {text}"));
    }
    for path in ["/data/../b/name", "/data/b/name"] {
        let read = reach.tries_at("line/a", "read", path).await;
        assert!(!read.starts_with("granted"), "{path}: {read}");
    }
    reach.gateway.stop().await;
    assert!(directory.path().join("data/a/name").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_there_leaves_the_guest_without_it() {
    let (directory, grants) = place();
    std::fs::remove_dir(directory.path().join("data")).unwrap();
    let mut reach = Reach::within(grants, Limits::default()).await;
    let answer = reach.tries("write", "/data/a=1").await;
    assert!(answer.starts_with("no directory for /data/a"), "{answer}");
    reach.may("write", "/more/a=1").await;
    reach.gateway.stop().await;
    assert!(!directory.path().join("data").exists());
}
