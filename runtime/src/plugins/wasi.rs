//! What a guest has of WASI: clocks, randomness and stdio, and beyond that what is granted to it.
//!
//! What it prints, and what it is refused, is kept in a bounded queue until the call has ended, and goes to the log then,
//! under the same gate as what it logs.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use moorline_core::confine::{Limit, TcpGrant};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime::error::ensure;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{Host as _, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, Host as _, IpAddressFamily, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::{Host as _, TcpSocket};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsView as _};
use wasmtime_wasi::{FsPerms, HostWallClock, WasiCtx};

use super::descriptors::{Descriptors, Places};
use super::files;
use super::grants::Sandbox;
use super::http::Http;
use super::store::HostState;

/// Random bytes of one request.
const RANDOM_BYTES_MAX: u64 = 4096;
/// What one call may say.
const SAID_QUEUED: usize = 64;
/// Characters of a name that are repeated.
const NAME_CHARS_SHOWN: usize = 64;
/// Bytes of one write to stdout or stderr, and of a line that is kept.
const WRITE_BYTES_MAX: usize = 4096;

/// What the host learns of a guest beside its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Written to stdout.
    Out(String),
    /// Written to stderr.
    Err(String),
    /// It wanted what is not granted; with the key that would.
    Denied(String),
    /// It wanted more than it may have.
    Exceeded(Limit),
}

/// What stands behind the imports of one Store.
pub(crate) struct Wasi {
    pub(crate) context: WasiCtx,
    /// What is said in the call under way.
    pub(crate) said: mpsc::Receiver<Said>,
    pub(crate) net: Net,
    pub(crate) http: Http,
    pub(crate) descriptors: Descriptors,
}

/// Where a guest may connect to, and where is told what it may not.
#[derive(Clone)]
pub(crate) struct Net {
    tcp: Arc<[TcpGrant]>,
    said: mpsc::Sender<Said>,
}

impl Net {
    fn deny(&self, what: &str) {
        let key = "what may be connected to stands in tcp of [connector.grants]";
        self.refuse(&format!("{what}; {key}"));
    }

    /// Something is not granted: what, and the key that would.
    pub(super) fn refuse(&self, what: &str) {
        self.say(Said::Denied(what.to_owned()));
    }

    pub(super) fn exceed(&self, limit: Limit) {
        self.say(Said::Exceeded(limit));
    }

    fn say(&self, said: Said) {
        match self.said.try_send(said) {
            // Full: the guest is told in any case.
            Ok(()) | Err(_) => {}
        }
    }

    /// Where is told what happens beside a call's way.
    pub(super) fn said(&self) -> mpsc::Sender<Said> {
        self.said.clone()
    }
}

/// The interfaces of which some functions are ours. Exactly those that wasmtime defines: beside another version a component would
/// get wasmtime's own functions.
const CREATE_SOCKET: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const LOOK_UP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// All of WASI 0.2 and the client's half of `wasi:http`, but for what opens descriptors or changes a directory: that is checked and
/// counted first, and names are resolved only where they are granted, since a lookup is a message to somebody, too.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    let of_files = files::functions().map(|function| (files::INTERFACE, function));
    let of_sockets = [
        (CREATE_SOCKET, "create-tcp-socket"),
        (LOOK_UP, "resolve-addresses"),
    ];
    for (interface, function) in of_sockets.into_iter().chain(of_files) {
        // Only what is not there yet can be defined.
        let stand_in = |_: StoreContextMut<'_, HostState>, (): ()| Ok(());
        let defined = linker.instance(interface)?.func_wrap(function, stand_in);
        ensure!(
            defined.is_err(),
            "wasmtime has no {function} of {interface}"
        );
    }
    linker.allow_shadowing(true);
    linker
        .instance(CREATE_SOCKET)?
        .func_wrap("create-tcp-socket", |mut store, (family,)| {
            Ok((create_socket(store.data_mut(), family)?,))
        })?;
    linker
        .instance(LOOK_UP)?
        .func_wrap("resolve-addresses", |mut store, (network, name)| {
            Ok((resolve(store.data_mut(), network, name)?,))
        })?;
    files::define(linker)?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

/// Without a grant there is nothing to do with a socket, and none is made.
fn create_socket(
    state: &mut HostState,
    family: IpAddressFamily,
) -> wasmtime::Result<Result<Resource<TcpSocket>, network::ErrorCode>> {
    if state.net.tcp.is_empty() {
        state.net.deny("a TCP socket");
        return Ok(Err(network::ErrorCode::AccessDenied));
    }
    let Ok(place) = state.take_descriptor() else {
        return Ok(Err(network::ErrorCode::NewSocketLimit));
    };
    match state.sockets().create_tcp_socket(family) {
        Ok(socket) => {
            state.descriptors.hold(&socket, place);
            Ok(Ok(socket))
        }
        Err(error) => Ok(Err(state.sockets().convert_error_code(error)?)),
    }
}

fn resolve(
    state: &mut HostState,
    network: Resource<Network>,
    name: String,
) -> wasmtime::Result<Result<Resource<ResolveAddressStream>, network::ErrorCode>> {
    let granted =
        name.parse::<IpAddr>().is_ok() || state.net.tcp.iter().any(|grant| grant.is_called(&name));
    if !granted {
        let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
        state.net.deny(&format!("resolving {shown:?}"));
        return Ok(Err(network::ErrorCode::AccessDenied));
    }
    let Ok(place) = state.take_descriptor() else {
        return Ok(Err(network::ErrorCode::TemporaryResolverFailure));
    };
    match state.sockets().resolve_addresses(network, name) {
        Ok(addresses) => {
            state.descriptors.hold(&addresses, place);
            Ok(Ok(addresses))
        }
        Err(error) => Ok(Err(state.sockets().convert_error_code(error)?)),
    }
}

