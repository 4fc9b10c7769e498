use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::{Counts, Direction, FaultProxy, Mode, Shape, Strike};

const DEADLINE: Duration = Duration::from_secs(10);
/// Long enough to say that nothing came.
const QUIET: Duration = Duration::from_millis(150);
/// A whole MQTT 3.1.1 CONNECT.
const CONNECT: [u8; 14] = [0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 0];

/// A broker stand-in, a proxy before it, and a client through it.
struct Bench {
    broker: TcpListener,
    proxy: FaultProxy,
}

impl Bench {
    async fn new() -> Self {
        let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = FaultProxy::bind(broker.local_addr().unwrap())
            .await
            .unwrap();
        Self { broker, proxy }
    }

    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.proxy.address()).await.unwrap();
        let (broker, _address) = timeout(DEADLINE, self.broker.accept())
            .await
            .unwrap()
            .unwrap();
        (client, broker)
    }

    async fn wait_for(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        *timeout(DEADLINE, self.proxy.counts().wait_for(condition))
            .await
            .unwrap()
            .unwrap()
    }
}

async fn expect(socket: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    timeout(DEADLINE, socket.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, bytes);
}

async fn next(socket: &mut TcpStream) -> io::Result<usize> {
    timeout(DEADLINE, socket.read(&mut [0; 64])).await.unwrap()
}

async fn is_quiet(socket: &mut TcpStream) -> bool {
    timeout(QUIET, socket.read(&mut [0; 64])).await.is_err()
}

#[tokio::test]
async fn bytes_pass_both_ways_and_connects_are_counted() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    client.write_all(&CONNECT).await.unwrap();
    expect(&mut broker, &CONNECT).await;
    broker.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    expect(&mut client, &[0x20, 2, 0, 0]).await;
    let counts = bench.wait_for(|counts| counts.connects == 1).await;
    assert_eq!((counts.connections, counts.open), (1, 1));
    drop(client);
    assert_eq!(next(&mut broker).await.unwrap(), 0, "FIN passes too");
    bench.wait_for(|counts| counts.open == 0).await;
    bench.proxy.stop().await.unwrap();
}

#[tokio::test]
async fn refuse_refuses_new_connections_and_spares_open_ones() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    bench.proxy.set(Mode::Refuse).await.unwrap();
    let refused = TcpStream::connect(bench.proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    client.write_all(b"still").await.unwrap();
    expect(&mut broker, b"still").await;
    bench.proxy.set(Mode::Pass).await.unwrap();
    let (mut again, mut broker) = bench.connect().await;
    again.write_all(b"back").await.unwrap();
    expect(&mut broker, b"back").await;
}

#[tokio::test]
async fn reset_is_an_rst_and_close_is_a_fin() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    bench.proxy.strike(Strike::Reset).await.unwrap();
    assert_eq!(
        next(&mut client).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        next(&mut broker).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );

    let (mut client, mut broker) = bench.connect().await;
    bench.proxy.strike(Strike::Close).await.unwrap();
    assert_eq!(next(&mut client).await.unwrap(), 0);
    assert_eq!(next(&mut broker).await.unwrap(), 0);
}

#[tokio::test]
async fn an_rst_of_the_broker_reaches_the_client_as_one() {
    let bench = Bench::new().await;
    let (mut client, broker) = bench.connect().await;
    socket2::SockRef::from(&broker)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(broker);
    assert_eq!(
        next(&mut client).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_black_hole_keeps_sockets_open_and_forwards_nothing_until_it_ends() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    bench.proxy.set(Mode::BlackHole(None)).await.unwrap();
    client.write_all(b"up").await.unwrap();
    broker.write_all(b"down").await.unwrap();
    assert!(is_quiet(&mut client).await && is_quiet(&mut broker).await);
    let mut late = TcpStream::connect(bench.proxy.address()).await.unwrap();
    late.write_all(b"late").await.unwrap();
    assert!(
        timeout(QUIET, bench.broker.accept()).await.is_err(),
        "nothing reaches the broker"
    );
    bench.proxy.set(Mode::Pass).await.unwrap();
    expect(&mut broker, b"up").await;
    expect(&mut client, b"down").await;
    let (mut late_broker, _address) = timeout(DEADLINE, bench.broker.accept())
        .await
        .unwrap()
        .unwrap();
    expect(&mut late_broker, b"late").await;
}

#[tokio::test]
async fn a_one_way_black_hole_passes_the_other_way() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    bench
        .proxy
        .set(Mode::BlackHole(Some(Direction::ToClient)))
        .await
        .unwrap();
    client.write_all(b"up").await.unwrap();
    expect(&mut broker, b"up").await;
    broker.write_all(b"down").await.unwrap();
    assert!(is_quiet(&mut client).await);
}

#[tokio::test]
async fn a_packet_is_cut_in_the_middle() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    bench.proxy.strike(Strike::CutMidPacket).await.unwrap();
    client.write_all(&CONNECT).await.unwrap();
    let mut got = Vec::new();
    let end = timeout(DEADLINE, broker.read_to_end(&mut got))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(got, CONNECT[..CONNECT.len() / 2]);
    assert_eq!(
        next(&mut client).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn shaped_bytes_come_late_slowly_and_in_order() {
    let bench = Bench::new().await;
    let (mut client, mut broker) = bench.connect().await;
    let latency = Duration::from_millis(60);
    let jitter = Duration::from_millis(30);
    bench
        .proxy
        .set(Mode::Shape(Shape {
            latency,
            jitter,
            bytes_per_s: None,
            seed: 7,
        }))
        .await
        .unwrap();
    let start = Instant::now();
    let sent: Vec<u8> = (0..=255).collect();
    for chunk in sent.chunks(16) {
        client.write_all(chunk).await.unwrap();
    }
    expect(&mut broker, &sent).await;
    assert!(start.elapsed() >= latency);

    let shape = Shape {
        bytes_per_s: Some(10_000),
        ..Shape::default()
    };
    bench.proxy.set(Mode::Shape(shape)).await.unwrap();
    let start = Instant::now();
    client.write_all(&[1; 2_000]).await.unwrap();
    expect(&mut broker, &[1; 2_000]).await;
    assert!(
        start.elapsed() >= Duration::from_millis(190),
        "2 000 bytes at 10 000 bytes/s"
    );
}

#[tokio::test]
async fn an_absent_broker_shows_as_a_reset() {
    let vacant = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let proxy = FaultProxy::bind(vacant).await.unwrap();
    let mut client = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(
        next(&mut client).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn unread_fills_the_clients_socket_and_loses_nothing() {
    // More than the socket buffers of a loopback connection take.
    const BYTES: usize = 32 * 1024 * 1024;
    let bench = Bench::new().await;
    let (client, mut broker) = bench.connect().await;
    bench.proxy.set(Mode::Unread).await.unwrap();
    let mut written = 0;
    let chunk = vec![7; 64 * 1024];
    // Stuck, when for a moment no room comes.
    while written < BYTES && timeout(QUIET, client.writable()).await.is_ok() {
        match client.try_write(&chunk[..chunk.len().min(BYTES - written)]) {
            Ok(count) => written += count,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(written < BYTES, "the proxy reads although it should not");
    bench.proxy.set(Mode::Pass).await.unwrap();
    let mut arrived = 0;
    let mut buffer = vec![0; 64 * 1024];
    let healed = Instant::now();
    while arrived < written {
        let read = timeout(
            DEADLINE.saturating_sub(healed.elapsed()),
            broker.read(&mut buffer),
        )
        .await;
        arrived += read.expect("the healed line is slow").unwrap();
    }
    assert_eq!(arrived, written);
}
