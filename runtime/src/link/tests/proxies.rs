//! Through a proxy, and what it means when there is no way through.

use std::net::SocketAddr;

use moorline_core::link::cause::{Cause, Disconnect, Phase};
use moorline_core::link::{ParkReason, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::{LinkSettings, ProxyKind, ProxyLogin, ProxySettings, Secret};
use super::rig::{self, Rig, reading};
use super::scripted::{Act, connack_v5, play};

/// A name nobody here resolves: only the proxy can.
const BROKER: &str = "broker.plant.invalid";

/// A proxy that connects whatever it is asked for to the one broker it has.
#[derive(Clone, Copy)]
struct Proxy {
    kind: ProxyKind,
    wants_login: bool,
    broker: SocketAddr,
}

impl Proxy {
    async fn start(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(self.serve(stream));
            }
        });
        address
    }

    async fn serve(self, mut client: TcpStream) {
        let granted = match self.kind {
            ProxyKind::Http => self.http(&mut client).await,
            ProxyKind::Socks5 => self.socks5(&mut client).await,
        };
        if granted {
            let mut broker = TcpStream::connect(self.broker).await.expect("the broker");
            drop(tokio::io::copy_bidirectional(&mut client, &mut broker).await);
        }
    }

    async fn http(self, client: &mut TcpStream) -> bool {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.expect("the request"));
        }
        let head = String::from_utf8(head).expect("text");
        assert!(
            head.starts_with("CONNECT broker.plant.invalid:1883 HTTP/1.1\r\n"),
            "{head}"
        );
        // line-7:sesame
        let known = head.contains("\r\nProxy-Authorization: Basic bGluZS03OnNlc2FtZQ==\r\n");
        let granted = known || !self.wants_login;
        let answer: &[u8] = if granted {
            b"HTTP/1.1 200 Connection established\r\n\r\n"
        } else {
            b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        };
        client.write_all(answer).await.expect("the answer");
        granted
    }

    async fn socks5(self, client: &mut TcpStream) -> bool {
        let mut methods = [0; 2];
        client.read_exact(&mut methods).await.expect("the greeting");
        let mut offered = vec![0; methods[1].into()];
        client.read_exact(&mut offered).await.expect("the methods");
        let method = match (self.wants_login, offered.contains(&2)) {
            (false, _) => 0,
            (true, true) => 2,
            (true, false) => 0xff,
        };
        client.write_all(&[5, method]).await.expect("the choice");
        if method == 0xff {
            return false;
        }
        if method == 2 {
            let mut login = [0; 15];
            client.read_exact(&mut login).await.expect("the login");
            let known = &login == b"\x01\x06line-7\x06sesame";
            client
                .write_all(&[1, u8::from(!known)])
                .await
                .expect("the verdict");
            if !known {
                return false;
            }
        }
        let mut request = vec![0; 4 + 1 + BROKER.len() + 2];
        client.read_exact(&mut request).await.expect("the request");
        assert_eq!(
            &request[..5],
            &[5, 1, 0, 3, u8::try_from(BROKER.len()).expect("short")]
        );
        assert_eq!(&request[5..5 + BROKER.len()], BROKER.as_bytes());
        client
            .write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 7, 91])
            .await
            .expect("the reply");
        true
    }
}

fn through(
    kind: ProxyKind,
    proxy: SocketAddr,
    password: Option<&str>,
) -> impl FnOnce(&mut LinkSettings) {
    let login = password.map(|password| ProxyLogin {
        username: Secret::new("line-7".into()),
        password: Secret::new(password.into()),
    });
    move |settings| {
        settings.endpoints[0].host = BROKER.into();
        settings.endpoints[0].port = 1883;
        settings.timeouts.proxy = std::time::Duration::from_millis(500);
        settings.proxy = Some(ProxySettings {
            kind,
            host: proxy.ip().to_string(),
            port: proxy.port(),
            login,
        });
    }
}

const KINDS: [ProxyKind; 2] = [ProxyKind::Http, ProxyKind::Socks5];

