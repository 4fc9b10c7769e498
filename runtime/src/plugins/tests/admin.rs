//! Orders of an operator, over the admin socket.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use moorline_core::swap::{Reason, Step};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::gateway::{Gateway, PATIENCE, Plan, assert_gapless, terms};
use super::guests::{connector, policy};
use crate::admin::protocol::{Answer, PluginEntry, REQUEST_BYTES_MAX, Request, SwapAnswer};
use crate::admin::{self, Client, ClientError};
use crate::clock::Clock;
use crate::plugins::SwapOutcome;
use crate::shutdown;

struct Desk {
    gateway: Gateway,
    state_dir: PathBuf,
    stop: shutdown::Trigger,
    serving: JoinHandle<()>,
}

async fn desk(plan: Plan) -> Desk {
    let gateway = plan.start().await;
    let state_dir = gateway.plan.directory.path().to_owned();
    let (stop, stopping) = shutdown::channel();
    let serving = tokio::spawn(admin::serve(
        state_dir.clone(),
        gateway.plugins.swaps(),
        gateway.plugins.status(),
        Clock::start(),
        stopping,
    ));
    let listens = async {
        while !admin::socket(&state_dir).exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, listens).await.unwrap();
    Desk {
        gateway,
        state_dir,
        stop,
        serving,
    }
}

fn swap(plugin: &str, again: bool, proved: bool) -> Request {
    Request::Swap {
        plugin: plugin.to_owned(),
        again,
        proved,
        wait_s: 60,
    }
}

fn roll_back(plugin: &str) -> Request {
    Request::RollBack {
        plugin: plugin.to_owned(),
        wait_s: 60,
    }
}

impl Desk {
    async fn ask(&self, request: Request) -> Answer {
        let state_dir = self.state_dir.clone();
        let asked = tokio::task::spawn_blocking(move || {
            Client::connect(&state_dir).and_then(|mut client| client.ask(&request))
        });
        asked.await.unwrap().unwrap()
    }

    async fn order(&self, request: Request) -> SwapAnswer {
        let answer = self.ask(request).await;
        let Answer::Swap(swap) = answer else {
            panic!("{answer:?}")
        };
        *swap
    }

    async fn plugins(&self) -> Vec<PluginEntry> {
        let answer = self.ask(Request::List).await;
        let Answer::Plugins { plugins } = answer else {
            panic!("{answer:?}")
        };
        plugins
    }

    async fn close(self) {
        self.stop.fire();
        self.serving.await.unwrap();
        assert!(!admin::socket(&self.state_dir).exists());
        self.gateway.stop().await;
    }
}

