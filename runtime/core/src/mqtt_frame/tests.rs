use proptest::prelude::*;

use super::*;

/// Every frame's kind and bytes, as the scanner sees them when `stream` comes in chunks of these sizes.
fn scan(stream: &[u8], chunks: &[usize]) -> Result<Vec<(PacketKind, Vec<u8>)>, FrameError> {
    let mut scanner = FrameScanner::default();
    let mut frames: Vec<(PacketKind, Vec<u8>)> = Vec::new();
    let mut complete = 0;
    let mut rest = stream;
    let mut sizes = chunks.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let (mut chunk, later) = rest.split_at(size);
        rest = later;
        while let Some(piece) = scanner.next_piece(chunk) {
            let piece = piece?;
            assert!(piece.len > 0 && piece.len <= chunk.len());
            if piece.begins {
                assert_eq!(frames.len(), complete, "a frame began inside another");
                frames.push((piece.kind, Vec::new()));
            }
            let frame = frames.last_mut().expect("a piece follows its beginning");
            assert_eq!(frame.0, piece.kind);
            frame.1.extend_from_slice(&chunk[..piece.len]);
            complete += usize::from(piece.ends);
            chunk = &chunk[piece.len..];
        }
    }
    frames.truncate(complete);
    Ok(frames)
}

fn frame(first: u8, length: usize) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = length;
    loop {
        let byte = u8::try_from(left & 0x7f).expect("seven bits");
        left >>= 7;
        out.push(if left == 0 { byte } else { byte | 0x80 });
        if left == 0 {
            break;
        }
    }
    out.extend(std::iter::repeat_n(0xE0, length));
    out
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let first = prop::sample::select(vec![
        0x20u8, 0x30, 0x32, 0x3d, 0x40, 0x50, 0x62, 0x70, 0x82, 0x90, 0xd0, 0xe0,
    ]);
    (
        first,
        prop_oneof![0..4usize, 120..135usize, 16_380..16_390usize],
    )
        .prop_map(|(first, length)| frame(first, length))
}

proptest! {
    #[test]
    fn chunking_changes_nothing(
        frames in prop::collection::vec(any_frame(), 0..12),
        chunks in prop::collection::vec(1..300usize, 1..8),
    ) {
        let stream = frames.concat();
        let seen = scan(&stream, &chunks).expect("valid frames");
        prop_assert_eq!(seen.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>(), frames);
    }

    #[test]
    fn arbitrary_bytes_end_or_break_the_same_way_in_any_chunking(
        stream in prop::collection::vec(any::<u8>(), 0..600),
        chunks in prop::collection::vec(1..50usize, 1..5),
    ) {
        prop_assert_eq!(scan(&stream, &chunks), scan(&stream, &[stream.len().max(1)]));
    }

    #[test]
    fn parsers_take_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let connack = parse_connack(&bytes);
        prop_assert_eq!(connack.is_some(), bytes.len() >= 2);
        let disconnect = parse_disconnect(&bytes);
        prop_assert_eq!(disconnect.code, bytes.first().copied().unwrap_or(0));
        prop_assert!(body(&bytes).len() <= bytes.len());
    }
}

#[test]
fn a_broken_stream_stays_broken() {
    let mut scanner = FrameScanner::default();
    assert_eq!(
        scanner.next_piece(b"HTTP/1.1"),
        Some(Err(FrameError::FirstByte(b'H')))
    );
    assert_eq!(
        scanner.next_piece(&[0xd0, 0]),
        Some(Err(FrameError::FirstByte(b'H')))
    );
}

#[test]
fn a_length_of_five_bytes_is_refused() {
    assert_eq!(
        scan(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01], &[2]),
        Err(FrameError::Length)
    );
}

#[test]
fn connack_of_either_version() {
    let old = parse_connack(&[0, 1]).expect("two bytes are enough");
    assert_eq!(
        (old.form, old.code, old.session_present),
        (MqttVersion::V311, 1, false)
    );

    let mut new = vec![1, 0, 18];
    new.extend_from_slice(&[
        0x21, 0, 20, 0x27, 0, 1, 0, 0, 0x13, 0, 30, 0x26, 0, 1, b'k', 0, 1, b'v',
    ]);
    let new = parse_connack(&new).expect("well formed");
    assert_eq!((new.form, new.session_present), (MqttVersion::V5, true));
    assert_eq!(new.properties.receive_maximum, Some(20));
    assert_eq!(new.properties.packet_bytes_max, Some(65_536));
    assert_eq!(new.properties.server_keep_alive_s, Some(30));
}

#[test]
fn disconnect_in_every_length() {
    assert_eq!(parse_disconnect(body(&[0xe0, 0])).code, 0);
    assert_eq!(parse_disconnect(body(&[0xe0, 1, 0x8e])).code, 0x8e);
    assert_eq!(parse_disconnect(body(&[0xe0, 2, 0x8b, 0])).code, 0x8b);

    let long = parse_disconnect(body(&[
        0xe0, 14, 0x9c, 12, 0x1f, 0, 3, b'b', b'y', b'e', 0x1c, 0, 3, b'e', b'u', b'1',
    ]));
    assert_eq!(long.code, 0x9c);
    assert_eq!(long.properties.reason_string.as_deref(), Some("bye"));
    assert_eq!(long.properties.server_reference.as_deref(), Some("eu1"));

    // The reason stands even where the properties are cut short.
    let cut = parse_disconnect(body(&[0xe0, 4, 0x97, 9, 0x1f, 0]));
    assert_eq!((cut.code, cut.properties.reason_string), (0x97, None));
}
