//! What must hold whatever bytes come from outside: one function for each parser of them.
//!
//! A function panics when its property does not hold. The fuzz targets under `targets/` call them with what a
//! coverage-guided fuzzer finds; `tests/replay.rs` calls them with the corpus, with its mutations and with noise, so that
//! an ordinary test run covers them, too.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz/targets mqtt_stream tests/fuzz/corpus/mqtt_stream
//! ```

use moorline_core::link::cause::MqttVersion;
use moorline_core::link::endpoints::ServerReference;
use moorline_core::link::proxy::{Handshake, NO_ANSWER, Refusal, Target, authority};
use moorline_core::message::{Downlink, Sequence};
use moorline_core::mqtt_frame::packet::{self, CutShort};
use moorline_core::mqtt_frame::{
    FrameError, FrameScanner, PacketKind, body, parse_connack, parse_disconnect,
};
use moorline_core::network::rtnetlink::{self, Message};
use moorline_core::network::{View, Watch, wireless};
use moorline_core::spool::cursor::{Cursor, SlotRead};
use moorline_core::spool::inspect::{self, Found, Walk};
use moorline_core::spool::record::{self, FrameRead};
use moorline_core::spool::segment::{Header, HeaderRead};
use moorline_core::spool::sim_storage::SimStorage;
use moorline_core::spool::storage::Storage;
use moorline_core::spool::{Lane, Limits, Spool};
use moorline_core::thingsboard::{self, limits};
use moorline_core::time::Instant;
use moorline_core::trust::Claim;
use moorline_core::trust::minisign::{PublicKey, SecretKeyFile, Signature, Unsealed};

/// A property by the name of its corpus.
pub type Property = fn(&[u8]);

/// Every property there is.
pub const PROPERTIES: [(&str, Property); 11] = [
    ("mqtt_stream", mqtt_stream),
    ("thingsboard", thingsboard),
    ("spool_bytes", spool_bytes),
    ("spool_directory", spool_directory),
    ("proxy_answers", proxy_answers),
    ("rtnetlink", rtnetlink),
    ("wireless", wireless),
    ("server_reference", server_reference),
    ("spool_inspect", spool_inspect),
    ("session_limits", session_limits),
    ("minisign", minisign),
];

/// A key or a signature that is read must be written the same, and cost little before it is believed.
///
/// # Panics
/// When it is not.
pub fn minisign(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = PublicKey::parse(text) {
        assert_eq!(PublicKey::parse(&key.file()), Ok(key));
        assert_eq!(PublicKey::parse(&key.line()), Ok(key));
    }
    if let Ok(signature) = Signature::parse(text) {
        assert_eq!(Signature::parse(&signature.file()), Ok(signature.clone()));
        // What it says of itself is compared as text, whatever it is.
        let claim = Claim::of(&signature.trusted_comment);
        assert_eq!(
            Claim::of(&claim.comment("x", 0)).version.is_some(),
            claim.version.is_some()
        );
    }
    if let Ok(secret) = SecretKeyFile::parse(text) {
        assert_eq!(SecretKeyFile::parse(&secret.file()).as_ref(), Ok(&secret));
        assert_eq!(
            Unsealed::from_bytes(&secret.sealed).to_bytes(),
            secret.sealed
        );
        if let Some(Ok((log_n, p))) = secret.password.map(|scrypt| scrypt.parameters()) {
            assert!(log_n <= 20 && p <= 16, "{log_n} {p}");
        }
    }
}

/// The tap must follow a broker's bytes the same way however the network cuts them. The first byte says how.
///
/// # Panics
/// When it does not.
pub fn mqtt_stream(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let whole = scan(stream, stream.len());
    assert_eq!(
        whole,
        scan(stream, usize::from(cut)),
        "cut every {cut} bytes"
    );
    let Ok(frames) = whole else { return };
    for (kind, frame) in frames {
        for version in [MqttVersion::V311, MqttVersion::V5] {
            if let Err(CutShort(short)) = packet::decode(version, kind, &frame) {
                assert_eq!(short, kind);
            }
        }
        let body = body(&frame);
        assert!(body.len() < frame.len());
        match kind {
            PacketKind::Connack => {
                let connack = parse_connack(body);
                assert_eq!(connack.map(|connack| connack.code), body.get(1).copied());
            }
            PacketKind::Disconnect => {
                let code = parse_disconnect(body).code;
                assert_eq!(code, body.first().copied().unwrap_or(0));
            }
            PacketKind::Connect
            | PacketKind::Publish
            | PacketKind::Puback
            | PacketKind::Pubrec
            | PacketKind::Pubrel
            | PacketKind::Pubcomp
            | PacketKind::Subscribe
            | PacketKind::Suback
            | PacketKind::Unsubscribe
            | PacketKind::Unsuback
            | PacketKind::Pingreq
            | PacketKind::Pingresp
            | PacketKind::Auth => {}
        }
    }
}