/// An order is answered by what is really in the way of reading the file.
async fn loses_its_file(desk: &Desk, plugin: &str) {
    let place = desk.gateway.component(plugin);
    std::fs::remove_file(&place).unwrap();
    let missing = desk.order(swap(plugin, false, false)).await;
    assert_eq!(missing.outcome, "missing");
    assert_eq!(missing.reason.as_deref(), Some("is not there"));
    std::fs::create_dir(&place).unwrap();
    let unreadable = desk.order(swap(plugin, false, false)).await;
    assert_eq!(unreadable.outcome, "missing");
    let why = "cannot be read: it is a directory, not a file";
    assert_eq!(unreadable.reason.as_deref(), Some(why));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_answered_by_how_it_ended() {
    let plan = Plan::new()
        .connector("line", &connector(""))
        .policy(&policy(""));
    let mut desk = desk(plan).await;
    desk.gateway.concluded().await;
    desk.gateway.concluded().await;
    desk.gateway.count("dev-line", 20).await;

    let unchanged = desk.order(swap("line", false, false)).await;
    assert_eq!(
        (unchanged.outcome.as_str(), unchanged.end),
        ("unchanged", None)
    );

    desk.gateway.replace("line", &connector("second"));
    let proved = desk.order(swap("line", false, true)).await;
    assert_eq!(proved.outcome, "proved");
    let end = proved.end.unwrap();
    assert_eq!(
        (end.plugin.as_str(), end.outcome.as_str()),
        ("line", "swapped")
    );
    assert_eq!(
        (end.name.as_str(), end.from_generation),
        ("scripted", Some(1))
    );

    desk.gateway.replace("line", &connector("start:trap"));
    let failed = desk.order(swap("line", false, true)).await;
    assert_eq!(failed.outcome, "rolled-back");
    let bad = failed.end.unwrap();
    assert!(
        bad.reason
            .as_deref()
            .unwrap()
            .starts_with("cut-over: trapped"),
        "{bad:?}"
    );
    let shunned = desk.order(swap("line", false, false)).await;
    assert_eq!(
        (shunned.outcome.as_str(), shunned.digest),
        ("shunned", Some(bad.digest.clone()))
    );
    assert!(shunned.reason.unwrap().starts_with("trapped"));
    let again = desk.order(swap("line", true, false)).await;
    assert_eq!(again.outcome, "rolled-back");

    // A policy is a plugin, too.
    desk.gateway.replace("policy", &policy("second"));
    assert_eq!(
        desk.order(swap("policy", false, false)).await.outcome,
        "swapped"
    );

    loses_its_file(&desk, "policy").await;

    let plugins = desk.plugins().await;
    let names: Vec<_> = plugins
        .iter()
        .map(|p| (p.name.as_str(), p.kind.as_str()))
        .collect();
    assert_eq!(
        names,
        [("line", "connector"), ("policy", "reconnect-policy")]
    );
    assert_eq!(plugins[0].digest.as_deref(), Some(end.digest.as_str()));
    assert_eq!((plugins[0].serving, plugins[0].instances), (1, 1));
    assert_eq!(plugins[0].refused.as_ref().unwrap().digest, bad.digest);
    assert_eq!(plugins[1].state, "probation");

    assert_gapless(&desk.gateway.count("dev-line", 20).await, 1);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_brings_the_generation_before_back_and_forth_without_a_missing_number() {
    let mut desk = desk(Plan::new().connector("line", &connector(""))).await;
    desk.gateway.concluded().await;
    desk.gateway.count("dev-line", 20).await;
    let unknown = desk.ask(swap("press", false, false)).await;
    let why = "there is no plugin \"press\"; there are line".to_owned();
    assert_eq!(unknown, Answer::Refused { why });
    let refused = desk.ask(roll_back("line")).await;
    assert!(matches!(refused, Answer::Refused { .. }), "{refused:?}");

    desk.gateway.replace("line", &connector("second"));
    assert_eq!(
        desk.order(swap("line", false, true)).await.outcome,
        "proved"
    );
    let plugins = desk.plugins().await;
    let (second, first) = (plugins[0].digest.clone(), plugins[0].before.clone());
    desk.gateway.count("dev-line", 20).await;

    // Proved: the one that serves hands over to the one before, whose code is kept.
    let back = desk.order(roll_back("line")).await;
    assert_eq!(back.outcome, "swapped");
    let end = back.end.unwrap();
    assert!(end.cached);
    assert_eq!((end.generation, Some(end.digest)), (3, first.clone()));
    desk.gateway.count("dev-line", 20).await;
    // The file holds the build that was taken back.
    assert_eq!(
        desk.order(swap("line", false, false)).await.outcome,
        "shunned"
    );
    desk.gateway
        .until("the recalled one has proved itself", |status| {
            matches!(
                status.connectors[0].component.state,
                moorline_core::swap::State::Quarantined(_)
            )
        })
        .await;

    let forth = desk.order(roll_back("line")).await;
    assert_eq!(
        (forth.outcome.as_str(), forth.end.map(|e| e.digest)),
        ("swapped", second)
    );
    assert_gapless(&desk.gateway.count("dev-line", 20).await, 1);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_on_probation_uses_the_old_hand_over() {
    let mut plan = Plan::new().connector("line", &connector(""));
    plan.settings.connectors[0].succession.probation.duration = PATIENCE * 100;
    plan.settings.connectors[0]
        .succession
        .probation
        .duration_max = PATIENCE * 100;
    let mut desk = desk(plan).await;
    desk.gateway.concluded().await;
    desk.gateway.count("dev-line", 20).await;
    desk.gateway.replace("line", &connector("second"));
    desk.gateway.concluded().await;
    let numbers = desk.gateway.count("dev-line", 30).await;
    let back = desk.order(roll_back("line")).await;
    assert_eq!(back.outcome, "rolled-back");
    let record = desk.gateway.concluded().await;
    let SwapOutcome::RolledBack(Step::Probation, failure) = &record.outcome else {
        panic!("{record:?}")
    };
    assert_eq!(failure.reason, Reason::Ordered);
    // What the second generation said is said again.
    let after = desk.gateway.count("dev-line", 30).await;
    let again = after
        .windows(2)
        .position(|pair| pair[1] != pair[0] + 1)
        .unwrap();
    assert!(
        again + 1 >= numbers.len() && after[again + 1] <= after[again],
        "{after:?}"
    );
    assert_gapless(&after[again + 1..], after[again + 1]);
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_socket_is_private_and_takes_no_nonsense() {
    let mut desk = desk(Plan::new().connector("line", &connector(""))).await;
    desk.gateway.concluded().await;
    let path = admin::socket(&desk.state_dir);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let said = |bytes: Vec<u8>| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // It may hang up before it has read everything.
            stream.write_all(&bytes).unwrap_or_default();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap_or_default();
            String::from_utf8(answer).unwrap()
        })
    };
    for nonsense in [
        b"hello\n".to_vec(),
        b"{\"do\":\"reboot\"}\n".to_vec(),
        b"{\"do\":\"swap\"}\n".to_vec(),
        b"\xff\xfe\n".to_vec(),
        vec![b'x'; usize::try_from(REQUEST_BYTES_MAX).unwrap()],
    ] {
        let answer = said(nonsense.clone()).await.unwrap();
        assert!(
            answer.starts_with("{\"answer\":\"invalid\",\"why\":"),
            "{answer}"
        );
    }

    // Whoever only holds the line is turned off; meanwhile no more than eight are heard.
    let idle: Vec<_> = (0..8)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let turned_away = said(Vec::new()).await.unwrap();
    assert!(
        turned_away.contains("8 clients are connected already"),
        "{turned_away}"
    );
    let mut first = idle.into_iter().next().unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        first.read(&mut [0]).unwrap()
    });
    assert_eq!(ended.await.unwrap(), 0);
    assert_eq!(desk.plugins().await.len(), 1);

    let state_dir = desk.state_dir.clone();
    desk.close().await;
    let gone = Client::connect(&state_dir).map(drop);
    assert!(matches!(gone, Err(ClientError::NotRunning(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_long_call_is_told_whose_it_is() {
    // A device that never answers: the guest waits for it, two seconds in each call.
    let device = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", device.local_addr().unwrap());
    let plan = Plan::new()
        .connector("line", &connector(""))
        .connection("press", Some(&address));
    let mut desk = desk(plan).await;
    desk.gateway
        .instance("line/press", "a long call", |press| {
            press.long_call.is_some()
        })
        .await;
    let words = "line/press: handle(timer) has lasted";
    let asked = async {
        // It lasts for a second more each time: a machine that is late asks again.
        let (mut is_listed, mut is_told) = (false, false);
        while !(is_listed && is_told) {
            let listed = desk.plugins().await.remove(0).long_call;
            is_listed |= listed.is_some_and(|call| call.starts_with(words));
            let order = Request::Swap {
                plugin: "line".to_owned(),
                again: false,
                proved: false,
                wait_s: 0,
            };
            let answer = desk.ask(order).await;
            is_told |= matches!(&answer, Answer::Pending { why } if why.contains(words));
        }
    };
    timeout(PATIENCE, asked).await.unwrap();
    desk.gateway
        .instance("line/press", "its end", |press| press.long_call.is_none())
        .await;
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_wrote_ahead_and_hung_up_leave_their_room_to_others() {
    let mut plan = Plan::new().connector("line", &connector(""));
    plan.settings.connectors[0].succession.probation = moorline_core::swap::probation::Terms {
        duration: PATIENCE * 100,
        ..terms()
    };
    let mut desk = desk(plan).await;
    desk.gateway.concluded().await;
    desk.gateway.replace("line", &connector("second"));
    let mut order = serde_json::to_vec(&swap("line", false, true)).unwrap();
    order.extend(b"\n ");
    let crowd: Vec<_> = (0..8)
        .map(|_| {
            let mut client = UnixStream::connect(admin::socket(&desk.state_dir)).unwrap();
            client.write_all(&order).unwrap();
            client
        })
        .collect();
    drop(crowd);
    let heard = async {
        while !matches!(desk.ask(Request::List).await, Answer::Plugins { .. }) {
            tokio::task::yield_now().await;
        }
    };
    // Long before their orders end.
    timeout(PATIENCE / 2, heard).await.unwrap();
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_outlives_its_wait() {
    let mut plan = Plan::new().connector("line", &connector(""));
    plan.settings.connectors[0].succession.probation = moorline_core::swap::probation::Terms {
        duration: PATIENCE,
        ..terms()
    };
    let mut desk = desk(plan).await;
    desk.gateway.concluded().await;
    desk.gateway.replace("line", &connector("second"));
    let pending = desk
        .ask(Request::Swap {
            plugin: "line".to_owned(),
            again: false,
            proved: true,
            wait_s: 1,
        })
        .await;
    assert!(matches!(pending, Answer::Pending { .. }), "{pending:?}");
    assert_eq!(desk.gateway.concluded().await.outcome, SwapOutcome::Swapped);
    desk.close().await;
}
