//! Any bytes behind a first hello, before the server settles: the same outcome in pieces of any
//! size, and what may continue holds no whole hello with another name, as a plain reader finds
//! them.

use egress_core::tls::client_hello::{HelloOutcome, parse};
use egress_core::tls::second_hello::SecondHello;

/// Panics where something is wrong. The first byte chooses the pieces.
pub fn run(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let in_pieces = |piece: usize| {
        let mut watch = SecondHello::new(None);
        let held = bytes.chunks(piece).map(|piece| watch.client(piece));
        held.collect::<Result<Vec<usize>, _>>()
            .map(|held| held.last().copied().unwrap_or_default())
    };
    let outcome = in_pieces(usize::from(*piece) + 1);
    assert_eq!(in_pieces(usize::MAX >> 1), outcome);
    if let Ok(held) = outcome {
        let passed = &bytes[..bytes.len() - held];
        assert!(hellos(passed).iter().all(|hello| is_nameless(hello)));
    }
}

/// The whole `ClientHello` messages in a stream of records.
fn hellos(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = stream {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        if *kind == 22 {
            messages.extend_from_slice(&rest[..length]);
        }
        stream = &rest[length..];
    }
    let (mut found, mut messages) = (Vec::new(), messages.as_slice());
    while let [kind, a, b, c, rest @ ..] = messages {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if rest.len() < length {
            break;
        }
        if *kind == 1 {
            found.push(messages[..4 + length].to_vec());
        }
        messages = &rest[length..];
    }
    found
}

fn is_nameless(hello: &[u8]) -> bool {
    let records = hello.chunks(1 << 14).flat_map(|part| {
        let length = (part.len() as u16).to_be_bytes();
        [&[22, 3, 3], length.as_slice(), part].concat()
    });
    matches!(parse(&records.collect::<Vec<_>>()), HelloOutcome::Hello(hello) if hello.name.is_none())
}
