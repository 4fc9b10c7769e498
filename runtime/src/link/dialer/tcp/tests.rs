use std::net::Ipv4Addr;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;

/// Nothing in these tests takes this long.
const BUDGET: Duration = Duration::from_secs(5);

fn tcp(change: impl FnOnce(&mut LinkSettings)) -> Tcp {
    let mut settings = LinkSettings::new("broker.invalid", 1883, "line-7", PathBuf::new());
    settings.timeouts.tcp = BUDGET;
    change(&mut settings);
    Tcp::new(&settings)
}

async fn listener(ip: impl Into<std::net::IpAddr>) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip.into(), 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// An address whose SYNs vanish: a listener whose queue is full.
fn black_hole() -> ([Socket; 2], SocketAddr) {
    let deaf = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    deaf.bind(&any.into()).expect("a port");
    deaf.listen(0).expect("listening");
    let address = deaf.local_addr().expect("an address");
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    first.connect(&address).expect("the queue has room for one");
    ([deaf, first], address.as_socket().expect("an address"))
}

async fn closed() -> SocketAddr {
    listener(Ipv4Addr::LOCALHOST).await.1
}

#[tokio::test]
async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
    let (_kept, silent) = black_hole();
    let (_listening, good) = listener(std::net::Ipv6Addr::LOCALHOST).await;
    let started = Instant::now();
    let (_stream, peer) = tcp(|_| {})
        .connect(&[silent, good])
        .await
        .expect("the second address answers");
    let took = started.elapsed();
    assert_eq!(peer, good);
    assert!(
        took >= Duration::from_millis(250) && took < BUDGET / 2,
        "{took:?}"
    );
}

#[tokio::test]
async fn an_address_that_refuses_costs_nothing() {
    let (_listening, good) = listener(Ipv4Addr::LOCALHOST).await;
    let started = Instant::now();
    let (_stream, peer) = tcp(|_| {})
        .connect(&[closed().await, closed().await, good])
        .await
        .expect("the third address answers");
    assert_eq!(peer, good);
    assert!(started.elapsed() < Duration::from_millis(250));
}

#[tokio::test]
async fn every_address_is_told_and_the_one_that_answered_names_the_failure() {
    let (_kept, silent) = black_hole();
    let refusing = closed().await;
    let tcp = tcp(|settings| settings.timeouts.tcp = Duration::from_millis(700));
    let failure = tcp
        .connect(&[silent, refusing])
        .await
        .expect_err("nobody answers");
    assert_eq!(failure.error, DialError::Errno(111));
    assert_eq!(failure.phase, Phase::Tcp);
    assert_eq!(
        failure.detail,
        format!("{refusing}: Connection refused (os error 111); {silent}: no answer within 700ms")
    );
}

#[tokio::test]
async fn a_connection_comes_from_where_it_is_told() {
    let (listening, good) = listener(Ipv4Addr::LOCALHOST).await;
    let source = Ipv4Addr::new(127, 0, 0, 5).into();
    let tcp = tcp(|settings| {
        settings.bind = Bind {
            address: Some(source),
            device: Some("lo".into()),
        };
    });
    let (_stream, _peer) = tcp.connect(&[good]).await.expect("a way by loopback");
    let (_accepted, from) = listening.accept().await.expect("a connection");
    assert_eq!(from.ip(), source);
}

#[tokio::test]
async fn a_source_that_is_not_there_is_named() {
    let (_listening, good) = listener(Ipv4Addr::LOCALHOST).await;
    let by_device = Bind {
        device: Some("nowhere0".into()),
        ..Bind::default()
    };
    let by_address = Bind {
        address: Some(Ipv4Addr::new(203, 0, 113, 9).into()),
        ..Bind::default()
    };
    for (bind, errno, option) in [
        (by_device, 19, "link.bind_device nowhere0: No such device"),
        (
            by_address,
            99,
            "link.bind_address 203.0.113.9: Cannot assign",
        ),
    ] {
        let tcp = tcp(|settings| settings.bind = bind);
        let failure = tcp.connect(&[good]).await.expect_err("no such source");
        assert_eq!(failure.error, DialError::Unbound(errno));
        assert!(failure.detail.contains(option), "{}", failure.detail);
    }
}
