//! A fast DNS server: one thread, which parses only the question and records nothing.
//!
//! Owns its rate. Each name of the bench has one IPv4 address and no IPv6 address.

use crate::rules;
use anyhow::{Context as _, Result};
use egress_tests::netns::NetNs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How soon the thread notices that it must end.
const LOOK: Duration = Duration::from_millis(100);
/// An answer is given at most this long before it is due, because a sleep for each would be longer than the gaps. What a
/// sleep takes too long is made up for, up to this.
const STEP: Duration = Duration::from_millis(2);
/// Seconds that an answer may be kept, if nothing else is asked for: most parts end earlier.
const TTL: u32 = 3600;

/// Its address. An agent asks a server on its own node over TCP, so this one is elsewhere.
pub const AT: &str = "203.0.113.254";

/// The server. Dropping it ends its thread.
pub struct Nameserver {
    _elsewhere: NetNs,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    over: AtomicBool,
    silent: AtomicBool,
    questions: AtomicU64,
    /// Seconds that an answer may be kept; 0 is [`TTL`].
    ttl: AtomicU32,
}

impl Nameserver {
    /// Answers at [`AT`], at most `pace` times a second. Adds a route to it in `node`.
    pub fn start(node: &NetNs, pace: u32) -> Result<Self> {
        let elsewhere = NetNs::new()?;
        let (near, far) = ("203.0.113.1".parse()?, AT.parse()?);
        node.connect("dns0", &[(near, 24)], &elsewhere, "node0", &[(far, 24)])?;
        let socket = elsewhere.run(|| UdpSocket::bind((far, 53)))?;
        let socket = socket.context("DNS over UDP")?;
        socket.set_read_timeout(Some(LOOK))?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || serve(&socket, &shared, pace));
        Ok(Self {
            _elsewhere: elsewhere,
            state,
            thread: Some(thread),
        })
    }

    /// Questions so far.
    pub fn questions(&self) -> u64 {
        self.state.questions.load(Ordering::Relaxed)
    }

    /// Sets the seconds that each answer from now on may be kept.
    pub fn keep_for(&self, seconds: u32) {
        self.state.ttl.store(seconds, Ordering::Relaxed);
    }

    /// Makes it silent, or makes it answer again.
    pub fn silence(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Relaxed);
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, state: &State, pace: u32) {
    let gap = Duration::from_secs(1) / pace.max(1);
    // When the next answer is due. A pause of the questions is not made up for.
    let mut due = Instant::now();
    let mut message = [0; 1500];
    while !state.over.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut message) else {
            continue;
        };
        state.questions.fetch_add(1, Ordering::Relaxed);
        if state.silent.load(Ordering::Relaxed) {
            continue;
        }
        let now = Instant::now();
        due = due.max(now.checked_sub(STEP).unwrap_or(now)) + gap;
        if due > now + STEP {
            thread::sleep(due - now);
        }
        let ttl = match state.ttl.load(Ordering::Relaxed) {
            0 => TTL,
            seconds => seconds,
        };
        reply(socket, &message[..length], peer, ttl);
    }
}

fn reply(socket: &UdpSocket, query: &[u8], peer: SocketAddr, ttl: u32) {
    if let Some(answer) = answer(query, ttl) {
        // A client that has left needs no answer.
        let _ = socket.send_to(&answer, peer);
    }
}

/// The answer to a query with one question (RFC 1035 section 4.1).
fn answer(query: &[u8], ttl: u32) -> Option<Vec<u8>> {
    let length = usize::from(*query.get(12)?);
    let label = query.get(13..13 + length)?;
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(*query.get(end)?);
    }
    let question = query.get(12..end + 5)?;
    let kind = u16::from_be_bytes(query.get(end + 1..end + 3)?.try_into().ok()?);
    let number = rules::number(label);
    let mut reply = query.get(..2)?.to_vec();
    // A response of an authority, recursion desired and available; NXDOMAIN for other names.
    reply.extend([0x85, if number.is_some() { 0x80 } else { 0x83 }]);
    let found = number.filter(|_| kind == 1);
    let counts: [u16; 4] = [1, found.is_some().into(), found.is_none().into(), 0];
    reply.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    reply.extend(question);
    if let Some(number) = found {
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(rules::address(number).octets());
    } else {
        // The SOA of the root says how long "there is none" holds (RFC 2308 section 3).
        reply.extend([0, 0, 6, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 22, 0, 0]);
        for number in [1, ttl, ttl, ttl, ttl] {
            reply.extend(number.to_be_bytes());
        }
    }
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_utf8(name).unwrap(), kind));
        Message::from_vec(&answer(&query.to_vec().unwrap(), TTL).unwrap()).unwrap()
    }

    #[test]
    fn a_name_has_its_address_no_ipv6_address_and_other_names_do_not_exist() {
        let found = ask("h5.example.com.", RecordType::A);
        assert_eq!(
            found.answers[0].data.to_string(),
            rules::name(5).ip().to_string()
        );
        let none = ask("H5.exaMPle.com.", RecordType::AAAA);
        let codes = (none.answers.len(), none.authorities.len());
        assert_eq!(codes, (0, 1));
        assert_eq!(none.metadata.response_code, ResponseCode::NoError);
        let other = ask("www.example.com.", RecordType::A);
        assert_eq!(other.metadata.response_code, ResponseCode::NXDomain);
    }
}
