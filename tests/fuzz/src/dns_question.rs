//! A question and a datagram, any bytes: no panic, and the verdict of a plain reader that copies what
//! it compares.

use egress_core::dns::question::{Fit, fit};

/// Panics where something is wrong. The first byte is the length of the question.
pub fn run(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first() else {
        return;
    };
    let (asked, received) = bytes.split_at(usize::from(*length).min(bytes.len()));
    verify(asked, received);
    // What an honest server sends, and one that lower-cases; neither is common among any bytes.
    let mut honest = asked.to_vec();
    if let Some(flags) = honest.get_mut(2) {
        *flags = 0x80;
    }
    verify(asked, &honest);
    let name = honest.len().min(12);
    honest[name..].make_ascii_lowercase();
    verify(asked, &honest);
}

fn verify(asked: &[u8], received: &[u8]) {
    let verdict = fit(asked, received);
    assert_eq!(verdict, plainly(asked, received).unwrap_or(Fit::Wrong));
    if verdict != Fit::Wrong {
        // No other id is right, nor a message with a byte of the question missing.
        let mut other = received.to_vec();
        other[1] ^= 1;
        assert_eq!(fit(asked, &other), Fit::Wrong);
        assert_eq!(fit(asked, &received[..12]), Fit::Wrong);
    }
}

/// The same by RFC 1035 §4.1: `None` is wrong.
fn plainly(asked: &[u8], received: &[u8]) -> Option<Fit> {
    let (id, flags, count) = (received.get(..2)?, received.get(2)?, received.get(4..6)?);
    let is_answer = flags & 0b1111_1000 == 0b1000_0000;
    let (ours, theirs) = (section(asked)?, section(received));
    if id != asked.get(..2)? || !is_answer || count != [0, 1] {
        return None;
    }
    if theirs.as_ref() == Some(&ours) {
        return Some(Fit::Answer);
    }
    let folded = |mut bytes: Vec<u8>| {
        let name = bytes.len() - 4;
        bytes[..name].make_ascii_lowercase();
        bytes
    };
    (theirs.map(folded) == Some(folded(ours))).then_some(Fit::CaseLost)
}

/// The first question of a message: labels to the empty one, type and class.
fn section(message: &[u8]) -> Option<Vec<u8>> {
    let mut rest = message.get(12..)?.iter().copied();
    let mut section = Vec::new();
    loop {
        let length = rest.next().filter(|length| *length < 64)?;
        section.push(length);
        for _ in 0..length {
            section.push(rest.next()?);
        }
        if length == 0 {
            for _ in 0..4 {
                section.push(rest.next()?);
            }
            return Some(section);
        }
    }
}
