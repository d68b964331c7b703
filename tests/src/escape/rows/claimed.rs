//! Claimed sources: ways to make a server of the node believe that the target wrote to it.

use super::{EGRESS, Named, SENDMSG, SETSOCKOPT};
use crate::escape::table::Over::{Both, V4, V6};
use crate::escape::table::{Between, Expect, Path, Scenario, Trial, path};
use crate::escape::{claimed, forged, tcp};

/// Probes that are a part of a scenario.
pub static SUITE_PROBES: &[Named] = &[
    ("claimed-multicast-by-sysctl", claimed::multicast_by_sysctl),
    ("claimed-stream-by-sysctl", claimed::stream_by_sysctl),
    ("write-as-target", claimed::write_as_target),
    (
        "write-as-target-by-message",
        claimed::write_as_target_by_message,
    ),
    (
        "write-as-target-by-sysctl",
        claimed::write_as_target_by_sysctl,
    ),
    ("udp-answer-aged", forged::answer_aged),
    ("udp-answer-peeked", forged::answer_peeked),
    ("udp-answer-waited", forged::answer_waited),
];

pub(super) static CLAIMED: &[Path] = &[
    path("claimed-broadcast", V4, claimed::broadcast, SETSOCKOPT, "a datagram as the target to a listed broadcast address comes back to a server of the workload, which answers"),
    path("claimed-multicast", Both, claimed::multicast, SETSOCKOPT, "the same to a listed group"),
    path("claimed-multicast-message", Both, claimed::multicast_by_message, SETSOCKOPT, "the same, the source named by IP_PKTINFO, IPV6_PKTINFO"),
    path("claimed-multicast-ipv4-option", V6, claimed::multicast_by_ipv4_option, SETSOCKOPT, "the same on an IPv6 socket by IP_FREEBIND"),
    path("claimed-multicast-sysctl", V6, claimed::multicast_by_sysctl, "bind6, sendmsg6", "the same without an option, where net.ipv6.ip_nonlocal_bind is set").by(Trial::Suite(Scenario::NonlocalBind("claimed-multicast-by-sysctl"))),
    path("claimed-multicast-older", Both, claimed::older_multicast, EGRESS, "the same by a socket that was bound before the attach").staged(Between::Attach),
    path("claimed-neighbour", Both, claimed::write_as_target, SETSOCKOPT, "a workload in another network namespace writes as the target to a server, which answers").by(Trial::Suite(Scenario::Neighbour("write-as-target"))),
    path("claimed-neighbour-message", Both, claimed::write_as_target_by_message, SETSOCKOPT, "the same, the source named by IP_PKTINFO, IPV6_PKTINFO").by(Trial::Suite(Scenario::Neighbour("write-as-target-by-message"))),
    path("claimed-neighbour-sysctl", V6, claimed::write_as_target_by_sysctl, "bind6", "the same without an option, where net.ipv6.ip_nonlocal_bind is set").by(Trial::Suite(Scenario::NonlocalNeighbour("write-as-target-by-sysctl"))),
    path("claimed-stream-sysctl", V6, claimed::stream_by_sysctl, "connect6", "a TCP socket bound to the target's address dials a listed host, which answers there, where net.ipv6.ip_nonlocal_bind is set").by(Trial::Suite(Scenario::ClaimedStream("claimed-stream-by-sysctl"))),
    path("claimed-repair", Both, claimed::repaired_reset, SETSOCKOPT, "a TCP_REPAIR socket claims a connection between the target and a closed port: the kernel's reset goes to the target"),
    path("tcp-repair", Both, claimed::repair, SETSOCKOPT, "TCP_REPAIR alone").uncontrolled("by itself it sends nothing"),
    path("setsockopt-others", Both, claimed::other_options, SETSOCKOPT, "a value longer than a page, IP_FREEBIND and IP_TRANSPARENT turned off, SO_BROADCAST and what is listed").uncontrolled("they claim nothing").expect(Expect::Works("other options are left alone")),
    path("claimed-resolver", V4, claimed::resolver, EGRESS, "a datagram on the loopback device from the address and port of a resolver of the agent, by IP_PKTINFO of a socket that is bound to another address of that port").uncontrolled("it stays on the node"),
    path("udp-answer-aged", Both, forged::answer_aged, SENDMSG, "a datagram server answers, and again when 120 s are over").by(Trial::Suite(Scenario::AnswerAged("udp-answer-aged"))),
    path("udp-answer-peeked", Both, forged::answer_peeked, SENDMSG, "the same, the datagram left in the queue and read again by MSG_PEEK in between").by(Trial::Suite(Scenario::AnswerAged("udp-answer-peeked"))),
    path("udp-answer-waited", Both, forged::answer_waited, SENDMSG, "the same, another datagram read in between that had waited since").by(Trial::Suite(Scenario::AnswerAged("udp-answer-waited"))),
    path("udp-broadcast-network", V4, claimed::broadcast_in_network, "sendmsg4, egress", "broadcast, limited and of the subnet, to an address in a listed network"),
    path("udp-broadcast-loopback", V4, claimed::broadcast_after_loopback, EGRESS, "the same of the subnet, after a datagram to it that IP_PKTINFO sends over the loopback device"),
    path("udp-multicast-network", Both, claimed::multicast_in_network, SENDMSG, "multicast to a group in a listed network of unicast addresses"),
    path("udp-broadcast-listed", V4, claimed::broadcast_listed, SENDMSG, "a broadcast address that is listed itself").uncontrolled("it is listed").expect(Expect::Works("an address is listed whatever it stands for")),
    path("udp-multicast-listed", Both, claimed::multicast_listed, SENDMSG, "a group that is listed itself").uncontrolled("it is listed").expect(Expect::Works("an address is listed whatever it stands for")),
    path("loopback-forwarder", Both, tcp::connect, "", "a process outside the gate connects on request over the loopback device").by(Trial::Suite(Scenario::Forwarder)).expect(Expect::Open("its connections are its own: run no forward proxy that serves workloads outside the gate, or give it a cgroup behind the gate")),
    path("request-key", V4, tcp::connect, "", "request_key(\"dns_resolver\"): the kernel starts /sbin/request-key, which asks a resolver, outside every cgroup of the workload").by(Trial::Untried).expect(Expect::Open("only where the package keyutils is installed on the node; remove /sbin/request-key or the dns_resolver line of /etc/request-key.conf, or refuse request_key by seccomp, as container runtimes do")),
];
