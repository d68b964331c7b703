//! Paths that are neither a stream nor a UDP datagram, or use another call: protocols of IP, other
//! socket families, io_uring.

use super::{CONNECT, CREATE, EGRESS, SENDMSG, SETSOCKOPT};
use crate::escape::table::Over::{Both, Neither, V6};
use crate::escape::table::{Between, Expect, Path, Trial, path};
use crate::escape::{families, ip, tcp, uring};

/// No hook of IP sockets sees `AF_PACKET` and similar families.
const DROP_RAW: &str = "drop CAP_NET_RAW";
const NO_CAPABILITY: &str =
    "no capability guards it: block the family by seccomp where the LSM does not load";
const LSM: &str = "lsm_cgroup/socket_create";
const ONLY_SOCKET: &str = "tried as far as socket()";

pub(super) static PROTOCOLS: &[Path] = &[
    path("ping-sendto", Both, ip::ping_send_to, CREATE, "ping socket, sendto"),
    path("ping-connect", Both, ip::ping_connect, CREATE, "ping socket, connect, send"),
    path("raw-icmp", Both, ip::raw_icmp, CREATE, "raw ICMP"),
    path("raw-neighbour-older", V6, ip::older_neighbour_talk, EGRESS, "a neighbour advertisement by hand, by a raw socket made before the attach").staged(Between::Attach),
    path("raw-connect", Both, ip::raw_connect, CREATE, "raw socket, connect, send"),
    path("raw-udp", Both, ip::raw_udp, CREATE, "a UDP header by hand"),
    path("raw-tcp", Both, ip::raw_tcp, CREATE, "a SYN by hand"),
    path("raw-own-header", Both, ip::own_header, CREATE, "IP_HDRINCL, IPV6_HDRINCL"),
    path("raw-fragment", Both, ip::own_fragment, CREATE, "a fragment by hand"),
    path("raw-ipip", Both, ip::ip_in_ip, CREATE, "IP in IP by hand"),
    path("raw-gre", Both, ip::gre, CREATE, "GRE by hand"),
    path("raw-unknown", Both, ip::unknown_protocol, CREATE, "a protocol that has no name"),
    path("sctp-one-to-one", Both, ip::sctp_stream, CREATE, "SCTP one-to-one"),
    path("sctp-one-to-many", Both, ip::sctp_many, CREATE, "SCTP one-to-many"),
    path("dccp", Both, ip::dccp, CREATE, "DCCP"),
    path("l2tp", Both, ip::l2tp, CREATE, "L2TP over IP"),
    path("group-membership", Both, tcp::connect, "", "joining a multicast group, which the kernel reports on the link").by(Trial::Untried).expect(Expect::Open("the kernel's own IGMP and MLD reports stay on the link and carry the group's number, no data; without them multicast could not be received")),
];

pub(super) static URING: &[Path] = &[
    path(
        "uring-connect",
        Both,
        uring::connect,
        CONNECT,
        "connect and send of a stream",
    )
    .listable(),
    path(
        "uring-send",
        Both,
        uring::send,
        CONNECT,
        "connect and send of a datagram",
    )
    .listable(),
    path(
        "uring-setsockopt",
        Both,
        uring::claim,
        SETSOCKOPT,
        "IP_FREEBIND, IPV6_FREEBIND",
    )
    .uncontrolled("by itself it sends nothing"),
    path("uring-sendmsg", Both, uring::send_msg, SENDMSG, "sendmsg").listable(),
];

pub(super) static FAMILIES: &[Path] = &[
    path("packet-raw", Neither, families::packet_raw, LSM, "AF_PACKET, a frame by hand").expect(Expect::NeedsLsm(DROP_RAW)),
    path("packet-datagram", Neither, families::packet_datagram, LSM, "AF_PACKET, SOCK_DGRAM").expect(Expect::NeedsLsm(DROP_RAW)),
    path("xdp", Neither, families::xdp, LSM, "AF_XDP").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(DROP_RAW)),
    path("vsock", Neither, families::vsock, LSM, "AF_VSOCK, to the hypervisor").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("alg", Neither, families::alg, LSM, "AF_ALG (leaves nothing by itself; denied like every family beyond IP)").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("tipc", Neither, families::tipc, LSM, "AF_TIPC").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("rds", Neither, families::rds, LSM, "AF_RDS").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("can", Neither, families::can, LSM, "AF_CAN").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("pppox", Neither, families::pppox, LSM, "AF_PPPOX").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("unix", Neither, tcp::connect, "", "a Unix socket to a program outside the gate that connects for others").by(Trial::Untried).expect(Expect::Open("what that program does is its own; give workloads no socket of a container runtime, a proxy or an SSH agent")),
    path("tunnel-device", Neither, tcp::connect, "", "a tunnel, NAT rule or TUN device made by the workload").by(Trial::Untried).expect(Expect::Open("needs CAP_NET_ADMIN over the network namespace: drop it. Forwarded packets have no socket, so no cgroup hook sees them")),
];
