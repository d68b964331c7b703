//! Whether a datagram is the answer to a DNS question that the agent asked.
//!
//! Reads only the header and the question; the resolver library reads the records.

/// Length of a DNS header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// Length of a question's QTYPE and QCLASS (RFC 1035 §4.1.2).
const KIND: usize = 4;
/// Longest label of a name (RFC 1035 §2.3.4). More is a pointer or no label.
const LABEL: usize = 63;

/// What a datagram is to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The answer.
    Answer,
    /// The answer of a server that changes upper and lower case in the question that it repeats, or
    /// a guess that is right but for that.
    CaseLost,
    /// Anything else.
    Wrong,
}

/// Whether `received` answers `asked`: a response with its id and, byte for byte, its question.
/// The question's upper and lower case is random (draft-vixie-dnsext-dns0x20), so each letter of
/// the name is one more bit to guess.
pub fn fit(asked: &[u8], received: &[u8]) -> Fit {
    let (Some(question), Some(header)) = (question(asked), received.first_chunk::<HEADER>()) else {
        return Fit::Wrong;
    };
    // QR set, OPCODE 0 (a query), one question.
    let response = header[2] & 0xf8 == 0x80 && header[4..6] == [0, 1];
    let Some(repeated) = received.get(HEADER..HEADER + question.len()) else {
        return Fit::Wrong;
    };
    // Letters may lose their case, the numbers of type and class are what they are.
    let (name, kind) = repeated.split_at(question.len() - KIND);
    let same = question.ends_with(kind) && question[..name.len()].eq_ignore_ascii_case(name);
    if !response || header[..2] != asked[..2] || !same {
        Fit::Wrong
    } else if repeated == question {
        Fit::Answer
    } else {
        Fit::CaseLost
    }
}

/// The question of a query that this agent made: one, its name not compressed.
fn question(asked: &[u8]) -> Option<&[u8]> {
    let section = asked.get(HEADER..)?;
    let mut at = 0;
    loop {
        let length = usize::from(*section.get(at)?);
        if length > LABEL {
            return None;
        }
        at += 1 + length;
        if length == 0 {
            return section.get(..at + KIND);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03wWw\x02eX\0\0\x01\0\x01edns";

    fn answer(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let question = question(ASKED).unwrap();
        let mut bytes = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
        bytes.extend(question);
        bytes.extend(b"\xc0\x0c and the rest");
        change(&mut bytes);
        bytes
    }

    #[test]
    fn the_answer_has_the_id_and_the_question_as_it_was_asked() {
        assert_eq!(question(ASKED).unwrap(), b"\x03wWw\x02eX\0\0\x01\0\x01");
        assert_eq!(fit(ASKED, &answer(|_| ())), Fit::Answer);
        let servfail = answer(|b| b[3] = 0x82);
        assert_eq!(fit(ASKED, &servfail), Fit::Answer);
    }

    #[test]
    fn everything_else_is_not_the_answer() {
        for (what, bytes) in [
            ("another id", answer(|b| b[1] ^= 1)),
            ("a query", answer(|b| b[2] &= 0x7f)),
            ("a notify", answer(|b| b[2] |= 0x20)),
            ("no question", answer(|b| b[5] = 0)),
            ("two questions", answer(|b| b[5] = 2)),
            ("another name", answer(|b| b[13] = b'x')),
            ("another label length", answer(|b| b[12] = 2)),
            ("another type", answer(|b| b[21] = 28)),
            ("a compressed name", answer(|b| b[12] = 0xc0)),
            ("the header alone", answer(|b| b.truncate(HEADER))),
            ("a cut question", answer(|b| b.truncate(HEADER + 9))),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(fit(ASKED, &bytes), Fit::Wrong, "{what}");
        }
        assert_eq!(fit(&[], &answer(|_| ())), Fit::Wrong, "nothing was asked");
    }

    #[test]
    fn a_server_that_changes_the_case_is_told_from_a_guess() {
        let lower = answer(|b| b[12..20].make_ascii_lowercase());
        assert_eq!(fit(ASKED, &lower), Fit::CaseLost);
        // Type 65 (HTTPS) is `A` in ASCII, 97 is `a`.
        let mut asked = ASKED.to_vec();
        asked[21] = 65;
        let other = answer(|b| b[21] = 97);
        assert_eq!(fit(&asked, &other), Fit::Wrong);
    }
}
