//! Senders that are not who they say, and what a server may answer.

use super::{CONNECT, EGRESS, SENDMSG};
use crate::escape::forged;
use crate::escape::table::Over::Both;
use crate::escape::table::{Caller, Expect, Path, path};

pub(super) static FORGED: &[Path] = &[
    path(
        "forged-handshake",
        Both,
        forged::handshake,
        EGRESS,
        "connect to a server of this node as the target: its SYN-ACK goes there",
    ),
    path(
        "forged-handshake-proxy",
        Both,
        forged::handshake_of_the_proxy,
        "egress, and egress of the agent's cgroup",
        "the same with the proxy as the server",
    )
    .uncontrolled("it is the gate that redirects"),
    path(
        "forged-reset",
        Both,
        forged::reset,
        EGRESS,
        "the same with a closed port: the kernel's reset goes there",
    ),
    path(
        "forged-unreachable",
        Both,
        forged::unreachable,
        EGRESS,
        "a datagram to a closed port: ICMP carries it to the claimed sender",
    ),
    path(
        "forged-peer",
        Both,
        forged::peer,
        EGRESS,
        "a datagram server is made to believe that the target wrote to it",
    ),
    path(
        "udp-answer",
        Both,
        forged::answer,
        SENDMSG,
        "a datagram server answers who wrote to it",
    )
    .called(Caller::Datagrams)
    .expect(Expect::Works(
        "an answer to the very socket, address and port, within 120 s",
    )),
    path(
        "udp-answer-other-port",
        Both,
        forged::answer_other_port,
        SENDMSG,
        "it sends to another port of its peer",
    )
    .called(Caller::Datagrams),
    path(
        "udp-answer-other-host",
        Both,
        forged::answer_other_host,
        SENDMSG,
        "it sends to another host",
    )
    .called(Caller::Datagrams),
    path(
        "udp-answer-other-socket",
        Both,
        forged::answer_by_another,
        CONNECT,
        "another socket at the server's port answers: refused though some servers do so",
    )
    .called(Caller::Datagrams),
];
