//! What is granted is there, and what is not is refused with the key that would grant it. Both ways, over WASI.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use moorline_core::confine::Limit;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::confinement::log;
use super::gateway::{Gateway, Plan};
use super::guests::{connector, reaching};
use crate::plugins::{DirectoryGrant, Grants, InstanceStatus, Limits};

pub(super) struct Reach {
    pub(super) gateway: Gateway,
    pub(super) asked: u64,
}

impl Reach {
    async fn with(grants: Grants) -> Self {
        Self::within(grants, Limits::default()).await
    }

    pub(super) async fn within(grants: Grants, limits: Limits) -> Self {
        let plan = Plan::new().connector("line", &reaching());
        Self::start(plan.grants(grants).limits(limits)).await
    }

    pub(super) async fn start(plan: Plan) -> Self {
        let gateway = plan.start().await;
        let mut reach = Self { gateway, asked: 0 };
        // It has its device once it serves.
        reach.status(|line| line.generation.is_some()).await;
        reach
    }

    pub(super) async fn status(
        &mut self,
        wanted: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        self.gateway.instance("line", "its status", wanted).await
    }

    pub(super) async fn tries(&mut self, method: &str, text: &str) -> String {
        self.tries_at("line", method, text).await
    }

    pub(super) async fn tries_at(&mut self, device: &str, method: &str, text: &str) -> String {
        self.asked += 1;
        let params = format!("\"{text}\"");
        self.gateway
            .ask_with(device, self.asked, method, &params)
            .await;
        let answer = self.gateway.reply(self.asked).await;
        answer.trim_matches('"').to_owned()
    }

    /// That it is refused, and what the status says of it.
    pub(super) async fn denied(&mut self, method: &str, text: &str, answer: &str, told: &str) {
        let before = self.status(|_any| true).await.denied.count;
        let refused = self.tries(method, text).await;
        assert!(
            refused.contains(answer) && !refused.contains("granted "),
            "{refused}"
        );
        let line = self.status(|line| line.denied.count > before).await;
        let last = line.denied.last.unwrap();
        assert!(
            last.starts_with("not granted: ") && last.contains(told),
            "{last}"
        );
    }
}

