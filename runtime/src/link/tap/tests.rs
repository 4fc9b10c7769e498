use std::collections::VecDeque;

use moorline_core::link::cause::TlsReject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::clock::Clock;

const ECONNRESET: i32 = 104;
const DEADLINE: Duration = Duration::from_secs(5);

enum Read {
    Bytes(Vec<u8>),
    Error(io::Error),
    /// Nothing yet, and nobody will wake the reader.
    Silence,
}

/// A stream that plays a script; its end is the end of the script.
#[derive(Default)]
struct Script {
    reads: VecDeque<Read>,
    written: Vec<u8>,
    write_errno: Option<i32>,
}

impl AsyncRead for Script {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let script = self.get_mut();
        match script.reads.pop_front() {
            None => Poll::Ready(Ok(())),
            Some(Read::Error(error)) => Poll::Ready(Err(error)),
            Some(Read::Silence) => Poll::Pending,
            Some(Read::Bytes(mut bytes)) => {
                let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                buf.put_slice(&bytes);
                if !rest.is_empty() {
                    script.reads.push_front(Read::Bytes(rest));
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let script = self.get_mut();
        if let Some(errno) = script.write_errno {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        script.written.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn tap(version: MqttVersion, reads: Vec<Read>) -> (Tap<Script>, Arc<Wire>) {
    let wire = Arc::new(Wire::new(Clock::start()));
    let script = Script {
        reads: reads.into(),
        ..Script::default()
    };
    (Tap::new(script, version, Arc::clone(&wire)), wire)
}

/// All the crate gets to see, in every chunking of `stream` into pieces of `size` bytes, and what the tap noted.
async fn play(version: MqttVersion, stream: &[u8], size: usize) -> (Vec<u8>, Arc<Wire>) {
    let reads = stream
        .chunks(size)
        .map(|chunk| Read::Bytes(chunk.to_vec()))
        .collect();
    let (mut tap, wire) = tap(version, reads);
    let mut seen = Vec::new();
    let read = tokio::time::timeout(DEADLINE, tap.read_to_end(&mut seen)).await;
    read.expect("the stream ends")
        .expect("the tap reports no errors to the crate");
    (seen, wire)
}

const CONNACK_V5: [u8; 5] = [0x20, 3, 0, 0, 0];
const PUBACK: [u8; 4] = [0x40, 2, 0, 1];

async fn ends_as(version: MqttVersion, stream: &[u8], shown: &[u8], check: impl Fn(&WireEnd)) {
    for size in 1..=stream.len() {
        let (seen, wire) = play(version, stream, size).await;
        assert_eq!(seen, shown, "in chunks of {size}");
        check(&wire.end().expect("an end was noted"));
    }
}

fn disconnected_with(code: u8) -> impl Fn(&WireEnd) {
    move |end| {
        let WireEnd::Disconnect(disconnect) = end else {
            panic!("{end:?}")
        };
        assert_eq!(disconnect.code, code);
    }
}

#[tokio::test]
async fn every_form_of_disconnect_is_read_and_kept_from_the_crate() {
    let shown = [&CONNACK_V5[..], &PUBACK].concat();
    let long = [0xe0u8, 8, 0x8e, 6, 0x1f, 0, 3, b'd', b'u', b'p'];
    let forms: [(&[u8], u8); 6] = [
        (&[0xe0, 0], 0),
        (&[0xe0, 1, 0x8e], 0x8e),
        (&[0xe0, 2, 0x8b, 0], 0x8b),
        (&long, 0x8e),
        (&[0xe0, 1, 0xee], 0xee),
        // Cut short by the end of the stream.
        (&[0xe0, 9, 0x97, 5], 0x97),
    ];
    for (form, code) in forms {
        let stream = [&shown[..], form].concat();
        ends_as(MqttVersion::V5, &stream, &shown, disconnected_with(code)).await;
    }
    let (_, wire) = play(MqttVersion::V5, &[&CONNACK_V5[..], &long].concat(), 3).await;
    let Some(WireEnd::Disconnect(disconnect)) = wire.end() else {
        panic!("{:?}", wire.end())
    };
    assert_eq!(disconnect.properties.reason_string.as_deref(), Some("dup"));
    assert_eq!(wire.last_received(), Some(PacketKind::Disconnect));
}

#[tokio::test]
async fn a_refusing_connack_is_the_end() {
    let refused = |code, form| {
        move |end: &WireEnd| {
            let WireEnd::Refused(connack) = end else {
                panic!("{end:?}")
            };
            assert_eq!((connack.code, connack.form), (code, form));
        }
    };
    ends_as(
        MqttVersion::V311,
        &[0x20, 2, 0, 5],
        &[],
        refused(5, MqttVersion::V311),
    )
    .await;
    ends_as(
        MqttVersion::V5,
        &[0x20, 3, 0, 0x86, 0],
        &[],
        refused(0x86, MqttVersion::V5),
    )
    .await;
    ends_as(
        MqttVersion::V5,
        &[0x20, 2, 0, 1],
        &[],
        refused(1, MqttVersion::V311),
    )
    .await;
    // Accepted, but in the other version's form: no packet after it could be read.
    ends_as(
        MqttVersion::V5,
        &[0x20, 2, 0, 0],
        &[],
        refused(0, MqttVersion::V311),
    )
    .await;
}

#[tokio::test]
async fn the_crate_is_told_of_no_kept_session_and_loses_nothing_behind_the_connack() {
    let stream = [0x20, 2, 1, 0, 0x40, 2, 0, 1, 0xd0, 0];
    ends_as(
        MqttVersion::V311,
        &stream,
        &[0x20, 2, 0, 0, 0x40, 2, 0, 1, 0xd0, 0],
        |end| {
            assert_eq!(*end, WireEnd::Fin);
        },
    )
    .await;
    let (_, wire) = play(MqttVersion::V311, &stream, 10).await;
    assert!(
        wire.connack()
            .is_some_and(|connack| connack.session_present)
    );
}

#[tokio::test]
async fn what_is_not_mqtt_is_shown_and_ends_it() {
    let garbage = |word: &'static str| {
        move |end: &WireEnd| {
            let WireEnd::Garbage(words) = end else {
                panic!("{end:?}")
            };
            assert!(words.contains(word), "{words}");
        }
    };
    ends_as(
        MqttVersion::V5,
        b"HTTP/1.1 400 Bad Request",
        &[],
        garbage("0x48"),
    )
    .await;
    ends_as(
        MqttVersion::V5,
        &[0xd0, 0],
        &[],
        garbage("PINGRESP before CONNACK"),
    )
    .await;
    let ping = [&CONNACK_V5[..], &[0xc0, 0]].concat();
    ends_as(
        MqttVersion::V5,
        &ping,
        &CONNACK_V5,
        garbage("PINGREQ from a server"),
    )
    .await;
    let twice = [CONNACK_V5, CONNACK_V5].concat();
    ends_as(
        MqttVersion::V5,
        &twice,
        &CONNACK_V5,
        garbage("second CONNACK"),
    )
    .await;
}

#[tokio::test]
async fn errors_keep_their_number_or_their_alert() {
    let reset = Read::Error(io::Error::from_raw_os_error(ECONNRESET));
    let (mut first, wire) = tap(MqttVersion::V5, vec![reset]);
    assert_eq!(
        first
            .read_to_end(&mut Vec::new())
            .await
            .expect("an end, no error"),
        0
    );
    assert_eq!(wire.end(), Some(WireEnd::Errno(ECONNRESET)));

    let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
    let (mut second, wire) = tap(MqttVersion::V5, vec![Read::Error(io::Error::other(alert))]);
    assert_eq!(
        second
            .read_to_end(&mut Vec::new())
            .await
            .expect("an end, no error"),
        0
    );
    assert!(
        matches!(
            wire.end(),
            Some(WireEnd::Tls(TlsReject::ClientCertificate, _))
        ),
        "{:?}",
        wire.end()
    );
}

#[tokio::test]
async fn a_failed_write_lets_the_reason_be_read_first() {
    for (waiting, expected) in [(vec![0xe0u8, 1, 0x8e], true), (Vec::new(), false)] {
        let stream = [&CONNACK_V5[..], &waiting].concat();
        let (mut tap, wire) = tap(MqttVersion::V5, vec![Read::Bytes(stream), Read::Silence]);
        tap.inner.write_errno = Some(ECONNRESET);
        tap.write_all(&[0x30, 3, 0, 1, b't'])
            .await
            .expect("the crate must go on to read");
        let mut seen = Vec::new();
        tap.read_to_end(&mut seen).await.expect("an end, no error");
        assert_eq!(seen, CONNACK_V5);
        match wire.end() {
            Some(WireEnd::Disconnect(disconnect)) => assert!(expected && disconnect.code == 0x8e),
            other => assert!(
                !expected && other == Some(WireEnd::Errno(ECONNRESET)),
                "{other:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_probe_waits_for_a_frame_boundary_and_any_byte_answers_it() {
    let (mut tap, wire) = tap(
        MqttVersion::V5,
        vec![Read::Bytes(CONNACK_V5.to_vec()), Read::Silence],
    );
    let mut buffer = [0; 16];
    tap.write_all(&[0x32, 5, 0]).await.expect("written");
    wire.ask_probe();
    assert_eq!(tap.read(&mut buffer).await.expect("the CONNACK"), 5);
    assert_eq!(
        tap.inner.written,
        [0x32, 5, 0],
        "in the middle of a PUBLISH"
    );
    assert_eq!(wire.last_sent(), Some(PacketKind::Publish));

    tap.write_all(&[1, b't', 0, 1]).await.expect("written");
    let waiting = std::future::poll_fn(|cx| {
        let mut unread = ReadBuf::new(&mut buffer);
        Poll::Ready(Pin::new(&mut tap).poll_read(cx, &mut unread).is_pending())
    });
    assert!(waiting.await);
    assert_eq!(tap.inner.written, [0x32, 5, 0, 1, b't', 0, 1, 0xc0, 0]);
    assert_eq!(wire.last_sent(), Some(PacketKind::Pingreq));
    assert!(wire.pingreq_at().is_some() && !wire.probe_wanted());

    tap.inner.reads.push_back(Read::Bytes(PUBACK.to_vec()));
    assert_eq!(tap.read(&mut buffer).await.expect("the PUBACK"), 4);
    assert_eq!(wire.pingreq_at(), None);
}

#[tokio::test]
async fn the_end_waits_until_what_came_before_it_is_taken() {
    // CONNACK, then a PUBACK and a DISCONNECT in one chunk: the crate reads in one go as long as it gets something.
    let chunk = [0x20, 3, 0, 0, 0, 0x40, 2, 0, 1, 0xe0, 1, 0x8b];
    let (mut tap, wire) = tap(MqttVersion::V5, vec![Read::Bytes(chunk.to_vec())]);
    let mut polls = Vec::new();
    std::future::poll_fn(|cx| {
        let mut bytes = [0; 64];
        for _ in 0..3 {
            let mut buf = ReadBuf::new(&mut bytes);
            polls.push(match Pin::new(&mut tap).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => Some(buf.filled().len()),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => None,
            });
        }
        Poll::Ready(())
    })
    .await;
    assert_eq!(polls, [Some(9), None, Some(0)]);
    assert!(matches!(wire.end(), Some(WireEnd::Disconnect(_))));
}
