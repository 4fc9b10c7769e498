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
//! | `print` | `"text"` | a line on stdout and on stderr |
//! | `stream` | `"name"` | a stream by that name |

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use moorline_plugin_sdk::{
    Connector, Description, Event, Fault, HandOver, Host, RpcRequest, Setup, Wake, export_connector,
};
use wasi::wasi::cli::{environment, stderr, stdout};
use wasi::wasi::clocks::wall_clock;
use wasi::wasi::filesystem::preopens;
use wasi::wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasi::wasi::http::outgoing_handler;
use wasi::wasi::http::types::{Fields, OutgoingRequest, Scheme};
use wasi::wasi::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
};
use wasi::wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket};

mod wasi {
    wit_bindgen::generate!({ path: "wit", world: "reaching", generate_all });
}

struct Reaching;

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
        Ok((Self, None))
    }

    fn handle(&mut self, event: Event, host: &mut dyn Host) -> Result<Wake, Fault> {
        if let Event::Rpc(request) = event {
            let text = request.params.trim_matches('"').to_owned();
            let answer = tried(&request, &text, host);
            let words = match answer {
                Ok(words) => format!("granted {words}"),
                Err(words) => words,
            };
            let plain = words.replace(['"', '\\'], "'");
            host.reply(request.id, &format!("\"{plain}\""))
                .map_err(|error| Fault::Internal(format!("{error:?}")))?;
        }
        Ok(None)
    }

    fn stop(&mut self, _host: &mut dyn Host) -> HandOver {
        HandOver {
            schema: 1,
            bytes: Vec::new(),
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

fn remove(path: &str) -> Result<String, String> {
    let (directory, rest) = found(path)?;
    directory
        .unlink_file_at(&rest)
        .map(|()| String::new())
        .map_err(|error| format!("{error:?}"))
}

export_connector!(Reaching);