async fn device() -> (TcpListener, SocketAddr) {
    let device = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = device.local_addr().unwrap();
    (device, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_there_is_nothing_but_the_time() {
    let (_device, address) = device().await;
    let address = address.to_string();
    let mut reach = Reach::with(Grants::default()).await;
    assert_eq!(reach.tries("environment", "").await, "granted []");
    let read = reach.tries("read", "/etc/hostname").await;
    assert_eq!(read, "no directory for /etc/hostname among []");
    let key = "tcp of [connector.grants]";
    reach
        .denied("connect", &address, "access-denied", key)
        .await;
    reach
        .denied("connect", &address, "access-denied", "a TCP socket")
        .await;
    // There is not even one that costs the host a descriptor.
    let sockets = reach.tries("sockets", "").await;
    assert!(sockets.starts_with("granted 0 then "), "{sockets}");
    reach
        .denied("bind", "127.0.0.1:0", "access-denied", key)
        .await;
    reach
        .denied(
            "resolve",
            "localhost",
            "access-denied",
            "resolving 'localhost'".replace('\'', "\"").as_str(),
        )
        .await;
    reach
        .denied("stream", "other", "NotGranted", "[[connector.connection]]")
        .await;
    let time = reach.tries("time", "").await;
    let words: Vec<f64> = time
        .split_whitespace()
        .skip(1)
        .map(|s| s.parse().unwrap())
        .collect();
    assert!(words.iter().all(|seconds| *seconds > 1.7e9), "{time}");
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_not_granted_stands_at_the_beginning_of_1970() {
    let grants = Grants {
        wall_clock: false,
        ..Grants::default()
    };
    let mut reach = Reach::with(grants).await;
    assert_eq!(reach.tries("time", "").await, "granted 0 0");
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_are_granted_by_name() {
    let grants = Grants {
        environment: vec![("SITE".to_owned(), "hall-2".to_owned())],
        ..Grants::default()
    };
    let mut reach = Reach::with(grants).await;
    let environment = reach.tries("environment", "").await;
    assert_eq!(environment, "granted [('SITE', 'hall-2')]");
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_granted_by_address_range_or_name_and_nothing_beside_it() {
    let (_device, address) = device().await;
    let (_other, elsewhere) = device().await;
    for grant in [
        format!("127.0.0.1:{}", address.port()),
        format!("127.0.0.0/8:{}", address.port()),
        format!("localhost:{}", address.port()),
    ] {
        let grants = Grants {
            tcp: vec![grant.parse().unwrap()],
            ..Grants::default()
        };
        let mut reach = Reach::with(grants).await;
        let connected = reach.tries("connect", &address.to_string()).await;
        assert_eq!(connected, format!("granted {address}"), "{grant}");
        let (method, text) = ("connect", elsewhere.to_string());
        reach.denied(method, &text, "access-denied", &text).await;
        if grant.starts_with("localhost") {
            let resolved = reach.tries("resolve", "localhost").await;
            assert!(resolved.starts_with("granted "), "{resolved}");
        }
        reach
            .denied(
                "resolve",
                "elsewhere.invalid",
                "access-denied",
                "elsewhere.invalid",
            )
            .await;
        reach.gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_granted_by_its_origin() {
    let (server, address) = device().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _peer)) = server.accept().await {
            let mut request = [0; 1024];
            drop(socket.read(&mut request).await);
            let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            drop(socket.write_all(answer).await);
        }
    });
    let origin = format!("http://{address}");
    let grants = Grants {
        http: vec![origin.parse().unwrap()],
        ..Grants::default()
    };
    let mut reach = Reach::with(grants).await;
    assert_eq!(reach.tries("request", &origin).await, "granted 204");
    for other in [
        "http://127.0.0.1:9".to_owned(),
        format!("http://localhost:{}", address.port()),
        format!("https://{address}"),
    ] {
        let (answer, told) = ("HttpRequestDenied", "http of [connector.grants]");
        reach.denied("request", &other, answer, told).await;
        reach.denied("request", &other, answer, &other).await;
    }
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_open_is_bounded_and_free_again_when_it_is_let_go() {
    let (_directory, grants) = maps();
    let grants = Grants {
        tcp: vec!["127.0.0.1:502".parse().unwrap()],
        ..grants
    };
    let most = Limits::default().descriptors;
    let mut reach = Reach::with(grants).await;
    let quota = "'quota'";
    for (method, text, refusal) in [
        ("sockets", "", "'new-socket-limit'"),
        ("files", "/maps/press", quota),
        ("readers", "/maps/press", quota),
    ] {
        let opened = reach.tries(method, text).await;
        let as_many = opened.starts_with(&format!("granted {most} then "));
        assert!(as_many && opened.contains(refusal), "{method}: {opened}");
        // Whatever it is, it is one limit.
        let other = reach.tries("read", "/maps/press").await;
        assert!(other.contains(quota), "{other}");
        reach.tries("let-go", "").await;
        let again = reach.tries("read", "/maps/press").await;
        assert_eq!(again, "granted 40001 u16", "{method}");
    }
    let line = reach
        .status(|line| line.limits.count(Limit::Descriptors) >= 3)
        .await;
    let last = line.limits.last().unwrap();
    assert_eq!(
        last.to_string(),
        "descriptors_max = 64 of [connector.limits]"
    );
    assert_eq!((line.traps, line.faults), (0, 0));
    reach.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_in_a_granted_directory_is_refused_at_once() {
    let (directory, grants) = maps();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.path().join("maps/pipe"), mode).unwrap();
    std::os::unix::fs::symlink("pipe", directory.path().join("maps/alias")).unwrap();
    let _socket =
        std::os::unix::net::UnixListener::bind(directory.path().join("maps/socket")).unwrap();
    let mut reach = Reach::with(grants).await;
    for path in ["/maps/pipe", "/maps/alias", "/maps/socket"] {
        let began = std::time::Instant::now();
        let answer = reach.tries("read", path).await;
        assert!(answer.contains("'unsupported'"), "{path}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path}");
    }
    assert_eq!(
        reach.tries("read", "/maps/press").await,
        "granted 40001 u16"
    );
    reach.gateway.stop().await;
}

fn maps() -> (TempDir, Grants) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("maps")).unwrap();
    std::fs::write(directory.path().join("maps/press"), "40001 u16").unwrap();
    std::fs::write(directory.path().join("secret"), "key").unwrap();
    for (link, target) in [
        ("up", &*directory.path().join("secret")),
        ("beside", Path::new("../secret")),
        ("parent", Path::new("..")),
        ("root", Path::new("/")),
        ("process", Path::new("/proc/self/cwd")),
        ("chain", Path::new("parent/maps/beside")),
        ("circle", Path::new("circle")),
    ] {
        std::os::unix::fs::symlink(target, directory.path().join("maps").join(link)).unwrap();
    }
    let grants = Grants {
        directories: vec![DirectoryGrant {
            guest: "/maps".to_owned(),
            host: directory.path().join("maps"),
        }],
        ..Grants::default()
    };
    (directory, grants)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_can_be_read_and_neither_written_nor_left() {
    let (directory, grants) = maps();
    let mut reach = Reach::with(grants).await;
    assert_eq!(
        reach.tries("read", "/maps/press").await,
        "granted 40001 u16"
    );
    let key = "writable_directories of [connector.grants]";
    for (method, text) in [
        ("create", "/maps/new"),
        ("write", "/maps/press=0"),
        ("cut", "/maps/press"),
        ("remove", "/maps/press"),
        ("make-directory", "/maps/new"),
        ("rename", "/maps/press=/maps/new"),
    ] {
        reach.denied(method, text, "'not-permitted'", key).await;
    }
    for (method, path) in [
        ("read", "/maps/../secret"),
        ("read", "/maps/up"),
        ("read", "/maps/beside"),
        ("read", "/maps/parent/secret"),
        ("read", "/maps/./parent/maps/../secret"),
        ("read", "/maps/root/etc/hostname"),
        ("read", "/maps/process/Cargo.toml"),
        ("read", "/maps/chain"),
        ("read", "/maps/circle"),
        ("read", "/maps//etc/hostname"),
        ("read", "/etc/hostname"),
    ] {
        let answer = reach.tries(method, path).await;
        assert!(!answer.starts_with("granted"), "{method} {path}: {answer}");
    }
    reach.gateway.stop().await;
    let press = std::fs::read_to_string(directory.path().join("maps/press"));
    assert_eq!(press.unwrap(), "40001 u16");
    assert!(!directory.path().join("maps/new").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_there_leaves_the_guest_without_it() {
    let (directory, grants) = maps();
    std::fs::remove_dir_all(directory.path()).unwrap();
    let mut reach = Reach::with(grants).await;
    let answer = reach.tries("read", "/maps/press").await;
    assert_eq!(answer, "no directory for /maps/press among []");
    reach.gateway.stop().await;
}

#[tokio::test]
async fn what_a_guest_prints_is_in_the_log_when_its_call_has_ended() {
    let (guard, lines) = log();
    let mut gateway = Plan::new()
        .connector("line", &reaching())
        .connector("other", &connector(""))
        .start()
        .await;
    gateway
        .instance("line", "service", |line| line.generation.is_some())
        .await;
    gateway
        .ask_with("line", 1, "print", "\"a line of its own\"")
        .await;
    assert_eq!(gateway.reply(1).await, "\"granted \"");
    gateway.stop().await;
    drop(guard);
    let printed = lines
        .try_iter()
        .filter(|line| String::from_utf8_lossy(line).contains("a line of its own"))
        .count();
    // Of stderr; what goes to stdout is of no interest at this level.
    assert_eq!(printed, 1);
}
