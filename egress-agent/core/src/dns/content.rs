//! Replies: their content, which does not depend on the client and can be cached, and the message that one client
//! gets.
//!
//! Owns the form of replies: id and question are the client's, no more than the client's size on UDP. Decides nothing.

use super::decision::Local;
use super::query::{BadQuery, Client, HEADER, Question};
use hickory_proto::ProtoError;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use std::time::Duration;

/// The longest UDP payload.
const MAX_UDP: usize = 65_507;
/// The longest DNS message.
const MAX_MESSAGE: usize = 65_535;
/// The longest message that the agent takes over UDP, in its EDNS records.
const OWN_SIZE: u16 = 1_232;
/// Length of an EDNS record without options.
const EDNS: usize = 11;

/// How a reply travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In one datagram, cut to the client's size.
    Udp,
    /// Whole. The length before it is the caller's.
    Tcp,
}

/// A reply to one question without the parts that depend on the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    code: ResponseCode,
    /// The sections after the question. Their pointers are right for every client, because the question has the same
    /// length in any case.
    records: Box<[u8]>,
    /// Where each TTL is in `records`.
    ttls: Box<[u16]>,
    answers: u16,
    authorities: u16,
}

impl Content {
    /// No records.
    pub fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            records: Box::default(),
            ttls: Box::default(),
            answers: 0,
            authorities: 0,
        }
    }

    /// An answer of the agent itself.
    pub fn local(question: &Question, local: &Local) -> Self {
        let Some(name) = question.fqdn() else {
            return Self::empty(local.code);
        };
        let record = |data: &RData| Record::from_rdata(name.clone(), local.ttl, data.clone());
        let answers: Vec<_> = local.records.iter().map(record).collect();
        let authorities = if answers.is_empty() {
            vec![negative(&name, local.ttl)]
        } else {
            Vec::new()
        };
        Self::of(&name, local.code, &answers, &authorities)
    }

    /// These records, as far as a message has room for them. `name` is the question's name in lower case.
    pub(super) fn of(
        name: &Name,
        code: ResponseCode,
        answers: &[Record],
        authorities: &[Record],
    ) -> Self {
        Self::encoded(name, code, answers, authorities).unwrap_or_else(|_| Self::empty(code))
    }

    fn encoded(
        name: &Name,
        code: ResponseCode,
        answers: &[Record],
        authorities: &[Record],
    ) -> Result<Self, ProtoError> {
        let mut message = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut message);
        encoder.emit_vec(&[0; HEADER])?;
        let question = Query::query(name.clone(), hickory_proto::rr::RecordType::A);
        question.emit(&mut encoder)?;
        let first = encoder.len();
        // The client's EDNS record comes after them.
        encoder.set_max_size((MAX_MESSAGE - EDNS) as u16);
        let mut put = Put {
            encoder,
            known: vec![(name.clone(), HEADER as u16)],
            starts: Vec::new(),
        };
        let counts = (put.all(answers), put.all(authorities));
        let (end, starts) = (put.encoder.len(), put.starts);
        message.truncate(end);
        let ttl = |start: &usize| u16::try_from(after_name(&message, *start)? + 4 - first).ok();
        let ttls = starts.iter().map(ttl).collect::<Option<_>>();
        Ok(Self {
            code,
            ttls: ttls.ok_or("a record without a name")?,
            records: message[first..].into(),
            answers: counts.0,
            authorities: counts.1,
        })
    }

    /// The response code.
    pub fn code(&self) -> ResponseCode {
        self.code
    }

    /// Bytes in memory, for the bounds of a cache.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.records.len() + 2 * self.ttls.len()
    }

    /// The message for a client, `age` after the content was made.
    pub fn reply(&self, client: &Client, transport: Transport, age: Duration) -> Vec<u8> {
        let mut message = Vec::new();
        self.write(client, transport, age, &mut message);
        message
    }

    /// Appends the message for a client, `age` after the content was made.
    pub fn write(
        &self,
        client: &Client,
        transport: Transport,
        age: Duration,
        message: &mut Vec<u8>,
    ) {
        let question = client.question();
        let edns = if client.edns.is_some() { EDNS } else { 0 };
        let whole = HEADER + question.len() + self.records.len() + edns;
        let most = match transport {
            Transport::Udp => client.udp_size().min(MAX_UDP),
            Transport::Tcp => MAX_MESSAGE,
        };
        let cut = whole > most;
        message.reserve(if cut {
            HEADER + question.len() + edns
        } else {
            whole
        });
        message.extend(client.id.to_be_bytes());
        // QR, TC and RD.
        message.push(0x80 | u8::from(cut) << 1 | u8::from(client.recursion_desired));
        // RA, CD and the low bits of the code.
        let cd = u8::from(client.checking_disabled) << 4;
        message.push(0x80 | cd | self.code.low());
        let (answers, authorities) = if cut {
            (0, 0)
        } else {
            (self.answers, self.authorities)
        };
        for count in [1, answers, authorities, u16::from(client.edns.is_some())] {
            message.extend(count.to_be_bytes());
        }
        message.extend(question);
        if !cut {
            let first = message.len();
            message.extend(&self.records);
            self.grow_old(&mut message[first..], age);
        }
        if client.edns.is_some() {
            let [high, low] = OWN_SIZE.to_be_bytes();
            message.extend([0, 0, 41, high, low, self.code.high(), 0, 0, 0, 0, 0]);
        }
    }

    fn grow_old(&self, records: &mut [u8], age: Duration) {
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        if age == 0 {
            return;
        }
        for at in &self.ttls {
            let at = usize::from(*at);
            if let Some(ttl) = records.get_mut(at..).and_then(|r| r.first_chunk_mut::<4>()) {
                *ttl = u32::from_be_bytes(*ttl).saturating_sub(age).to_be_bytes();
            }
        }
    }
}

