//! A connector that tries to reach things over WASI when an RPC asks it to, and answers how that went: a JSON text that
//! holds `granted …` or the reason it was given.
//!
//! | method | params | what it tries |
//! |---|---|---|
//! | `environment` | | all variables |
//! | `time` | | both wall clocks, in seconds |
//! | `connect` | `"127.0.0.1:502"` | a TCP connection |
//! | `bind` | `"127.0.0.1:502"` | a port of its own |
//! | `resolve` | `"name"` | a name |
//! | `request` | `"http://127.0.0.1:80"` | an HTTP request |
//! | `read`, `create`, `remove` | `"/maps/file"` | a file |
//! | `cut` | `"/maps/file"` | to open it and cut it to nothing |
//! | `write` | `"/maps/file=text"` | a file with this in it |
//! | `write-at`, `stream-at` | `"/maps/file=7"` | one byte at an offset, by a call or by a stream |
//! | `append` | `"/maps/file=7"` | so many bytes, by a stream |
//! | `resize` | `"/maps/file=7"` | a file of this length |
//! | `make-directory`, `remove-directory` | `"/maps/directory"` | a directory |
//! | `rename`, `link` | `"/maps/old=/maps/new"` | another name of a file |
//! | `symlink` | `"target=/maps/new"` | a symbolic link |
//! | `fill` | `"/maps/name"` | files, `name0` and so on, until one is refused |
//! | `print` | `"text"` | a line on stdout and on stderr |
//! | `stream` | `"name"` | a stream by that name |
//! | `sockets` | | TCP sockets until one is refused; it keeps them |
//! | `files` | `"/maps/file"` | the same with a file |
//! | `readers` | `"/maps/file"` | the same with what reads from a file, which it closes |
//! | `keep` | `"/maps/file"` | a file, which it keeps open to be written |
//! | `trap` | | nothing: it ends |
//! | `let-go` | | none of what it has kept |
//!
//! With `hoards` in its configuration it takes sockets and its directories by itself, every 50 ms, and lets nothing go.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use moorline_plugin_sdk::{
    Connector, Description, Event, Fault, HandOver, Host, RpcRequest, Setup, Wake, export_connector,
};
use wasi::wasi::cli::{environment, stderr, stdout};
use wasi::wasi::clocks::wall_clock;
use wasi::wasi::filesystem::preopens;
use wasi::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode as FileError, OpenFlags, PathFlags,
    filesystem_error_code,
};
use wasi::wasi::http::outgoing_handler;
use wasi::wasi::http::types::{Fields, OutgoingRequest, Scheme};
use wasi::wasi::io::streams::{InputStream, OutputStream, StreamError};
use wasi::wasi::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use wasi::wasi::sockets::tcp::TcpSocket;
use wasi::wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket};

mod wasi {
    wit_bindgen::generate!({ path: "wit", world: "reaching", generate_all });
}

/// More than any host should give.
const KEPT_MAX: usize = 900;
/// How long one that hoards waits for more.
const HOARDS_EVERY: Duration = Duration::from_millis(50);

struct Reaching {
    kept: Vec<Kept>,
    hoards: bool,
}

/// What costs the host a descriptor. Never used, only had.
enum Kept {
    Socket { _socket: TcpSocket },
    File { _file: Descriptor },
    Reader { _reader: InputStream },
}

impl Reaching {
    /// Opens by `open` until it is refused, and says how often it was not.
    fn hoard(&mut self, open: impl Fn() -> Result<Kept, String>) -> String {
        let before = self.kept.len();
        while self.kept.len() < KEPT_MAX {
            match open() {
                Ok(kept) => self.kept.push(kept),
                Err(error) => return format!("{} then {error}", self.kept.len() - before),
            }
        }
        format!("{} and more", self.kept.len() - before)
    }
}

fn a_socket() -> Result<Kept, String> {
    tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)
        .map(|socket| Kept::Socket { _socket: socket })
        .map_err(|error| format!("{error:?}"))
}

fn a_file(path: &str) -> Result<Descriptor, String> {
    let (directory, rest) = found(path)?;
    directory
        .open_at(
            PathFlags::SYMLINK_FOLLOW,
            &rest,
            OpenFlags::empty(),
            DescriptorFlags::READ,
        )
        .map_err(|error| format!("{error:?}"))
}

fn a_reader(path: &str) -> Result<Kept, String> {
    a_file(path)?
        .read_via_stream(0)
        .map(|reader| Kept::Reader { _reader: reader })
        .map_err(|error| format!("{error:?}"))
}

impl Connector for Reaching {
    fn describe() -> Description {
        Description {
            name: "reaching".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            configuration_schema: "{}".into(),
            hand_over_schema: 1,
        }
    }

