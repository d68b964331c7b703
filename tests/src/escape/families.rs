//! Socket families beyond IP. Families that need a peer are tried up to `socket()`, where they can be stopped.

use super::raw::Raw;
use super::sock::{Sock, Step, device_index};
use super::{Aim, PAYLOAD};
use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, c_int};

/// An EtherType for experiments (IEEE Std 802, local experimental).
pub const ETHERTYPE: u16 = 0x88b5;

fn link_address(kind: u16) -> Raw {
    Raw::of(&libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: kind.to_be(),
        sll_ifindex: device_index(c"out0").cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    })
}

pub(super) fn packet_raw(_aim: &Aim) -> Step {
    let sock = Sock::open(libc::AF_PACKET, SOCK_RAW, 0)?;
    let mut frame = vec![0xff; 12];
    frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
    frame.extend_from_slice(PAYLOAD);
    frame.resize(60, 0);
    sock.send_to_raw(&frame, &link_address(ETHERTYPE), 0)
}

pub(super) fn packet_datagram(_aim: &Aim) -> Step {
    let sock = Sock::open(libc::AF_PACKET, SOCK_DGRAM, 0)?;
    sock.send_to_raw(PAYLOAD, &link_address(ETHERTYPE), 0)
}

fn only_open(family: c_int, kind: c_int) -> Step {
    Sock::open(family, kind, 0).map(drop)
}

pub(super) fn xdp(_aim: &Aim) -> Step {
    only_open(libc::AF_XDP, SOCK_RAW)
}

pub(super) fn vsock(_aim: &Aim) -> Step {
    only_open(libc::AF_VSOCK, SOCK_STREAM)
}

pub(super) fn alg(_aim: &Aim) -> Step {
    only_open(libc::AF_ALG, SOCK_SEQPACKET)
}

pub(super) fn tipc(_aim: &Aim) -> Step {
    only_open(libc::AF_TIPC, SOCK_DGRAM)
}

pub(super) fn rds(_aim: &Aim) -> Step {
    only_open(libc::AF_RDS, SOCK_SEQPACKET)
}

pub(super) fn can(_aim: &Aim) -> Step {
    only_open(libc::AF_CAN, SOCK_RAW)
}

pub(super) fn pppox(_aim: &Aim) -> Step {
    only_open(libc::AF_PPPOX, SOCK_STREAM)
}
