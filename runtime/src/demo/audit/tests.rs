use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

async fn audit() -> (Audit, mpsc::Sender<Acknowledged>) {
    let (tap, acknowledged) = mpsc::channel(16);
    // No broker: the subscriber waits for one for ever.
    let vacant = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    (
        Audit::start(vacant, &["seq"], acknowledged).await.unwrap(),
        tap,
    )
}

async fn balance_when(audit: &Audit, condition: impl Fn(&Balance) -> bool) -> Balance {
    let start = Instant::now();
    loop {
        let balance = audit.balance().await;
        if condition(&balance) {
            return balance;
        }
        assert!(start.elapsed() < DEADLINE, "still {balance:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn thingsboard_telemetry_of_many_devices_is_booked() {
    let (audit, tap) = audit().await;
    let payload = br#"{"a":[{"ts":1,"values":{"seq":1,"t":2.5}},{"ts":2,"values":{"seq":2}}],"b":[{"ts":1,"values":{"seq":7}}]}"#;
    audit.put(Input::Saw(Bytes::from_static(payload))).await;
    audit.put(Input::Saw(Bytes::from_static(b"not json"))).await;
    let acked = Bytes::from_static(br#"{"a":[{"ts":3,"values":{"seq":3}}]}"#);
    tap.send(Acknowledged {
        topic: TELEMETRY_TOPIC.into(),
        payload: acked,
    })
    .await
    .unwrap();
    let balance = balance_when(&audit, |balance| balance.missing_after_ack == 1).await;
    assert_eq!(balance.delivered, 4);
    assert_eq!(
        balance.missing,
        6 + 1,
        "b 1 to 6, and a 3, which the broker acknowledged"
    );
    let mut totals = audit.totals();
    let totals = timeout(DEADLINE, totals.wait_for(|totals| totals.delivered == 4))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((totals.publishes, totals.malformed), (2, 1));
}

#[tokio::test]
async fn a_witness_is_heard_and_its_torn_last_line_is_not() {
    let (audit, _tap) = audit().await;
    let mut witness = TcpStream::connect(audit.witness()).await.unwrap();
    witness
        .write_all(b"sim 1 3\nsim 1 4\nsim 1 99")
        .await
        .unwrap();
    drop(witness);
    let balance = balance_when(&audit, |balance| balance.missing >= 4).await;
    assert_eq!(balance.missing, 4);
    assert_eq!(balance.holes, ["sim 1 1..=3"]);
}
