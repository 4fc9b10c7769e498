mod serial;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::plugins::stream_target::TcpTarget;

const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    streams: Streams,
    events: mpsc::Receiver<StreamEvent>,
    listener: TcpListener,
}

async fn fixture() -> Fixture {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = StreamTarget::Tcp(TcpTarget {
        host: "127.0.0.1".to_owned(),
        port,
    });
    let (streams, events) = Streams::spawn(&[("plc".to_owned(), target)]);
    Fixture {
        streams,
        events,
        listener,
    }
}

impl Fixture {
    async fn connected(&mut self) -> (u32, TcpStream) {
        let id = self.streams.open("plc").await.unwrap();
        let (device, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            self.event().await,
            StreamEvent {
                id,
                happened: Happened::Connected
            }
        );
        (id, device)
    }

    async fn event(&mut self) -> StreamEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

fn header() -> FrameRule {
    FrameRule::LengthPrefixed {
        offset: 0,
        width: 1,
        big_endian: true,
        adjust: 0,
    }
}

#[tokio::test]
async fn only_granted_names_open_and_the_same_name_is_the_same_stream() {
    let mut fixture = fixture().await;
    assert_eq!(
        fixture.streams.open("other").await,
        Err(StreamFault::NotGranted)
    );
    assert_eq!(
        fixture.streams.write(7, vec![1]).await,
        Err(StreamFault::NotGranted)
    );
    assert_eq!(
        fixture.streams.write(0, vec![1]).await,
        Err(StreamFault::NotGranted)
    );
    let (id, _device) = fixture.connected().await;
    assert_eq!(fixture.streams.open("plc").await, Ok(id));
    assert!(
        fixture.events.try_recv().is_err(),
        "an open stream is returned without an event"
    );
}

#[tokio::test]
async fn an_exchange_waits_for_one_frame_and_passes_on_what_follows_it() {
    let mut fixture = fixture().await;
    let (id, mut device) = fixture.connected().await;
    device.write_all(b"late answer").await.unwrap();
    // It may reach the guest as data or be discarded by the exchange, never be taken for the answer.
    let exchange = fixture.streams.exchange(id, vec![9], header(), PATIENCE);
    let serve = async {
        let mut request = [0];
        device.read_exact(&mut request).await.unwrap();
        assert_eq!(request, [9]);
        device.write_all(&[2, 10]).await.unwrap();
        device.write_all(&[11, 99]).await.unwrap();
    };
    let (response, ()) = tokio::join!(exchange, serve);
    assert_eq!(response, Ok(vec![2, 10, 11]));
    let mut data = Vec::new();
    while data.last() != Some(&99) {
        match fixture.event().await.happened {
            Happened::Data(bytes) => data.extend(bytes),
            other @ (Happened::Connected | Happened::Closed(_)) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_exchange_ends_at_its_deadline_and_the_stream_goes_on() {
    let mut fixture = fixture().await;
    let (id, mut device) = fixture.connected().await;
    let short = Duration::from_millis(30);
    assert_eq!(
        fixture.streams.exchange(id, vec![1], header(), short).await,
        Err(StreamFault::Timeout)
    );
    let exchange = fixture
        .streams
        .exchange(id, vec![2], FrameRule::Fixed(1), PATIENCE);
    let serve = async {
        let mut requests = [0; 2];
        device.read_exact(&mut requests).await.unwrap();
        device.write_all(&[7]).await.unwrap();
    };
    assert_eq!(tokio::join!(exchange, serve).0, Ok(vec![7]));
}

#[tokio::test]
async fn silence_completes_an_idle_gap_frame() {
    let mut fixture = fixture().await;
    let (id, mut device) = fixture.connected().await;
    let gap = FrameRule::IdleGap(Duration::from_millis(50));
    let exchange = fixture.streams.exchange(id, vec![1], gap, PATIENCE);
    let serve = async {
        device.read_u8().await.unwrap();
        device.write_all(b"abc").await.unwrap();
    };
    assert_eq!(tokio::join!(exchange, serve).0, Ok(b"abc".to_vec()));
}

#[tokio::test]
async fn a_peer_that_closes_is_told_once_and_the_stream_opens_again() {
    let mut fixture = fixture().await;
    let (id, device) = fixture.connected().await;
    drop(device);
    let closed = fixture.event().await;
    assert!(matches!(closed.happened, Happened::Closed(_)), "{closed:?}");
    let refused = fixture
        .streams
        .exchange(id, vec![1], header(), PATIENCE)
        .await;
    assert_eq!(
        refused,
        Err(StreamFault::Closed("closed by the peer".to_owned()))
    );
    fixture.connected().await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_hangs_up_is_paced_and_one_that_speaks_is_not() {
    let mut fixture = fixture().await;
    let (_, device) = fixture.connected().await;
    drop(device);
    fixture.event().await;
    let hung_up = Instant::now();
    let (_, mut device) = fixture.connected().await;
    let waited = hung_up.elapsed();
    assert!(waited > Duration::from_millis(900), "{waited:?}");
    device.write_all(b"hello").await.unwrap();
    fixture.event().await;
    drop(device);
    fixture.event().await;
    let hung_up = Instant::now();
    fixture.connected().await;
    let waited = hung_up.elapsed();
    assert!(waited < Duration::from_millis(900), "{waited:?}");
}

#[tokio::test]
async fn a_refused_connection_is_an_event_and_the_answer_of_a_waiting_exchange() {
    let Fixture {
        streams,
        mut events,
        listener,
    } = fixture().await;
    drop(listener);
    let id = streams.open("plc").await.unwrap();
    let answer = streams.exchange(id, vec![1], header(), PATIENCE).await;
    assert!(
        matches!(&answer, Err(StreamFault::Closed(reason)) if reason.contains("refused")),
        "{answer:?}"
    );
    let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert!(matches!(event.happened, Happened::Closed(_)));
}

#[tokio::test]
async fn a_device_that_floods_is_not_read_beyond_the_bound() {
    let mut fixture = fixture().await;
    let (id, mut device) = fixture.connected().await;
    let flood = vec![5; 64 * 1024];
    let mut written = 0_usize;
    // Ends when the kernel's buffers are full too, because nobody reads.
    while let Ok(result) = timeout(Duration::from_millis(500), device.write_all(&flood)).await {
        result.unwrap();
        written += flood.len();
        assert!(written < 64 * 1024 * 1024, "the host swallows everything");
    }
    fixture.streams.close(id).await;
}
