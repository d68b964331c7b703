//! Reads a client's DNS query: the header, one question and the EDNS record, nothing else.
//!
//! Owns what a well-formed query is. No byte of a query is ever copied to an upstream server: the upstream question is
//! made from the [`Question`] alone. Does not judge names; `judge` does.

use super::text::{Text, canonical_labels};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use std::sync::Arc;

/// Length of a DNS header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;
/// Length of a question's QTYPE and QCLASS (RFC 1035 §4.1.2).
pub(super) const KIND: usize = 4;
/// Class IN.
const INTERNET: u16 = 1;
/// The type of the EDNS record (RFC 6891 §6.1.2).
const OPT: u16 = 41;
/// A UDP answer may be as long as this without EDNS (RFC 1035 §4.2.1). Smaller EDNS sizes count as this one (RFC 6891
/// §6.2.3).
pub const PLAIN_SIZE: u16 = 512;

/// A question in the form in which it is judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Lower case, without a final dot. Empty for the root.
    pub name: Arc<str>,
    /// The type.
    pub kind: RecordType,
}

impl Question {
    /// The name in hickory's form: complete and in lower case. `None` if it is not one that hickory takes.
    pub fn fqdn(&self) -> Option<Name> {
        let labels = self.name.split('.').filter(|l| !l.is_empty());
        let mut name = Name::from_labels(labels.map(str::as_bytes)).ok()?;
        name.set_fqdn(true);
        Some(name)
    }
}

/// The parts of a query that its reply repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The id.
    pub id: u16,
    /// RD: the client asks for recursion.
    pub recursion_desired: bool,
    /// CD: the client does not want the server to validate.
    pub checking_disabled: bool,
    /// The longest UDP answer that the client takes, if it sent an EDNS record; at least 512.
    pub edns: Option<u16>,
    /// The question section as the client wrote it: upper and lower case are the client's.
    question: Box<[u8]>,
}

impl Client {
    /// The question section as the client wrote it.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// The longest UDP answer that the client takes.
    pub fn udp_size(&self) -> usize {
        self.edns.unwrap_or(PLAIN_SIZE).into()
    }
}

/// A well-formed query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// What the reply repeats.
    pub client: Client,
    /// What is judged.
    pub question: Question,
}

/// Why a message is not a query that the agent judges.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadQuery {
    /// Too short for a header, or itself a response. It gets no reply, because a reply could be answered again.
    #[error("not a DNS query")]
    NoQuery,
    /// It has this response code. The reply repeats the header only, because the question may be unreadable.
    #[error("{what}")]
    Rejected {
        /// Id of the query.
        id: u16,
        /// The opcode, to be repeated.
        opcode: u8,
        /// FORMERR, NOTIMP or REFUSED.
        code: ResponseCode,
        /// What is wrong, for the log.
        what: &'static str,
    },
    /// The question is readable, and the reply repeats it.
    #[error("{what}")]
    Refused {
        /// What the reply repeats.
        client: Client,
        /// The response code.
        code: ResponseCode,
        /// What is wrong, for the log.
        what: &'static str,
    },
}

/// Reads a whole message: a UDP datagram, or a TCP message without its length.
///
/// # Errors
/// The message is not one question of class IN in a standard query, or its name has bytes that are not letters,
/// digits, `-` and `_`.
pub fn read(message: &[u8]) -> Result<Query, BadQuery> {
    let header = message.first_chunk::<HEADER>().ok_or(BadQuery::NoQuery)?;
    let [high, low, flags, more, ..] = *header;
    if flags & 0x80 != 0 {
        return Err(BadQuery::NoQuery);
    }
    let id = u16::from_be_bytes([high, low]);
    let opcode = flags >> 3 & 0x0f;
    let rejected = |code, what| BadQuery::Rejected {
        id,
        opcode,
        code,
        what,
    };
    let malformed = |what| rejected(ResponseCode::FormErr, what);
    if opcode != 0 {
        return Err(rejected(ResponseCode::NotImp, "the opcode is not QUERY"));
    }
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if count(4) != 1 {
        return Err(malformed("the message does not have one question"));
    }
    if count(6) != 0 || count(8) != 0 {
        return Err(malformed("the query has answers"));
    }
    let section = &message[HEADER..];
    let (text, name) = canonical_labels(section).ok_or_else(|| malformed("malformed name"))?;
    let kind = section
        .get(name..name + KIND)
        .ok_or_else(|| malformed("the question is cut off"))?;
    let (question, rest) = section.split_at(name + KIND);
    let edns = match count(10) {
        0 => None,
        1 => Some(edns(rest).ok_or_else(|| malformed("the additional record is not EDNS"))?),
        _ => return Err(malformed("more than one additional record")),
    };
    let client = Client {
        id,
        recursion_desired: flags & 0x01 != 0,
        checking_disabled: more & 0x10 != 0,
        edns: edns.as_ref().map(|e| e.size.max(PLAIN_SIZE)),
        question: question.into(),
    };
    let refused = |client, code, what| BadQuery::Refused { client, code, what };
    if edns.is_some_and(|e| e.version != 0) {
        let what = "the EDNS version is not 0";
        return Err(refused(client, ResponseCode::BADVERS, what));
    }
    if u16::from_be_bytes([kind[2], kind[3]]) != INTERNET {
        let what = "the class is not IN";
        return Err(refused(client, ResponseCode::Refused, what));
    }
    let Text::Plain(name) = text else {
        let what = "the name has bytes that no host name has";
        return Err(refused(client, ResponseCode::Refused, what));
    };
    let kind = RecordType::from(u16::from_be_bytes([kind[0], kind[1]]));
    Ok(Query {
        client,
        question: Question { name, kind },
    })
}

/// The values of an EDNS record that matter here. Its options, and their padding, are not read.
struct Edns {
    size: u16,
    version: u8,
}

/// The only record of the additional section, if it is an EDNS record that ends with the message.
fn edns(record: &[u8]) -> Option<Edns> {
    // Root name, type, size, extended code, version, flags, length of the options.
    let (fixed, options) = record.split_first_chunk::<11>()?;
    let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let is_edns = fixed[0] == 0 && number(1) == OPT;
    let whole = options.len() == usize::from(number(9));
    (is_edns && whole).then_some(Edns {
        size: number(3),
        version: fixed[6],
    })
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
