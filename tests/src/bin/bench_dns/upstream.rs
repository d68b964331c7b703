//! The name server behind all servers: one thread, fixed answers, and the time at which each new address was sent.
//!
//! Owns which names exist. It reads the question and nothing else, so that it is not what limits a rate.

use anyhow::{Context as _, Result};
use egress_tests::netns::NetNs;
use egress_tests::prober::now;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Its last number in the lab's outside.
pub const HOST: u8 = 54;
/// How soon the thread notices that it must end.
const LOOK: Duration = Duration::from_millis(100);

/// The server. Dropping it ends its thread.
pub struct Upstream {
    over: Arc<AtomicBool>,
    sent: Arc<Mutex<BTreeMap<Ipv4Addr, Duration>>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Answers at this address in this namespace: names of one label and a number before `.example`. `c` may be kept for
    /// an hour, `u` not at all, and `n` has another address in each answer.
    pub fn start(netns: &NetNs, at: IpAddr) -> Result<Self> {
        let socket = netns.run(|| UdpSocket::bind((at, 53)))?;
        let socket = socket.context("DNS over UDP")?;
        socket.set_read_timeout(Some(LOOK))?;
        let over = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(Mutex::default());
        let (ends, times) = (Arc::clone(&over), Arc::clone(&sent));
        let thread = thread::spawn(move || serve(&socket, &ends, &times));
        Ok(Self {
            over,
            sent,
            thread: Some(thread),
        })
    }

    /// When the answer with this new address was sent, by [`now`].
    pub fn sent(&self, address: Ipv4Addr) -> Option<Duration> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.get(&address).copied()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, over: &AtomicBool, sent: &Mutex<BTreeMap<Ipv4Addr, Duration>>) {
    let mut message = [0; 1500];
    let mut made = 0;
    while !over.load(Ordering::Relaxed) {
        let Ok((length, peer)) = socket.recv_from(&mut message) else {
            continue;
        };
        let Some(answer) = answer(&message[..length], &mut made) else {
            continue;
        };
        if let Some(address) = answer.new {
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.insert(address, now());
        }
        // A client that has left needs no answer.
        let _ = socket.send_to(&answer.message, peer);
    }
}

struct Answer {
    message: Vec<u8>,
    new: Option<Ipv4Addr>,
}

fn fixed(kind: u8, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(20, kind, high, low)
}

/// The answer to a query with one question (RFC 1035 section 4.1).
fn answer(query: &[u8], made: &mut u32) -> Option<Answer> {
    let length = usize::from(*query.get(12)?);
    let label = query.get(13..13 + length)?;
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(*query.get(end)?);
    }
    let question = query.get(12..end + 5)?;
    let kind = u16::from_be_bytes(query.get(end + 1..end + 3)?.try_into().ok()?);
    let (letter, digits) = label.split_first()?;
    let number: Option<u16> = std::str::from_utf8(digits).ok()?.parse().ok();
    let mut new = None;
    let (ttl, address) = match (letter.to_ascii_lowercase(), number) {
        (b'c', Some(number)) => (3600, Some(fixed(1, number))),
        (b'u', Some(number)) => (0, Some(fixed(2, number))),
        (b'n', Some(_)) if kind == 1 => {
            *made += 1;
            let [_, b, c, d] = made.to_be_bytes();
            new = Some(Ipv4Addr::new(21, b, c, d));
            (0, new)
        }
        (b'n', Some(_)) => (0, None),
        _ => (3600, None),
    };
    let exists = number.is_some();
    let found = address.filter(|_| kind == 1);
    let mut reply = query.get(..2)?.to_vec();
    // A response of an authority, recursion desired and available; NXDOMAIN for other names.
    reply.extend([0x85, if exists { 0x80 } else { 0x83 }]);
    let counts: [u16; 4] = [1, found.is_some().into(), found.is_none().into(), 0];
    reply.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    reply.extend(question);
    let ttl: u32 = ttl;
    if let Some(address) = found {
        reply.extend([0xc0, 12, 0, 1, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    } else {
        // The SOA of the root says how long "there is none" holds (RFC 2308 section 3).
        reply.extend([0, 0, 6, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend([0, 22, 0, 0]);
        for number in [1, ttl, ttl, ttl, ttl] {
            reply.extend(number.to_be_bytes());
        }
    }
    Some(Answer {
        message: reply,
        new,
    })
}