    fn start(setup: Setup, host: &mut dyn Host) -> Result<(Self, Wake), Fault> {
        // The host learns who owns the device, so that the RPC finds us.
        host.device_connected(&setup.instance, "")
            .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        let hoards = setup.configuration.contains("hoards");
        let kept = Vec::new();
        Ok((Self { kept, hoards }, hoards.then_some(HOARDS_EVERY)))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        if let Event::Rpc(request) = event {
            let text = request.params.trim_matches('"').to_owned();
            let answer = self.tried(&request, &text, host);
            let words = match answer {
                Ok(words) => format!("granted {words}"),
                Err(words) => words,
            };
            let plain = words.replace(['"', '\\'], "'");
            host.reply(request.id, &format!("\"{plain}\""))
                .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        } else if self.hoards {
            self.hoard(a_socket);
            for (_, name) in preopens::get_directories() {
                let directory = format!("{name}/.");
                self.hoard(|| a_file(&directory).map(|file| Kept::File { _file: file }));
            }
        }
        Ok(self.hoards.then_some(HOARDS_EVERY))
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        HandOver {
            schema: 1,
            bytes: Vec::new(),
        }
    }
}

impl Reaching {
    fn tried(
        &mut self,
        request: &RpcRequest,
        text: &str,
        host: &mut dyn Host,
    ) -> Result<String, String> {
        match request.method.as_str() {
            "keep" => {
                let how = OpenFlags::empty();
                let _file = opened(text, how, DescriptorFlags::READ | DescriptorFlags::WRITE)?;
                self.kept.push(Kept::File { _file });
                Ok(String::new())
            }
            "trap" => panic!("as it was asked to"),
            "sockets" => Ok(self.hoard(a_socket)),
            "files" => Ok(self.hoard(|| a_file(text).map(|file| Kept::File { _file: file }))),
            "readers" => Ok(self.hoard(|| a_reader(text))),
            "let-go" => {
                self.kept.clear();
                Ok(String::new())
            }
            _ => tried(request, text, host),
        }
    }
}

fn tried(request: &RpcRequest, text: &str, host: &mut dyn Host) -> Result<String, String> {
    match request.method.as_str() {
        "environment" => Ok(format!("{:?}", environment::get_environment())),
        "time" => {
            let (ours, wasi) = (host.now_ms() / 1_000.0, wall_clock::now().seconds);
            Ok(format!("{ours:.0} {wasi}"))
        }
        "connect" => connect(text).map_err(|error| format!("{error:?}")),
        "bind" => bind(text).map_err(|error| format!("{error:?}")),
        "resolve" => resolve(text).map_err(|error| format!("{error:?}")),
        "request" => request_to(text),
        "read" => file(text, OpenFlags::empty(), DescriptorFlags::READ),
        "create" => file(text, OpenFlags::CREATE, DescriptorFlags::WRITE),
        "remove" => remove(text),
        "cut" => file(text, OpenFlags::TRUNCATE, DescriptorFlags::WRITE),
        "write" | "write-at" | "stream-at" | "append" | "resize" | "rename" | "link"
        | "symlink" => change(request.method.as_str(), text),
        "make-directory" => {
            let (directory, rest) = found(text)?;
            plain(directory.create_directory_at(&rest))
        }
        "remove-directory" => {
            let (directory, rest) = found(text)?;
            plain(directory.remove_directory_at(&rest))
        }
        "fill" => fill(text),
        "print" => {
            for stream in [stdout::get_stdout(), stderr::get_stderr()] {
                stream
                    .blocking_write_and_flush(text.as_bytes())
                    .map_err(|error| format!("{error:?}"))?;
            }
            Ok(String::new())
        }
        "stream" => host
            .open(text)
            .map(|id| format!("{id:?}"))
            .map_err(|error| format!("{error:?}")),
        other => Err(format!("no method {other}")),
    }
}

fn address(text: &str) -> Result<IpSocketAddress, ErrorCode> {
    let address: SocketAddrV4 = text.parse().map_err(|_bad| ErrorCode::InvalidArgument)?;
    let [a, b, c, d] = address.ip().octets();
    Ok(IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: address.port(),
        address: (a, b, c, d),
    }))
}

