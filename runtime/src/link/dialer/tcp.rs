//! TCP: the addresses of a name in a race, and what every socket is set to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use moorline_core::link::cause::Phase;
use moorline_core::link::happy_eyeballs::Race;
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::{DialError, DialFailure, errno_or_closed};
use crate::clock::Clock;
use crate::link::settings::{Bind, LinkSettings};

#[cfg(test)]
mod tests;

/// The kernel probes an idle connection after this long, so that a dead peer shows even between PINGREQs.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);

/// How to connect to one of several addresses.
#[derive(Clone)]
pub(super) struct Tcp {
    /// All addresses together.
    budget: Duration,
    options: Arc<SocketOptions>,
}

impl Tcp {
    pub(super) fn new(settings: &LinkSettings) -> Self {
        Self {
            budget: settings.timeouts.tcp,
            options: Arc::new(SocketOptions {
                user_timeout: settings.liveness.tcp_user,
                bind: settings.bind.clone(),
            }),
        }
    }

    /// Races the addresses; the first to connect wins and the others are dropped.
    pub(super) async fn connect(
        &self,
        addresses: &[SocketAddr],
    ) -> Result<(TcpStream, SocketAddr), DialFailure> {
        let clock = Clock::start();
        let deadline = clock.now() + self.budget;
        let mut race = Race::new(clock.now(), addresses, self.budget);
        let mut runners = JoinSet::new();
        let mut outcomes = Outcomes::default();
        while !race.is_lost() && clock.now() < deadline {
            while let Some(address) = race.poll_start(clock.now()) {
                outcomes.under_way.push(address);
                let options = Arc::clone(&self.options);
                runners.spawn(async move { (address, options.connect(address).await) });
            }
            let look_again = race
                .poll_timeout()
                .map_or(deadline, |next| next.min(deadline));
            let finished = tokio::select! {
                Some(finished) = runners.join_next() => finished,
                () = sleep_until(clock.deadline(look_again)) => continue,
            };
            match finished {
                Ok((address, Ok(stream))) => return Ok((stream, address)),
                Ok((address, Err(error))) => {
                    outcomes.failed(address, &error);
                    race.failed(clock.now());
                }
                // A runner only fails to finish with the runtime itself.
                Err(_aborted) => race.failed(clock.now()),
            }
        }
        Err(outcomes.lost(race.waiting(), self.budget))
    }
}

/// What every socket is set to.
struct SocketOptions {
    user_timeout: Duration,
    bind: Bind,
}

/// Why one address cannot be had.
enum NoStream {
    /// The kernel's word.
    Io(io::Error),
    /// The interface or address to connect from is not there.
    NoSuchSource(io::Error, String),
}

impl From<io::Error> for NoStream {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl SocketOptions {
    async fn connect(&self, address: SocketAddr) -> Result<TcpStream, NoStream> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            None,
        )?;
        self.set(&socket)?;
        self.bind(&socket)?;
        Ok(TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await?)
    }

    fn bind(&self, socket: &Socket) -> Result<(), NoStream> {
        #[cfg(target_os = "linux")]
        if let Some(device) = &self.bind.device {
            socket
                .bind_device(Some(device.as_bytes()))
                .map_err(|error| {
                    NoStream::NoSuchSource(error, format!("link.bind_device {device}"))
                })?;
        }
        if let Some(address) = self.bind.address {
            socket
                .bind(&SocketAddr::new(address, 0).into())
                .map_err(|error| {
                    NoStream::NoSuchSource(error, format!("link.bind_address {address}"))
                })?;
        }
        Ok(())
    }

    fn set(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL);
        socket.set_tcp_keepalive(&keepalive)?;
        // Without it a black hole shows only after the kernel's 15 minutes of retransmissions.
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        Ok(())
    }
}

/// What became of each address of a race.
#[derive(Default)]
struct Outcomes {
    under_way: Vec<SocketAddr>,
    told: Option<DialError>,
    words: Vec<String>,
}

impl Outcomes {
    fn tell(&mut self, error: DialError, words: String) {
        if self
            .told
            .is_none_or(|before| telling(error) > telling(before))
        {
            self.told = Some(error);
        }
        self.words.push(words);
    }

    fn failed(&mut self, address: SocketAddr, failure: &NoStream) {
        self.under_way.retain(|&other| other != address);
        match failure {
            NoStream::Io(error) => {
                self.tell(errno_or_closed(error), format!("{address}: {error}"));
            }
            NoStream::NoSuchSource(error, option) => {
                let exact = error
                    .raw_os_error()
                    .map_or(DialError::Closed, DialError::Unbound);
                self.tell(exact, format!("{address}: {option}: {error}"));
            }
        }
    }

    /// Nobody won within `budget`.
    fn lost(
        mut self,
        not_started: impl Iterator<Item = SocketAddr>,
        budget: Duration,
    ) -> DialFailure {
        for address in std::mem::take(&mut self.under_way) {
            let words = format!("{address}: no answer within {budget:?}");
            self.tell(DialError::Timeout, words);
        }
        self.words
            .extend(not_started.map(|address| format!("{address}: no time left to try it")));
        DialFailure {
            phase: Phase::Tcp,
            error: self.told.unwrap_or(DialError::Timeout),
            detail: self.words.join("; "),
        }
    }
}

/// Which address's failure names the attempt: one that answered says more than one that did not, and a missing route
/// (often only IPv6's) says least.
fn telling(error: DialError) -> u8 {
    match error {
        DialError::Errno(errno) if answered(errno) => 3,
        DialError::Timeout => 2,
        DialError::Errno(_)
        | DialError::Unbound(_)
        | DialError::Proxy(_)
        | DialError::Closed
        | DialError::Unresolved
        | DialError::Tls(_)
        | DialError::WebSocket(_) => 1,
    }
}

fn answered(errno: i32) -> bool {
    let kind = io::Error::from_raw_os_error(errno).kind();
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}