/// What is granted, and where is said what happens.
pub(crate) fn context(sandbox: &Sandbox) -> Wasi {
    let grants = &sandbox.grants;
    let (said, queue) = mpsc::channel(SAID_QUEUED);
    let net = Net {
        tcp: grants.tcp.as_slice().into(),
        said: said.clone(),
    };
    let places = Places::new(sandbox.limits.descriptors, said.clone());
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Output::new(said.clone(), Said::Out))
        .stderr(Output::new(said, Said::Err))
        .envs(&grants.environment)
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(!grants.tcp.is_empty())
        .allow_udp(false)
        .allow_ip_name_lookup(true);
    if !grants.wall_clock {
        wasi.wall_clock(NoWallClock);
    }
    let read = grants.directories.iter().cloned();
    let read = read.map(|directory| (directory, FsPerms::ReadOnly));
    let written = sandbox.writable_directories();
    let written = written.map(|directory| (directory, FsPerms::ReadWrite));
    for (directory, perms) in read.chain(written) {
        sandbox.opener.goes_to(&directory.host);
        if perms == FsPerms::ReadWrite && sandbox.connection.is_some() {
            make_own(&directory.host);
        }
        if let Err(error) = wasi.preopened_dir(&directory.host, &directory.guest, perms) {
            let host = directory.host.display();
            tracing::error!(%host, "a directory that is granted to a plugin cannot be opened: {error}");
        }
    }
    let checked = net.clone();
    wasi.socket_addr_check(move |target, purpose| {
        let net = checked.clone();
        Box::pin(async move { may_use(&net, target, purpose).await })
    });
    Wasi {
        context: wasi.build(),
        said: queue,
        http: Http::new(&grants.http, places.clone(), net.said.clone()),
        net,
        descriptors: Descriptors::new(places),
    }
}

/// A connection's own directory in one that is there. What keeps it from being made, opening it says.
fn make_own(directory: &Path) {
    match std::fs::create_dir(directory) {
        Ok(()) | Err(_) => {}
    }
}

/// Whether a socket may do this. Only connections that go out are granted; what they are bound to is the system's choice.
async fn may_use(net: &Net, target: SocketAddr, purpose: SocketAddrUse) -> bool {
    let anywhere = target.ip().is_unspecified() && target.port() == 0;
    let (granted, what) = match purpose {
        SocketAddrUse::TcpBind => (anywhere, "binding to"),
        SocketAddrUse::TcpConnect => (is_granted(&net.tcp, target).await, "connecting to"),
        SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => (false, "listening on"),
        SocketAddrUse::UdpBind | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => {
            (false, "UDP with")
        }
    };
    if !granted {
        net.deny(&format!("{what} {target}"));
    }
    granted
}

async fn is_granted(tcp: &[TcpGrant], target: SocketAddr) -> bool {
    if tcp.iter().any(|grant| grant.contains(target)) {
        return true;
    }
    for name in tcp.iter().filter_map(|grant| grant.name(target.port())) {
        let resolved = tokio::net::lookup_host((name, target.port())).await;
        let mut addresses = resolved.into_iter().flatten();
        if addresses.any(|address| TcpGrant::fits(address.ip(), target)) {
            return true;
        }
    }
    false
}

/// The beginning of 1970: what a clock shows that was never set.
struct NoWallClock;

impl HostWallClock for NoWallClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// A guest's stdout or stderr, by line: interpreters write a line in many pieces. It takes everything; what is too much is
/// dropped.
#[derive(Clone)]
struct Output {
    said: mpsc::Sender<Said>,
    wrap: fn(String) -> Said,
    /// The line that has not ended.
    line: Vec<u8>,
}

impl Output {
    fn new(said: mpsc::Sender<Said>, wrap: fn(String) -> Said) -> Self {
        let line = Vec::new();
        Self { said, wrap, line }
    }

    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = WRITE_BYTES_MAX.saturating_sub(self.line.len());
            let kept = piece.get(..room).unwrap_or(piece);
            self.line.extend_from_slice(kept);
            if piece.ends_with(b"\n") {
                self.say();
            }
        }
    }

    fn say(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            return;
        }
        match self.said.try_send((self.wrap)(text.to_owned())) {
            // Full: one call has said enough.
            Ok(()) | Err(_) => {}
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.say();
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // The default would write from a task of its own, some time after the call.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("more was written than is permitted"));
        }
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl Pollable for Output {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_in_pieces_is_said_by_line() {
        let (said, mut queue) = mpsc::channel(SAID_QUEUED);
        let mut output = Output::new(said, Said::Err);
        for piece in [
            "Trace", "back:\n", "Name", "Error", ": ", "x\n\n", "and then",
        ] {
            output.take(piece.as_bytes());
        }
        output.take(&[b'-'; 2 * WRITE_BYTES_MAX]);
        drop(output);
        let mut next = || queue.try_recv().unwrap();
        assert_eq!(next(), Said::Err("Traceback:".to_owned()));
        assert_eq!(next(), Said::Err("NameError: x".to_owned()));
        let Said::Err(last) = next() else {
            panic!("not of stderr")
        };
        assert!(last.starts_with("and then-") && last.len() == WRITE_BYTES_MAX);
        assert!(queue.try_recv().is_err());
    }
}