/// What the kernel shows of a wireless interface is a level that a radio can have, of an interface that the table names.
///
/// # Panics
/// When it is not.
pub fn wireless(data: &[u8]) {
    let table = String::from_utf8_lossy(data);
    for interface in ["wlp2s0", "wlan0", ""] {
        if let Some(signal) = wireless::signal(&table, interface) {
            assert!((-150..0).contains(&signal.level_dbm), "{signal:?}");
            assert!(table.contains(&format!("{interface}:")));
        }
    }
}

/// A server that is referred to has a name that can be dialled, and is the same when it is read again.
///
/// # Panics
/// When it has not.
pub fn server_reference(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Some(to) = ServerReference::parse(&text) else {
        return;
    };
    assert!(text.contains(&to.host) && to.port != Some(0));
    let written = match to.port {
        Some(port) => authority(&to.host, port),
        None if to.host.contains(':') => format!("[{}]", to.host),
        None => to.host.clone(),
    };
    assert_eq!(ServerReference::parse(&written), Some(to), "{written}");
}

/// Limits are few and can be kept, whatever the platform or a configuration says, and mean the same when they are read again.
///
/// # Panics
/// When they are not.
pub fn session_limits(data: &[u8]) {
    let answer = limits::decode_limits(data).ok();
    let text = String::from_utf8_lossy(data);
    let mut lists = Vec::from_iter(limits::parse_windows(&text).ok());
    if let Some(limits) = answer {
        assert!(limits.packet_bytes_max != Some(0) && limits.inflight_max != Some(0));
        for scope in [limits.devices, limits.own] {
            lists.extend([
                scope.messages,
                scope.telemetry_messages,
                scope.telemetry_points,
            ]);
        }
    }
    for list in lists {
        assert!(list.len() <= 8);
        assert!(
            list.iter()
                .all(|limit| limit.count > 0 && limit.seconds > 0)
        );
        let written: Vec<_> = list
            .iter()
            .map(|limit| format!("{}:{}", limit.count, limit.seconds))
            .collect();
        assert_eq!(limits::parse_windows(&written.join(",")), Ok(list));
    }
}

/// The whole frames of a stream that arrives `cut` bytes at a time.
fn scan(stream: &[u8], cut: usize) -> Result<Vec<(PacketKind, Vec<u8>)>, FrameError> {
    let mut scanner = FrameScanner::default();
    let (mut frames, mut frame) = (Vec::new(), Vec::new());
    for mut chunk in stream.chunks(cut.max(1)) {
        while let Some(piece) = scanner.next_piece(chunk) {
            let piece = piece?;
            assert!(piece.len > 0 && piece.begins == frame.is_empty());
            let (taken, rest) = chunk.split_at(piece.len);
            frame.extend_from_slice(taken);
            chunk = rest;
            if piece.ends {
                frames.push((piece.kind, std::mem::take(&mut frame)));
            }
        }
    }
    Ok(frames)
}

/// A proxy's answers mean the same however the network cuts them, and end in a way through or a refusal that says why. The
/// first byte says how they are cut, the second which proxy and whether with a login.
///
/// # Panics
/// When they do not.
pub fn proxy_answers(data: &[u8]) {
    let &[cut, choice, ref answers @ ..] = data else {
        return;
    };
    let whole = shake(choice, [answers].into_iter());
    let pieces = answers.chunks(usize::from(cut).max(1));
    assert_eq!(whole, shake(choice, pieces), "cut every {cut} bytes");
}