/// Writes records.
struct Put<'a> {
    encoder: BinEncoder<'a>,
    /// Where names are. The library compresses a limited number of names only.
    known: Vec<(Name, u16)>,
    /// Where each record begins.
    starts: Vec<usize>,
}

impl Put<'_> {
    /// Writes as many as fit. Returns how many.
    fn all(&mut self, records: &[Record]) -> u16 {
        let mut count = 0;
        for record in records {
            let start = self.encoder.len();
            if self.one(record).is_err() {
                self.encoder.set_offset(start);
                self.encoder.trim();
                break;
            }
            self.starts.push(start);
            count += 1;
        }
        count
    }

    fn one(&mut self, record: &Record) -> Result<(), ProtoError> {
        let start = self.encoder.len();
        let known = self.known.iter().find(|(name, _)| *name == record.name);
        let Some((_, place)) = known else {
            record.emit(&mut self.encoder)?;
            // A pointer has 14 bits (RFC 1035 §4.1.4).
            if let Ok(place) = u16::try_from(start)
                && place < 0x4000
            {
                self.known.push((record.name.clone(), place));
            }
            return Ok(());
        };
        let encoder = &mut self.encoder;
        encoder.emit_u16(0xc000 | place)?;
        record.record_type().emit(encoder)?;
        record.dns_class.emit(encoder)?;
        encoder.emit_u32(record.ttl)?;
        let length = encoder.place::<u16>()?;
        record.data.emit(encoder)?;
        let data = u16::try_from(encoder.len_since_place(&length));
        length.replace(encoder, data.map_err(|_| "data of a record is too long")?)
    }
}

impl BadQuery {
    /// The reply to a query that is not judged; `None` if it gets none.
    pub fn reply(&self) -> Option<Vec<u8>> {
        match self {
            Self::NoQuery => None,
            Self::Rejected {
                id, opcode, code, ..
            } => {
                let [high, low] = id.to_be_bytes();
                let mut message = vec![high, low, 0x80 | opcode << 3, code.low()];
                message.resize(HEADER, 0);
                Some(message)
            }
            Self::Refused { client, code, .. } => {
                let content = Content::empty(*code);
                Some(content.reply(client, Transport::Udp, Duration::ZERO))
            }
        }
    }
}

/// The record that makes a negative answer of the agent cachable (RFC 2308 §5).
pub(super) fn negative(name: &Name, ttl: u32) -> Record {
    let zone = name.base_name();
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 3600, 600, 86_400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(soa))
}

/// The place after a name on the wire.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
