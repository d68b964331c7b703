//! Forged senders, and the answers that a server may send.

use super::{CONNECT, EGRESS, SENDMSG, SETSOCKOPT};
use crate::escape::forged;
use crate::escape::table::Over::Both;
use crate::escape::table::{Between, Caller, Expect, Path, path};

const REDIRECTED: &str = "it is the gate that redirects";

pub(super) static FORGED: &[Path] = &[
    path(
        "forged-handshake",
        Both,
        forged::handshake,
        SETSOCKOPT,
        "connect to a server of this node as the target: its SYN-ACK goes there",
    ),
    path(
        "forged-handshake-older",
        Both,
        forged::older_handshake,
        EGRESS,
        "the same by a socket that took the target's address before the attach",
    )
    .staged(Between::Attach),
    path(
        "forged-handshake-proxy",
        Both,
        forged::handshake_of_the_proxy,
        SETSOCKOPT,
        "the same with the proxy as the server",
    )
    .uncontrolled(REDIRECTED),
    path(
        "forged-handshake-proxy-older",
        Both,
        forged::older_handshake_of_the_proxy,
        "egress, and egress of the agent's cgroup",
        "the same by an older socket",
    )
    .uncontrolled(REDIRECTED)
    .staged(Between::Attach),
    path(
        "forged-reset",
        Both,
        forged::reset,
        SETSOCKOPT,
        "the same with a closed port: the kernel's reset goes there",
    ),
    path(
        "forged-reset-older",
        Both,
        forged::older_reset,
        EGRESS,
        "the same by an older socket",
    )
    .staged(Between::Attach),
    path(
        "forged-unreachable",
        Both,
        forged::unreachable,
        SETSOCKOPT,
        "a datagram to a closed port: ICMP carries it to the claimed sender",
    ),
    path(
        "forged-unreachable-older",
        Both,
        forged::older_unreachable,
        EGRESS,
        "the same by an older socket",
    )
    .staged(Between::Attach),
    path(
        "forged-peer",
        Both,
        forged::peer,
        SETSOCKOPT,
        "a datagram server is made to believe that the target wrote to it",
    ),
    path(
        "forged-peer-older",
        Both,
        forged::older_peer,
        EGRESS,
        "the same by an older socket",
    )
    .staged(Between::Attach),
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
        "udp-answers",
        Both,
        forged::answers,
        SENDMSG,
        "it answers one datagram by a hundred",
    )
    .called(Caller::Datagrams)
    .expect(Expect::Works("the same, as many as it likes")),
    path(
        "udp-answer-connected",
        Both,
        forged::answer_connected,
        CONNECT,
        "a datagram server connects its socket to who wrote to it, and answers",
    )
    .called(Caller::Datagrams)
    .expect(Expect::Works("the same, within the same time")),
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
        "another socket at the server's port answers: denied, though some servers do so",
    )
    .called(Caller::Datagrams),
];
