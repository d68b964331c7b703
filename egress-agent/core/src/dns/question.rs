//! The message of a DNS question of the agent, and whether a datagram is the answer to one.
//!
//! Reads only the header and the question; the resolver library reads the records.

use super::query::{HEADER, KIND, Question};
use super::text::LABEL;

/// The EDNS record of a question: answers of up to 1 232 bytes, as <https://www.dnsflagday.net/2020> recommends.
const EDNS: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

/// The message that asks this question, whose labels have at most 63 bytes each. Each letter is in the case that one of the bits of `case` says, in turn.
pub fn message(question: &Question, id: u16, case: [u64; 4]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + question.name.len() + 2 + KIND + EDNS.len());
    message.extend(id.to_be_bytes());
    // RD; one question and one additional record.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    let mut at = 0;
    for label in question.name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        for byte in label.bytes() {
            let upper = case[at / 64 % case.len()] >> (at % 64) & 1 == 1;
            at += 1;
            message.push(if upper {
                byte.to_ascii_uppercase()
            } else {
                byte
            });
        }
    }
    message.push(0);
    message.extend(u16::from(question.kind).to_be_bytes());
    message.extend([0, 1]);
    message.extend(EDNS);
    message
}

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
    fn a_question_has_each_letter_in_the_given_case_and_is_one_that_is_read() {
        let asked = Question {
            name: "www.ex-4.example".into(),
            kind: hickory_proto::rr::RecordType::AAAA,
        };
        let bytes = message(&asked, 0x1234, [0b1_0101, 0, 0, 0]);
        let wanted =
            b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03WwW\x04eX-4\x07example\0\0\x1c\0\x01";
        let (head, edns) = bytes.split_at(wanted.len());
        assert_eq!((head, edns), (&wanted[..], &EDNS[..]));
        let read = crate::dns::query::read(&bytes).unwrap();
        assert_eq!((read.question, read.client.edns), (asked, Some(1232)));
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
