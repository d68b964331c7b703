//! Any bytes as the frames of an HTTP/2 peer: the same frames in pieces of any size, those of a plain reader, and no
//! more of those without content than the bounds allow. Lists of fields take the same memory in pieces of any size.

use egress_core::http::field_list::{FIELD, FieldList};
use egress_core::http::flood::FloodLimit;
use egress_core::http::frames::{Frame, FrameReader, flag, kind};
use std::time::Duration;

/// Control frames, WINDOW_UPDATE and PRIORITY frames that any connection may send.
const FIRST: usize = 1000 + 5 + 100;
/// What a stream or a DATA frame adds to them at most.
const EARNED: usize = 100 + 2 + 2;

/// Panics where something is wrong. The first byte chooses the pieces.
pub fn run(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let frames = frames(bytes, usize::from(*piece) + 1);
    assert_eq!(frames, plain(bytes));
    assert_eq!(frames, self::frames(bytes, bytes.len().max(1)));
    lists(bytes, usize::from(*piece) + 1);
    for mut limit in [FloodLimit::of_client(), FloodLimit::of_origin()] {
        let passed = frames.iter();
        let passed = passed.take_while(|frame| limit.received(frame, Duration::ZERO).is_ok());
        let (mut working, mut others, mut empty) = (0, 0, 0);
        for frame in passed {
            if !matches!(frame.kind, kind::DATA | kind::HEADERS | kind::CONTINUATION) {
                others += 1;
                continue;
            }
            working += 1;
            let is_empty = frame.length == 0 && !frame.has(flag::END_STREAM);
            empty = if is_empty { empty + 1 } else { 0 };
            assert!(empty <= 1);
        }
        assert!(others <= FIRST + EARNED * working);
    }
}

/// The memory of all content as one list of fields.
fn lists(bytes: &[u8], piece: usize) {
    let [mut cut, mut whole] = [FieldList::default(), FieldList::default()];
    let (mut reader, mut content) = (FrameReader::default(), 0);
    for mut part in bytes.chunks(piece) {
        loop {
            let list = reader.content(&mut part);
            content += list.len();
            cut.read(list);
            if reader.next(&mut part).is_none() {
                break;
            }
        }
    }
    assert!(content <= bytes.len());
    assert!(cut.memory() <= (FIELD + 3) * content);
    cut = FieldList::default();
    for part in bytes.chunks(piece) {
        cut.read(part);
    }
    whole.read(bytes);
    assert_eq!(cut.memory(), whole.memory());
}

fn frames(bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut reader = FrameReader::default();
    let mut found = Vec::new();
    for mut part in bytes.chunks(piece) {
        while let Some(frame) = reader.next(&mut part) {
            found.push(frame);
        }
    }
    found
}

fn plain(mut bytes: &[u8]) -> Vec<Frame> {
    let mut found = Vec::new();
    while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = bytes {
        let payload = u32::from_be_bytes([0, *a, *b, *c]);
        let mut length = payload;
        if *kind < 2 && flags & 8 != 0 && payload > 0 {
            let Some(padding) = rest.first() else {
                break;
            };
            length = (payload - 1).saturating_sub(u32::from(*padding));
        }
        found.push(Frame {
            kind: *kind,
            flags: *flags,
            stream: u32::from_be_bytes([s1 & 0x7f, *s2, *s3, *s4]),
            length,
        });
        bytes = rest.get(payload as usize..).unwrap_or_default();
    }
    found
}
