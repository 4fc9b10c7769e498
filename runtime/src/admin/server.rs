//! The gateway's end of the admin socket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error, warn};

use super::protocol::{
    Answer, REQUEST_BYTES_MAX, Request, SwapAnswer, WAIT_S, WAIT_S_MAX, entries,
};
use super::socket;
use crate::clock::Clock;
use crate::plugins::{PluginsStatus, Restored, SwapOrders, Until};
use crate::shutdown::Shutdown;

/// Clients at once; one more is told so.
const CLIENTS_MAX: usize = 8;
/// A client must say something within this time, and take its answer.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at whether a client that has said more than was asked for is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After an error of `accept`.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);
const PRIVATE: u32 = 0o600;
const ROOT: u32 = 0;
/// Bytes of a unix socket's address on Linux, its final zero not counted.
const ADDRESS_BYTES_MAX: usize = 107;

/// What clients may ask of.
#[derive(Clone)]
struct Rooms {
    swaps: SwapOrders,
    plugins: watch::Receiver<PluginsStatus>,
    clock: Clock,
}

/// Listens until the gateway stops. A gateway without its admin socket works as well; it is only said.
pub(crate) async fn serve(
    state_dir: PathBuf,
    swaps: SwapOrders,
    plugins: watch::Receiver<PluginsStatus>,
    clock: Clock,
    mut stop: Shutdown,
) {
    let path = socket(&state_dir);
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            error!(path = %path.display(), %error, "no admin socket: `moorline plugin swap` and `rollback` cannot reach this gateway");
            return;
        }
    };
    let rooms = Rooms {
        swaps,
        plugins,
        clock,
    };
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.wait() => break,
            Some(_ended) = clients.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _address)) if clients.len() >= CLIENTS_MAX => {
                clients.spawn(turn_away(stream));
            }
            Ok((stream, _address)) => {
                clients.spawn(attend(stream, rooms.clone()));
            }
            Err(error) => {
                warn!(%error, "the admin socket cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) => debug!(path = %path.display(), %error, "the admin socket stays"),
    }
}

/// A socket that nobody else could open at any time: it is private before it has its name. The state directory's lock
/// says that no other gateway uses the one that may lie there.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let beside = path.with_extension("new");
    if beside.as_os_str().len() > ADDRESS_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidFilename,
            format!(
                "the path is longer than the {ADDRESS_BYTES_MAX} bytes a unix socket may have; a shorter gateway.state_dir helps"
            ),
        ));
    }
    match std::fs::remove_file(&beside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(PRIVATE))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

async fn turn_away(stream: UnixStream) {
    let (_from, mut to) = stream.into_split();
    let why = format!("{CLIENTS_MAX} clients are connected already");
    say(&mut to, &Answer::Refused { why })
        .await
        .unwrap_or_default();
}

/// Whether the kernel says that it is our own user, or root.
fn may_ask(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if is_heard(peer.uid(), own) => true,
        Ok(peer) => {
            warn!(
                uid = peer.uid(),
                "somebody else asked at the admin socket and was not heard"
            );
            false
        }
        Err(error) => {
            warn!(%error, "who asks at the admin socket cannot be told");
            false
        }
    }
}

const fn is_heard(peer: u32, own: u32) -> bool {
    peer == own || peer == ROOT
}

async fn attend(stream: UnixStream, rooms: Rooms) {
    if !may_ask(&stream) {
        return;
    }
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    loop {
        let request = match timeout(IDLE_MAX, hear(&mut from)).await {
            Ok(Ok(Some(request))) => request,
            // Gone, or silent.
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => {
                let why = error.to_string();
                return say(&mut to, &Answer::Invalid { why })
                    .await
                    .unwrap_or_default();
            }
        };
        let answer = tokio::select! {
            answer = rooms.answer(&request) => answer,
            () = gone(&mut from) => return,
        };
        if let Err(error) = say(&mut to, &answer).await {
            debug!(%error, "an answer at the admin socket was not taken");
            return;
        }
    }
}

/// The next request; none at the end of the stream.
async fn hear(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Request>> {
    let mut line = Vec::new();
    let mut limited = from.take(REQUEST_BYTES_MAX);
    if limited.read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let why = format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Returns when the client has hung up. One that says more meanwhile has not.
async fn gone(from: &mut BufReader<OwnedReadHalf>) {
    match from.fill_buf().await {
        Ok([]) | Err(_) => return,
        Ok(_more) => {}
    }
    // What it said is for later: only the kernel knows whether it is still there.
    loop {
        match from.get_ref().ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(LOOK_EVERY).await,
            Ok(_) | Err(_) => return,
        }
    }
}

async fn say(to: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    match timeout(IDLE_MAX, to.write_all(&line)).await {
        Ok(written) => written,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

impl Rooms {
    async fn answer(&self, request: &Request) -> Answer {
        let (end, wait_s) = match request {
            Request::List => {
                let plugins = entries(&self.plugins.borrow(), self.clock.now());
                return Answer::Plugins { plugins };
            }
            Request::Swap {
                plugin,
                again,
                proved,
                wait_s,
            } => {
                let until = if *proved {
                    Until::Proved
                } else {
                    Until::Serves
                };
                let order = self.swaps.swap(plugin, *again, until);
                (timeout(wait(*wait_s), order).await, wait_s)
            }
            Request::RollBack { plugin, wait_s } => {
                let order = self.swaps.roll_back(plugin);
                (timeout(wait(*wait_s), order).await, wait_s)
            }
            Request::RestoreState { instance } => return self.restore_state(instance).await,
        };
        match end {
            Ok(Ok(end)) => Answer::Swap(Box::new(SwapAnswer::new(&end, self.clock))),
            Ok(Err(refused)) => {
                let why = refused.to_string();
                Answer::Refused { why }
            }
            Err(_elapsed) => {
                let mut why = format!("it had not ended after {wait_s} s and goes on");
                if let Some(call) = self.long_call(request) {
                    why.push_str(&format!("; {call}"));
                }
                Answer::Pending { why }
            }
        }
    }
}

impl Rooms {
    /// What an order may be waiting for.
    fn long_call(&self, order: &Request) -> Option<String> {
        let (Request::Swap { plugin, .. } | Request::RollBack { plugin, .. }) = order else {
            return None;
        };
        let status = self.plugins.borrow();
        let mut connectors = status.connectors.iter();
        let connector = connectors.find(|connector| *connector.name == **plugin)?;
        connector.long_call(self.clock.now())
    }

    async fn restore_state(&self, instance: &str) -> Answer {
        let order = self.swaps.restore_state(instance);
        match timeout(wait(WAIT_S), order).await {
            Ok(Ok(restored)) => Answer::StateRestored {
                restarted: restored == Restored::Restarted,
            },
            Ok(Err(refused)) => Answer::Refused {
                why: refused.to_string(),
            },
            Err(_elapsed) => Answer::Pending {
                why: format!("{instance} had not ended its call after {WAIT_S} s; it comes next"),
            },
        }
    }
}

fn wait(s: u64) -> Duration {
    Duration::from_secs(s.min(WAIT_S_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_user_and_root_are_heard() {
        assert!(is_heard(1_000, 1_000));
        assert!(is_heard(0, 1_000));
        assert!(!is_heard(1_000, 0));
        assert!(!is_heard(1_001, 1_000));
    }
}
