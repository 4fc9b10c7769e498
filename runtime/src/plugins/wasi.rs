//! What a guest has of WASI: clocks, randomness and stdio, and beyond that what is granted to it.
//!
//! What it prints, and what it is refused, is kept in a bounded queue until the call has ended, and goes to the log then,
//! under the same gate as what it logs.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use moorline_core::confine::TcpGrant;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{
    DynPollable, OutputStream, Pollable, SocketError, StreamError, StreamResult,
};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView, WasiSocketsView as _};
use wasmtime_wasi::{FsPerms, HostWallClock, WasiCtx};

use super::grants::Grants;
use super::http::Http;
use super::store::HostState;

/// Random bytes of one request.
const RANDOM_BYTES_MAX: u64 = 4096;
/// What one call may say.
const SAID_QUEUED: usize = 64;
/// Characters of a name that are repeated.
const NAME_CHARS_SHOWN: usize = 64;
/// Bytes of one write to stdout or stderr.
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
}

/// What stands behind the imports of one Store.
pub(crate) struct Wasi {
    pub(crate) context: WasiCtx,
    /// What is said in the call under way.
    pub(crate) said: mpsc::Receiver<Said>,
    pub(crate) net: Net,
    pub(crate) http: Http,
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
        match self.said.try_send(Said::Denied(format!("{what}; {key}"))) {
            // Full: the guest is told in any case.
            Ok(()) | Err(_) => {}
        }
    }
}

/// All of WASI 0.2 and the client's half of `wasi:http`, with names resolved only where they are granted: a lookup is a message to somebody, too.
pub(crate) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    ip_name_lookup::add_to_linker::<_, Lookups>(linker, |state| Lookup {
        net: state.net.clone(),
        sockets: state.sockets(),
    })?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)
}

struct Lookups;

impl HasData for Lookups {
    type Data<'a> = Lookup<'a>;
}

struct Lookup<'a> {
    net: Net,
    sockets: WasiSocketsCtxView<'a>,
}

impl ip_name_lookup::Host for Lookup<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        let granted = name.parse::<IpAddr>().is_ok()
            || self.net.tcp.iter().any(|grant| grant.is_called(&name));
        if granted {
            return self.sockets.resolve_addresses(network, name);
        }
        let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
        self.net.deny(&format!("resolving {shown:?}"));
        Err(ErrorCode::AccessDenied.into())
    }
}

impl network::Host for Lookup<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.sockets.convert_error_code(error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.sockets.network_error_code(error)
    }
}

impl network::HostNetwork for Lookup<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets, network)
    }
}

impl ip_name_lookup::HostResolveAddressStream for Lookup<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> Result<Option<IpAddress>, SocketError> {
        self.sockets.resolve_next_address(stream)
    }

    fn subscribe(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        ip_name_lookup::HostResolveAddressStream::subscribe(&mut self.sockets, stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        ip_name_lookup::HostResolveAddressStream::drop(&mut self.sockets, stream)
    }
}

/// What is granted, and where is said what happens.
pub(crate) fn context(grants: &Grants) -> Wasi {
    let (said, queue) = mpsc::channel(SAID_QUEUED);
    let net = Net {
        tcp: grants.tcp.as_slice().into(),
        said: said.clone(),
    };
    let mut wasi = WasiCtx::builder();
    wasi.stdout(Output {
        said: said.clone(),
        wrap: Said::Out,
    })
    .stderr(Output {
        said,
        wrap: Said::Err,
    })
    .envs(&grants.environment)
    .max_random_size(RANDOM_BYTES_MAX)
    .allow_tcp(true)
    .allow_udp(false)
    .allow_ip_name_lookup(true);
    if !grants.wall_clock {
        wasi.wall_clock(NoWallClock);
    }
    for directory in &grants.directories {
        let opened = wasi.preopened_dir(&directory.host, &directory.guest, FsPerms::ReadOnly);
        if let Err(error) = opened {
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
        http: Http::new(&grants.http, net.said.clone()),
        net,
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

/// A guest's stdout or stderr. It takes everything; what is too much is dropped.
#[derive(Clone)]
struct Output {
    said: mpsc::Sender<Said>,
    wrap: fn(String) -> Said,
}

impl Output {
    fn say(&self, bytes: &[u8]) {
        let shown = bytes.get(..WRITE_BYTES_MAX).unwrap_or(bytes);
        let text = String::from_utf8_lossy(shown);
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
        self.say(&bytes);
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
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.say(bytes);
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
