//! The acceptor: owns the listener, the orders and the set of connections.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::warn;

use super::connection::Connection;
use super::tap::Acknowledged;
use super::{Command, Counts, Mode, Orders, Strike};

const BACKLOG: i32 = 64;

/// A listener on `address`, which may have connections of an earlier listener in TIME_WAIT.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

pub(super) struct Acceptor {
    address: SocketAddr,
    upstream: SocketAddr,
    tap: Option<mpsc::Sender<Acknowledged>>,
    counts: watch::Sender<Counts>,
    inbox: mpsc::Receiver<Command>,
    orders: watch::Sender<Orders>,
    connections: JoinSet<()>,
    accepted: u64,
}

impl Acceptor {
    pub(super) fn new(
        address: SocketAddr,
        upstream: SocketAddr,
        tap: Option<mpsc::Sender<Acknowledged>>,
        counts: watch::Sender<Counts>,
        inbox: mpsc::Receiver<Command>,
    ) -> Self {
        let (orders, _none_yet) = watch::channel(Orders::default());
        Self {
            address,
            upstream,
            tap,
            counts,
            inbox,
            orders,
            connections: JoinSet::new(),
            accepted: 0,
        }
    }

    /// Runs until told to stop. Dropping the connection set ends the connections.
    pub(super) async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(Command::Mode(mode, done)) => self.change(mode, &mut listener, done),
                    Some(Command::Strike(strike, done)) => self.strike(strike, done),
                    Some(Command::Stop) | None => return,
                },
                client = accept(listener.as_ref()) => match client {
                    Ok(client) => self.spawn(client),
                    Err(error) => warn!(%error, "fault proxy: accept failed"),
                },
                Some(_ended) = self.connections.join_next() => {
                    self.counts.send_modify(|counts| counts.open -= 1);
                }
            }
        }
    }

    fn spawn(&mut self, client: tokio::net::TcpStream) {
        self.accepted += 1;
        self.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        let connection = Connection {
            number: self.accepted,
            upstream: self.upstream,
            tap: self.tap.clone(),
            counts: self.counts.clone(),
            orders: self.orders.subscribe(),
        };
        self.connections.spawn(connection.run(client));
    }

    fn change(
        &self,
        mode: Mode,
        listener: &mut Option<TcpListener>,
        done: oneshot::Sender<io::Result<()>>,
    ) {
        let result = match mode {
            Mode::Refuse => {
                *listener = None;
                Ok(())
            }
            Mode::Pass | Mode::BlackHole(_) | Mode::Unread | Mode::Shape(_)
                if listener.is_some() =>
            {
                Ok(())
            }
            Mode::Pass | Mode::BlackHole(_) | Mode::Unread | Mode::Shape(_) => {
                listen(self.address).map(|bound| *listener = Some(bound))
            }
        };
        self.orders.send_modify(|orders| orders.mode = mode);
        // Nobody waits for the answer any more: nothing to tell.
        done.send(result).unwrap_or(());
    }

    fn strike(&self, strike: Strike, done: oneshot::Sender<()>) {
        self.orders.send_modify(|orders| {
            orders.strikes += 1;
            orders.strike = Some(strike);
        });
        done.send(()).unwrap_or(());
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(client, _address)| client),
        None => std::future::pending().await,
    }
}
