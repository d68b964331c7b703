//! Reads a socket's queues to find the latest possible arrival time of a datagram that recvmsg() reads. The
//! library interprets them.

use crate::bpf::memory::{address, place, read};
use crate::bpf::sock::Sock;
use core::ffi::c_void;
use egress_ebpf::heard::{Heard, Waiting};

/// Returns the latest possible arrival time of the present datagram, and remembers those that wait after it. Runs
/// under the socket's lock, as recvmsg hooks do. `None` if the queues cannot be read.
#[inline(always)]
pub fn arrival(sk: *mut c_void, sock: Sock<'_>, now: u64) -> Option<u64> {
    if place!(known) == 0 {
        return Some(now);
    }
    let waiting = waiting(address(sk)?)?;
    let before = Heard {
        at: sock.heard_at(),
        word: sock.heard(),
    };
    let (at, after) = before.read(waiting, now);
    sock.set_heard_at(after.at);
    sock.set_heard(after.word);
    Some(at)
}

/// The datagrams that wait at a UDP socket. Reads take datagrams from `reader_queue`, and when that is empty, all
/// of `sk_receive_queue` moves there (`__skb_recv_udp`). The queues are read in this order, so that a datagram
/// that moves in between is not missed.
#[inline(always)]
fn waiting(sk: u64) -> Option<Waiting> {
    let (first, received) = queue(sk, place!(receive_queue))?;
    let (next, moved) = queue(sk, place!(reader_queue))?;
    Some(Waiting {
        first: if moved == 0 { first } else { next },
        count: received.wrapping_add(moved),
    })
}

/// The first packet of a `sk_buff_head`, and its length.
#[inline(always)]
fn queue(sk: u64, place: u32) -> Option<(u64, u32)> {
    let [next, _, length] = read::<[u64; 3]>(sk, place)?;
    Some((next, length as u32))
}