async fn broker() -> super::scripted::Broker {
    play(vec![vec![
        Act::Expect(moorline_core::mqtt_frame::PacketKind::Connect),
        connack_v5(0),
        Act::Serve,
    ]])
    .await
}

#[tokio::test]
async fn a_broker_only_the_proxy_knows_is_reached_through_it() {
    for kind in KINDS {
        for wants_login in [false, true] {
            let broker = broker().await;
            let proxy = Proxy {
                kind,
                wants_login,
                broker: broker.address,
            };
            let proxy = proxy.start().await;
            let mut rig = rig::start(proxy, through(kind, proxy, Some("sesame")));
            rig.append(reading(1)).await;
            rig.delivered().await;
            let status = rig.status.borrow().clone();
            assert!(status.disconnects.is_empty(), "{status:?}");
            assert!(!status.last_up.expect("a session").took.proxy.is_zero());
        }
    }
}

#[tokio::test]
async fn a_proxy_that_wants_other_credentials_parks_the_link() {
    for kind in KINDS {
        for password in [None, Some("wrong!")] {
            let broker = broker().await;
            let proxy = Proxy {
                kind,
                wants_login: true,
                broker: broker.address,
            };
            let proxy = proxy.start().await;
            let mut rig = rig::start(proxy, through(kind, proxy, password));
            let seen = rig.first_disconnect().await;
            assert_eq!(
                (seen.cause, seen.phase),
                (Cause::ProxyRefused(407), Phase::Proxy),
                "{seen}"
            );
            let text = seen.to_string();
            assert!(text.contains(&format!("{proxy}: ")), "{text}");
            assert!(!text.contains("wrong!"), "{text}");
            let parked = State::Parked {
                reason: ParkReason::Proxy,
            };
            assert_eq!(rig.status.borrow().state, parked);
        }
    }
}

/// What a proxy that answers each connection so is taken for.
async fn refused(kind: ProxyKind, answers: Vec<Act>) -> Disconnect {
    let proxy = play(vec![answers]).await;
    let mut rig: Rig = rig::start(proxy.address, through(kind, proxy.address, None));
    let seen = rig.first_disconnect().await;
    let state = rig.status.borrow().state.clone();
    assert!(!matches!(state, State::Parked { .. }), "{seen}");
    seen
}

#[tokio::test]
async fn a_proxy_without_a_way_through_is_told_from_one_that_is_none() {
    let http = |text: &str| Act::Send(text.as_bytes().to_vec());
    let cases = [
        (
            ProxyKind::Http,
            http("HTTP/1.1 403 Forbidden\r\n\r\n"),
            403,
            "403 Forbidden",
        ),
        (
            ProxyKind::Http,
            http("HTTP/1.0 504 Gateway Timeout\r\n\r\n"),
            504,
            "504",
        ),
        (ProxyKind::Http, http("SSH-2.0-OpenSSH_9\r\n"), 0, "no HTTP"),
        (ProxyKind::Http, Act::Fin, 0, "closed instead"),
        (ProxyKind::Http, Act::Deaf, 0, "no answer within 500ms"),
        (
            ProxyKind::Socks5,
            Act::Send(vec![5, 0, 5, 5, 0, 1]),
            5,
            "connection refused",
        ),
        (
            ProxyKind::Socks5,
            Act::Send(vec![5, 0, 5, 2, 0, 1]),
            2,
            "not allowed by its rules",
        ),
        (
            ProxyKind::Socks5,
            http("HTTP/1.1 400 Bad Request\r\n\r\n"),
            0,
            "no SOCKS 5",
        ),
        (ProxyKind::Socks5, Act::Deaf, 0, "no answer within 500ms"),
    ];
    for (kind, answer, code, words) in cases {
        let seen = refused(kind, vec![answer.clone(), Act::Deaf]).await;
        assert_eq!(
            (seen.cause, seen.phase),
            (Cause::ProxyRefused(code), Phase::Proxy),
            "{answer:?}: {seen}"
        );
        assert!(seen.to_string().contains(words), "{seen}");
    }
}
