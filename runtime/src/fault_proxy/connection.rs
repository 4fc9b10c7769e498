//! One proxied connection: dials the broker, runs the two pumps, takes the strikes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use super::pump::{Pump, PumpEnd};
use super::tap::{self, Acknowledged};
use super::{Counts, Direction, Mode, Orders, Strike};

/// How long a peer may take to close after our FIN.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) upstream: SocketAddr,
    pub(super) tap: Option<mpsc::Sender<Acknowledged>>,
    pub(super) counts: watch::Sender<Counts>,
    pub(super) orders: watch::Receiver<Orders>,
}

/// How both sockets are to be closed.
enum Ending {
    Reset,
    Close,
}

impl Connection {
    pub(super) async fn run(mut self, client: TcpStream) {
        let struck = self.orders.borrow_and_update().strikes;
        let broker = tokio::select! {
            dialled = dial(self.upstream, self.orders.clone()) => dialled,
            ending = struck_down(self.orders.clone(), struck) => {
                return finish(&ending, client, None).await;
            }
        };
        let broker = match broker {
            Ok(broker) => broker,
            Err(error) => {
                debug!(connection = self.number, %error, "fault proxy: the broker cannot be reached");
                return finish(&Ending::Reset, client, None).await;
            }
        };
        for socket in [&client, &broker] {
            if let Err(error) = socket.set_nodelay(true) {
                debug!(%error, "fault proxy: TCP_NODELAY refused");
            }
        }
        let ending = self.pump(&client, &broker, struck).await;
        finish(&ending, client, Some(broker)).await;
    }

    async fn pump(&self, client: &TcpStream, broker: &TcpStream, struck: u64) -> Ending {
        let tap = tap::spawn(self.tap.clone(), self.counts.clone());
        let pump = |direction| {
            Pump::new(
                direction,
                self.number,
                struck,
                self.orders.clone(),
                tap.clone(),
            )
        };
        let up = pump(Direction::ToBroker).run(client, broker);
        let down = pump(Direction::ToClient).run(broker, client);
        tokio::pin!(up, down);
        let end = tokio::select! {
            end = &mut up => end,
            end = &mut down => end,
            ending = struck_down(self.orders.clone(), struck) => return ending,
        };
        // MQTT has no use for half-open connections: a FIN on one side ends both.
        match end {
            PumpEnd::Finished => Ending::Close,
            PumpEnd::Broken => Ending::Reset,
        }
    }
}

/// Connects to the broker, but not while nothing may pass.
async fn dial(upstream: SocketAddr, mut orders: watch::Receiver<Orders>) -> io::Result<TcpStream> {
    let passes = |orders: &Orders| match orders.mode {
        Mode::BlackHole(Some(Direction::ToClient))
        | Mode::Pass
        | Mode::Refuse
        | Mode::Unread
        | Mode::Shape(_) => true,
        Mode::BlackHole(Some(Direction::ToBroker) | None) => false,
    };
    if orders.wait_for(passes).await.is_err() {
        return Err(super::ended());
    }
    TcpStream::connect(upstream).await
}

/// Waits for a strike after the `struck`-th that ends connections at once.
async fn struck_down(mut orders: watch::Receiver<Orders>, struck: u64) -> Ending {
    let ends_now =
        |orders: &Orders| orders.strikes > struck && orders.strike != Some(Strike::CutMidPacket);
    let strike = match orders.wait_for(ends_now).await {
        Ok(orders) => orders.strike,
        Err(_proxy_ended) => Some(Strike::Close),
    };
    match strike {
        Some(Strike::Reset) => Ending::Reset,
        Some(Strike::Close | Strike::CutMidPacket) | None => Ending::Close,
    }
}

/// Ends both sides the same way. Bytes that arrive after our FIN are read and dropped for a moment: closing a socket
/// with unread bytes would turn the FIN into an RST.
async fn finish(ending: &Ending, client: TcpStream, broker: Option<TcpStream>) {
    match ending {
        Ending::Reset => {
            for socket in std::iter::once(&client).chain(&broker) {
                if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
                    debug!(%error, "fault proxy: SO_LINGER refused");
                }
            }
        }
        Ending::Close => {
            let broker_side = async {
                if let Some(broker) = broker {
                    close(broker).await;
                }
            };
            tokio::join!(close(client), broker_side);
        }
    }
}

async fn close(mut socket: TcpStream) {
    if socket.shutdown().await.is_err() {
        return;
    }
    let mut sink = tokio::io::sink();
    let drained = tokio::io::copy(&mut socket, &mut sink);
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        debug!("fault proxy: a peer did not close after our FIN");
    }
}