/// Whether the way is open after these, or the code of the refusal.
fn shake<'a>(choice: u8, answers: impl Iterator<Item = &'a [u8]>) -> Result<bool, u16> {
    let target = Target {
        host: "broker.example".to_owned(),
        port: 8883,
    };
    let login = choice & 2 != 0;
    let mut handshake = if choice & 1 == 0 {
        Handshake::http(target, login.then_some("Basic eA=="))
    } else {
        Handshake::socks5(target, login.then(|| (b"x".to_vec(), b"y".to_vec())))
    };
    let mut sent = 0;
    for answer in answers.filter(|answer| !answer.is_empty()) {
        while let Some(bytes) = handshake.poll_send() {
            sent += 1;
            assert!(sent <= 3 && !bytes.is_empty());
        }
        if handshake.is_open() {
            // Had they come with what was before, they would have been refused.
            return Err(NO_ANSWER);
        }
        if let Err(Refusal { code, words }) = handshake.handle(answer) {
            assert!(
                code < 600 && !words.is_empty() && words.len() < 1024,
                "{words}"
            );
            return Err(code);
        }
    }
    Ok(handshake.is_open())
}

/// Whatever the platform publishes is understood or refused, and what is understood can be handed on. The first byte
/// chooses the topic.
///
/// # Panics
/// When it cannot.
pub fn thingsboard(data: &[u8]) {
    let Some((&choice, payload)) = data.split_first() else {
        return;
    };
    let topics = ["v1/gateway/rpc", "v1/gateway/attributes", "v1/devices/me/x"];
    let topic = topics[usize::from(choice) % topics.len()];
    match thingsboard::decode(topic, payload) {
        Ok(Downlink::Rpc { device, params, .. }) => {
            assert!(!device.as_str().is_empty());
            let value: Result<serde_json::Value, _> = serde_json::from_str(&params);
            assert!(value.is_ok(), "{params}");
        }
        Ok(Downlink::SharedAttributes {
            device,
            changed,
            deleted,
        }) => {
            assert!(!device.as_str().is_empty());
            assert!(changed.iter().all(|(key, _)| !key.as_str().is_empty()));
            assert!(deleted.iter().all(|key| !key.as_str().is_empty()));
        }
        // The words go to the log.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Whatever the kernel says about the network is read to an end, and a way leads over an interface it named.
///
/// # Panics
/// When it is not, or does not.
pub fn rtnetlink(data: &[u8]) {
    let mut watch = Watch::default();
    for (number, looks) in [data, data.get(16..).unwrap_or_default()]
        .into_iter()
        .enumerate()
    {
        let mut view = View::towards(Some([192, 0, 2, 1].into()));
        let mut names = Vec::new();
        let mut count = 0;
        for (_sequence, message) in rtnetlink::messages(looks) {
            count += 1;
            if let Message::Link(link) = &message {
                assert!(!link.name.is_empty());
                names.push(link.name.clone());
            }
            view.take(message);
        }
        assert!(count * 16 <= looks.len(), "each message has a header");
        let now = Instant::from_start(std::time::Duration::from_secs(number as u64));
        watch.look(now, view);
        let seen = watch.seen();
        if let Some(path) = &seen.path {
            assert!(names.contains(&path.interface), "{path:?}");
        }
        assert!(seen.explain(now).is_none_or(|words| !words.is_empty()));
    }
}

/// A frame, a header or a cursor slot of the disk is whole or it is not; nothing outside its bytes is ever read.
///
/// # Panics
/// When it is.
pub fn spool_bytes(data: &[u8]) {
    let seed = record::seed(data.first().copied().unwrap_or(0).into());
    match record::decode(seed, data) {
        FrameRead::Frame(frame) => {
            assert!(
                frame.payload.len() < frame.span()
                    && frame.span() <= data.len().next_multiple_of(8)
            );
        }
        FrameRead::Torn | FrameRead::Corrupt { .. } | FrameRead::End => {}
    }
    if let SlotRead::Whole(generation, cursor) = Cursor::decode(data) {
        assert_eq!(
            cursor.encode(generation),
            data[..cursor.encode(generation).len()]
        );
    }
    if let HeaderRead::Whole(header) =
        Header::decode(data, data.get(8).copied().unwrap_or(0).into())
    {
        assert_eq!(header.encode(), data[..header.encode().len()]);
    }
}

/// The names a spool directory can hold, of which `spool_directory` makes files.
pub const FILE_NAMES: [&str; 6] = [
    "cursor",
    "0000000000000001.segment",
    "0000000000000002.segment",
    "0000000000000003.segment",
    "0000000000000004.spare",
    "0000000000000005.filling",
];

/// Whatever is found in the directory, a look at it comes to an end, sees records in order, and every byte of a segment at
/// most once. The bytes are files, as for [`spool_directory`].
///
/// # Panics
/// When it does not.
pub fn spool_inspect(data: &[u8]) {
    let Some(mut storage) = disk(data) else {
        return;
    };
    let Ok(contents) = inspect::survey(&mut storage) else {
        panic!("a directory that can be listed can be looked at");
    };
    let unsettled = contents.unsettled();
    for segment in &contents.segments {
        let HeaderRead::Whole(header) = segment.header else {
            continue;
        };
        let Ok(Some(bytes)) = inspect::load(&mut storage, segment) else {
            panic!("it is there and can be read");
        };
        let (mut sequence, mut end) = (header.start.sequence, 0);
        for found in Walk::new(header, segment.end, &unsettled, &bytes) {
            let (from, to) = match found {
                Found::Record {
                    offset,
                    bytes,
                    position,
                    ..
                } => {
                    assert!(position.sequence > sequence, "in order");
                    sequence = position.sequence;
                    (offset, offset + bytes)
                }
                Found::Damage(damage) => (damage.offset, damage.offset + damage.bytes),
                Found::Cursor(..) => continue,
                Found::Torn { offset } => (offset, offset),
            };
            assert!(from >= end && to >= from, "each byte once");
            end = to;
        }
    }
}

/// A disk with the files that `data` makes; none where it cannot hold them.
fn disk(data: &[u8]) -> Option<SimStorage> {
    let mut storage = SimStorage::new(1, 1 << 30);
    for (name, contents) in files(data) {
        let mut file = storage.create(name).ok()?;
        let written = storage.write_at(&mut file, 0, contents);
        assert!(written.is_ok(), "the disk has room");
    }
    Some(storage)
}

/// Whatever is found in the directory, the spool opens, hands out what is whole, each record once and in order, and works
/// on. The bytes are files: which name, two bytes of length, contents.
///
/// # Panics
/// When it does not.
pub fn spool_directory(data: &[u8]) {
    let Some(storage) = disk(data) else { return };
    let limits = Limits::new(16 * 1024, 160 * 1024, 4 * 1024);
    let Ok(limits) = limits else { return };
    let Ok((mut spool, _)) = Spool::open(storage.clone(), limits) else {
        panic!("damaged contents never keep a spool from opening");
    };
    let before = spool.status();
    let found = drain(&mut spool);
    spool.ack(spool.status().last);
    let status = spool.status();
    let damaged = status.damaged.since(before.damaged).records;
    assert_eq!(status.depth_records, 0, "everything is settled");
    assert_eq!(
        found + damaged,
        before.depth_records,
        "what waited was there or is counted"
    );
    let mut outcomes = Vec::new();
    let reply = moorline_core::message::Uplink::Telemetry(Vec::new());
    spool.append([reply], &mut outcomes);
    if let Some(Ok(sequence)) = outcomes.first() {
        assert!(*sequence > status.last, "a number is never used twice");
        assert!(spool.commit().is_ok());
        let found = drain(&mut spool);
        assert!(found > 0, "what was accepted can be read");
    }
    if spool.close().is_ok() {
        let Ok((mut spool, _)) = Spool::open(storage, limits) else {
            panic!("its own work opens");
        };
        let waiting = spool.status().depth_records;
        assert_eq!(drain(&mut spool), waiting);
    }
}

fn files(mut data: &[u8]) -> Vec<(&'static str, &[u8])> {
    let mut files: Vec<(&'static str, &[u8])> = Vec::new();
    while let [choice, high, low, rest @ ..] = data {
        let name = FILE_NAMES[usize::from(*choice) % FILE_NAMES.len()];
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (contents, rest) = rest.split_at(length);
        if files.iter().all(|(taken, _)| *taken != name) {
            files.push((name, contents));
        }
        data = rest;
    }
    files
}

/// Reads from the beginning to the end; how many records there were.
fn drain(spool: &mut Spool<SimStorage>) -> u64 {
    let (mut after, mut count) = (Sequence(0), 0);
    loop {
        let mut records = Vec::new();
        let read = spool.read(Lane::Live, after, 64 * 1024, 64, &mut records);
        assert!(read.is_ok(), "the disk reads");
        if records.is_empty() {
            return count;
        }
        for record in records {
            assert!(record.sequence > after, "in order, and each once");
            after = record.sequence;
            count += 1;
        }
    }
}