fn connect(text: &str) -> Result<String, ErrorCode> {
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let network = instance_network::instance_network();
    socket.start_connect(&network, address(text)?)?;
    loop {
        match socket.finish_connect() {
            Ok(_streams) => return Ok(text.to_owned()),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn bind(text: &str) -> Result<String, ErrorCode> {
    let socket = tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4)?;
    let network = instance_network::instance_network();
    socket.start_bind(&network, address(text)?)?;
    loop {
        match socket.finish_bind() {
            Ok(()) => return Ok(text.to_owned()),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn resolve(name: &str) -> Result<String, ErrorCode> {
    let network = instance_network::instance_network();
    let addresses = ip_name_lookup::resolve_addresses(&network, name)?;
    loop {
        match addresses.resolve_next_address() {
            Ok(Some(IpAddress::Ipv4((a, b, c, d)))) => {
                return Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, d)).to_string());
            }
            Ok(Some(IpAddress::Ipv6(_))) => return Ok("IPv6".to_owned()),
            Ok(None) => return Err(ErrorCode::NameUnresolvable),
            Err(ErrorCode::WouldBlock) => addresses.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn request_to(origin: &str) -> Result<String, String> {
    let (scheme, authority) = origin.split_once("://").ok_or("no origin")?;
    let scheme = if scheme == "https" {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let request = OutgoingRequest::new(Fields::new());
    let set = request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some("/")));
    set.map_err(|()| "no request")?;
    let response = outgoing_handler::handle(request, None).map_err(|error| format!("{error:?}"))?;
    loop {
        match response.get() {
            Some(Ok(Ok(response))) => return Ok(response.status().to_string()),
            Some(Ok(Err(error))) => return Err(format!("{error:?}")),
            Some(Err(())) => return Err("asked twice".to_owned()),
            None => response.subscribe().block(),
        }
    }
}

/// The directory that holds `path`, and the rest of it.
fn found(path: &str) -> Result<(Descriptor, String), String> {
    let mut directories = Vec::new();
    for (directory, name) in preopens::get_directories() {
        if let Some(rest) = path.strip_prefix(&format!("{name}/")) {
            return Ok((directory, rest.to_owned()));
        }
        directories.push(name);
    }
    Err(format!("no directory for {path} among {directories:?}"))
}

fn file(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<String, String> {
    let (directory, rest) = found(path)?;
    let file = directory
        .open_at(PathFlags::SYMLINK_FOLLOW, &rest, how, flags)
        .map_err(|error| format!("{error:?}"))?;
    if flags.contains(DescriptorFlags::READ) {
        let (bytes, _end) = file.read(4_096, 0).map_err(|error| format!("{error:?}"))?;
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Ok(String::new())
}

fn plain<T>(result: Result<T, FileError>) -> Result<String, String> {
    match result {
        Ok(_) => Ok(String::new()),
        Err(error) => Err(format!("{error:?}")),
    }
}

fn opened(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, String> {
    let (directory, rest) = found(path)?;
    directory
        .open_at(PathFlags::SYMLINK_FOLLOW, &rest, how, flags)
        .map_err(|error| format!("{error:?}"))
}

fn streamed(stream: &OutputStream, bytes: &[u8]) -> Result<String, String> {
    for chunk in bytes.chunks(4_096) {
        match stream.blocking_write_and_flush(chunk) {
            Ok(()) => {}
            Err(StreamError::Closed) => return Err("closed".to_owned()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(format!("{:?}", filesystem_error_code(&error)));
            }
        }
    }
    Ok(String::new())
}

/// What needs two words.
fn change(method: &str, text: &str) -> Result<String, String> {
    let (first, second) = text.split_once('=').ok_or("no =")?;
    let number = || second.parse::<u64>().map_err(|_bad| "no number");
    let file = || opened(first, OpenFlags::CREATE, DescriptorFlags::WRITE);
    match method {
        "write" => plain(file()?.write(second.as_bytes(), 0)),
        "write-at" => plain(file()?.write(b"x", number()?)),
        "resize" => plain(file()?.set_size(number()?)),
        "stream-at" => {
            let file = file()?;
            let stream = file.write_via_stream(number()?);
            streamed(&stream.map_err(|error| format!("{error:?}"))?, b"x")
        }
        "append" => {
            let file = file()?;
            let stream = file.append_via_stream();
            let count = usize::try_from(number()?).map_err(|_large| "too large")?;
            let bytes = vec![b'x'; count];
            streamed(&stream.map_err(|error| format!("{error:?}"))?, &bytes)
        }
        "symlink" => {
            let (directory, rest) = found(second)?;
            plain(directory.symlink_at(first, &rest))
        }
        _ => {
            let ((from, old), (to, new)) = (found(first)?, found(second)?);
            plain(if method == "rename" {
                from.rename_at(&old, &to, &new)
            } else {
                from.link_at(PathFlags::empty(), &old, &to, &new)
            })
        }
    }
}

fn fill(name: &str) -> Result<String, String> {
    let mut count = 0;
    loop {
        let path = format!("{name}{count}");
        match opened(&path, OpenFlags::CREATE, DescriptorFlags::WRITE) {
            Ok(_file) => count += 1,
            Err(error) => return Ok(format!("{count} then {error}")),
        }
    }
}

fn remove(path: &str) -> Result<String, String> {
    let (directory, rest) = found(path)?;
    directory
        .unlink_file_at(&rest)
        .map(|()| String::new())
        .map_err(|error| format!("{error:?}"))
}

export_connector!(Reaching);
