//! The rows of the table, section by section.
//!
//! Owns the words and the expectation of each path, and the forms that an address may take. What
//! the columns mean stands in `table`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::table::{Between, Expect, Over, Path, Scenario, Trial, path};
use super::{families, forged, ip, staged, tcp, udp, uring};

fn inside4(address: SocketAddr) -> [u16; 2] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip,
        // The outside's hosts have the same number in both families.
        IpAddr::V6(ip) => {
            let last = format!("{:x}", ip.segments()[7]).parse().unwrap_or(0);
            Ipv4Addr::new(198, 51, 100, last)
        }
    };
    let [a, b, c, d] = ip.octets();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

fn v6(segments: [u16; 8], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(segments).into(), port)
}

fn nat64(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0x64, 0xff9b, 0, 0, 0, 0, high, low], a.port())
}

fn six_to_four(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0x2002, high, low, 0, 0, 0, 0, 1], a.port())
}

fn teredo(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6(
        [0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low],
        a.port(),
    )
}

fn compatible(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0, 0, 0, 0, 0, 0, high, low], a.port())
}

fn loopback_in_6to4(a: SocketAddr) -> SocketAddr {
    v6([0x2002, 0x7f00, 1, 0, 0, 0, 0, 1], a.port())
}

fn nothing_in_6to4(a: SocketAddr) -> SocketAddr {
    v6([0x2002, 0, 0, 0, 0, 0, 0, 1], a.port())
}

/// `AF_PACKET` and its kin are seen by no hook of IP sockets.
const DROP_RAW: &str = "drop CAP_NET_RAW";
const NO_CAPABILITY: &str =
    "no capability guards it: block the family by seccomp where the LSM does not load";
const CREATED_ELSEWHERE: &str = "a socket is its creator's: one made outside the gate, inherited, passed over a Unix socket or brought along, stays outside; hand none in";
const CONNECT: &str = "connect4/6";
const SENDMSG: &str = "sendmsg4/6";
const CREATE: &str = "sock_create";
const EGRESS: &str = "egress";
const NO_ROUTE: &str = "without the gate it goes nowhere else";

/// The page's sections.
pub static SECTIONS: &[(&str, &[Path])] = &[
    ("Streams", STREAMS),
    ("Datagrams", DATAGRAMS),
    ("Forged senders and answers", FORGED),
    ("Other protocols", PROTOCOLS),
    ("io_uring", URING),
    ("Other socket families", FAMILIES),
    ("Old and borrowed sockets", SOCKETS),
    ("The agent", AGENT),
];

use Over::{Both, Neither, V4, V6};

static STREAMS: &[Path] = &[
    path("tcp-connect", Both, tcp::connect, CONNECT, "TCP connect").listable(),
    path(
        "tcp-mapped",
        V4,
        tcp::mapped,
        CONNECT,
        "TCP connect to ::ffff:a.b.c.d",
    )
    .listable(),
    path(
        "tcp-fastopen",
        Both,
        tcp::fast_open,
        CONNECT,
        "sendto(MSG_FASTOPEN)",
    )
    .listable(),
    path(
        "tcp-fastopen-connect",
        Both,
        tcp::fast_open_connect,
        CONNECT,
        "TCP_FASTOPEN_CONNECT, then send",
    )
    .listable(),
    path(
        "tcp-reconnect",
        Both,
        tcp::reconnect,
        CONNECT,
        "connect to a listed destination, AF_UNSPEC, connect again",
    )
    .listable(),
    path(
        "tcp-accepted-reconnect",
        Both,
        tcp::accepted_then_connect,
        CONNECT,
        "an accepted socket, AF_UNSPEC, connect",
    )
    .listable(),
    path(
        "tcp-bind-device",
        Both,
        tcp::bind_device,
        CONNECT,
        "SO_BINDTODEVICE",
    )
    .listable(),
    path("tcp-mark", Both, tcp::mark, CONNECT, "SO_MARK").listable(),
    path(
        "tcp-transparent",
        Both,
        tcp::transparent,
        CONNECT,
        "IP_TRANSPARENT, IPV6_FREEBIND",
    )
    .listable(),
    path(
        "tcp-unspecified-as-bound",
        V4,
        tcp::unspecified_as_bound,
        EGRESS,
        "bound to the target, connect to 0.0.0.0, which the kernel dials as the bound address",
    ),
    path(
        "tcp-nat64",
        V6,
        tcp::connect,
        CONNECT,
        "NAT64 form of the target (64:ff9b::/96)",
    )
    .form(nat64),
    path(
        "tcp-6to4",
        V6,
        tcp::connect,
        CONNECT,
        "6to4 form (2002::/16)",
    )
    .form(six_to_four),
    path(
        "tcp-teredo",
        V6,
        tcp::connect,
        CONNECT,
        "Teredo form (2001::/32)",
    )
    .form(teredo),
    path(
        "tcp-compatible",
        V6,
        tcp::connect,
        CONNECT,
        "IPv4-compatible form (::a.b.c.d)",
    )
    .form(compatible),
    path(
        "tcp-6to4-loopback",
        V6,
        tcp::connect,
        CONNECT,
        "6to4 form of 127.0.0.1",
    )
    .form(loopback_in_6to4),
    path(
        "tcp-6to4-unspecified",
        V6,
        tcp::connect,
        CONNECT,
        "6to4 form of 0.0.0.0",
    )
    .form(nothing_in_6to4),
    path(
        "tcp-source-route",
        Both,
        tcp::source_route,
        EGRESS,
        "to a listed destination by way of the target: loose source route, segment routing header",
    ),
    path(
        "tcp-late-source-route",
        Both,
        tcp::late_source_route,
        EGRESS,
        "the same, set on a connection that stands",
    )
    .unseen("the kernel keeps the route that the connection has until it must look again"),
    path(
        "tcp-extension-header",
        V6,
        tcp::extension_header,
        CONNECT,
        "IPV6_DSTOPTS on the socket",
    ),
    path(
        "tcp-loopback-by-device",
        Both,
        tcp::loopback_by_device,
        EGRESS,
        "loopback address by SO_BINDTODEVICE of the way out",
    ),
    path(
        "tcp-proxied-by-device",
        Both,
        tcp::proxied_by_device,
        EGRESS,
        "a redirected flow by SO_BINDTODEVICE of the way out",
    )
    .uncontrolled("it is the gate that redirects"),
    path(
        "tcp-own-namespace",
        Both,
        staged::own_namespace,
        CONNECT,
        "unshare(CLONE_NEWNET), connect",
    )
    .uncontrolled(NO_ROUTE),
    path(
        "mptcp",
        Both,
        tcp::mptcp,
        CREATE,
        "MPTCP connect: the first subflow, and with it every further one",
    ),
    path(
        "mptcp-fastopen",
        Both,
        tcp::mptcp_fast_open,
        CREATE,
        "MPTCP with sendto(MSG_FASTOPEN)",
    ),
    path(
        "smc",
        Both,
        tcp::smc,
        CONNECT,
        "AF_SMC, which falls back to TCP of the kernel's own",
    ),
];

static DATAGRAMS: &[Path] = &[
    path("udp-sendto", Both, udp::send_to, SENDMSG, "UDP sendto").listable(),
    path(
        "udp-connect",
        Both,
        udp::connect,
        CONNECT,
        "UDP connect, send",
    )
    .listable(),
    path("udp-sendmsg", Both, udp::send_msg, SENDMSG, "UDP sendmsg").listable(),
    path(
        "udp-sendmmsg",
        Both,
        udp::send_many,
        SENDMSG,
        "sendmmsg: listed first, then the target",
    )
    .listable(),
    path(
        "udp-mapped-sendto",
        V4,
        udp::mapped_send_to,
        SENDMSG,
        "UDP sendto ::ffff:a.b.c.d",
    )
    .listable(),
    path(
        "udp-mapped-connect",
        V4,
        udp::mapped_connect,
        CONNECT,
        "UDP connect to ::ffff:a.b.c.d",
    )
    .listable(),
    path(
        "udp-other-address",
        Both,
        udp::other_address,
        SENDMSG,
        "connected to a listed destination, sendto another",
    )
    .listable(),
    path(
        "udp-reconnect",
        Both,
        udp::reconnect,
        CONNECT,
        "connected, AF_UNSPEC, connected again",
    )
    .listable(),
    path(
        "udp-port-zero",
        Both,
        udp::port_zero,
        EGRESS,
        "connect to port 0, send",
    )
    .uncontrolled("the kernel sends no datagram to port 0"),
    path("udp-nat64", V6, udp::send_to, SENDMSG, "NAT64 form").form(nat64),
    path("udp-6to4", V6, udp::send_to, SENDMSG, "6to4 form").form(six_to_four),
    path(
        "udp-6to4-loopback",
        V6,
        udp::send_to,
        SENDMSG,
        "6to4 form of 127.0.0.1",
    )
    .form(loopback_in_6to4),
    path(
        "udp-fragments",
        Both,
        udp::fragments,
        SENDMSG,
        "a datagram of several fragments",
    )
    .listable(),
    path("udp-segments", Both, udp::segments, SENDMSG, "UDP_SEGMENT").listable(),
    path(
        "udp-source-route",
        Both,
        udp::source_route,
        EGRESS,
        "to a listed destination by way of the target",
    ),
    path(
        "udp-connected-source-route",
        Both,
        udp::connected_source_route,
        EGRESS,
        "the same, connected",
    ),
    path(
        "udp-source-route-message",
        V4,
        udp::source_route_message,
        EGRESS,
        "the same in a control message",
    ),
    path(
        "udp-hop-by-hop",
        V6,
        udp::hop_by_hop,
        SENDMSG,
        "IPV6_HOPOPTS on the socket",
    ),
    path(
        "udp-destination-options",
        V6,
        udp::destination_options_message,
        SENDMSG,
        "IPV6_DSTOPTS in a control message",
    ),
    path(
        "udp-bind-device",
        Both,
        udp::bind_device,
        SENDMSG,
        "SO_BINDTODEVICE",
    )
    .listable(),
    path("udp-mark", Both, udp::mark, SENDMSG, "SO_MARK").listable(),
    path(
        "udp-transparent",
        Both,
        udp::transparent,
        SENDMSG,
        "IP_TRANSPARENT, IPV6_FREEBIND",
    )
    .listable(),
    path(
        "udp-loopback-by-device",
        Both,
        udp::loopback_by_device,
        EGRESS,
        "loopback address by SO_BINDTODEVICE of the way out",
    ),
    path(
        "udp-loopback-by-message",
        Both,
        udp::loopback_by_message,
        EGRESS,
        "the same by IP_PKTINFO",
    ),
    path(
        "udp-broadcast",
        V4,
        udp::broadcast,
        SENDMSG,
        "broadcast, limited and of the subnet",
    ),
    path("udp-multicast", Both, udp::multicast, SENDMSG, "multicast"),
    path(
        "udp-link-local",
        Both,
        udp::link_local,
        SENDMSG,
        "link-local unicast",
    ),
    path(
        "udplite-sendto",
        Both,
        udp::lite_send_to,
        CREATE,
        "UDP-Lite sendto",
    ),
    path(
        "udplite-connect",
        Both,
        udp::lite_connect,
        CREATE,
        "UDP-Lite connect, send",
    ),
];

static FORGED: &[Path] = &[
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
    .called()
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
    .called(),
    path(
        "udp-answer-other-host",
        Both,
        forged::answer_other_host,
        SENDMSG,
        "it sends to another host",
    )
    .called(),
    path(
        "udp-answer-other-socket",
        Both,
        forged::answer_by_another,
        CONNECT,
        "another socket at the server's port answers: refused though some servers do so",
    )
    .called(),
];

static PROTOCOLS: &[Path] = &[
    path("ping-sendto", Both, ip::ping_send_to, CREATE, "ping socket, sendto"),
    path("ping-connect", Both, ip::ping_connect, CREATE, "ping socket, connect, send"),
    path("raw-icmp", Both, ip::raw_icmp, CREATE, "raw ICMP"),
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

static URING: &[Path] = &[
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
    path("uring-sendmsg", Both, uring::send_msg, SENDMSG, "sendmsg").listable(),
];

const LSM: &str = "lsm_cgroup/socket_create";
const ONLY_SOCKET: &str = "tried as far as socket()";

static FAMILIES: &[Path] = &[
    path("packet-raw", Neither, families::packet_raw, LSM, "AF_PACKET, a frame by hand").expect(Expect::NeedsLsm(DROP_RAW)),
    path("packet-datagram", Neither, families::packet_datagram, LSM, "AF_PACKET, SOCK_DGRAM").expect(Expect::NeedsLsm(DROP_RAW)),
    path("xdp", Neither, families::xdp, LSM, "AF_XDP").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(DROP_RAW)),
    path("vsock", Neither, families::vsock, LSM, "AF_VSOCK, to the hypervisor").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("alg", Neither, families::alg, LSM, "AF_ALG (leaves nothing by itself; refused as all that is not IP)").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("tipc", Neither, families::tipc, LSM, "AF_TIPC").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("rds", Neither, families::rds, LSM, "AF_RDS").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("can", Neither, families::can, LSM, "AF_CAN").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("pppox", Neither, families::pppox, LSM, "AF_PPPOX").uncontrolled(ONLY_SOCKET).expect(Expect::NeedsLsm(NO_CAPABILITY)),
    path("unix", Neither, tcp::connect, "", "a Unix socket to a program outside the gate that connects for others").by(Trial::Untried).expect(Expect::Open("what that program does is its own; give workloads no socket of a container runtime, a proxy or an SSH agent")),
    path("tunnel-device", Neither, tcp::connect, "", "a tunnel, NAT rule or TUN device made by the workload").by(Trial::Untried).expect(Expect::Open("needs CAP_NET_ADMIN over the network namespace: drop it. Forwarded packets have no socket, so no cgroup hook sees them")),
];

static SOCKETS: &[Path] = &[
    path("older-socket", Both, staged::socket_then_connect, CONNECT, "a TCP socket made before the attach, connect after it").staged(Between::Attach),
    path("older-connection", Both, staged::connected_then_send, EGRESS, "a TCP connection made before the attach").staged(Between::Attach),
    path("older-datagram-connected", Both, staged::datagram_connected_then_send, EGRESS, "a UDP socket connected before the attach, send").staged(Between::Attach),
    path("older-datagram", Both, staged::datagram_then_send_to, SENDMSG, "a UDP socket made before the attach, sendto").staged(Between::Attach),
    path("moved-out-with-socket", Both, staged::socket_then_connect, CONNECT, "a task moved out connects a socket that it made inside").staged(Between::MoveOut),
    path("moved-out", Both, staged::pause_then_all, "", "a task moved out makes a socket").staged(Between::MoveOut).expect(Expect::Open("moving a task needs write access to the cgroup tree: mount it read-only or not at all in workloads")),
    path("moved-in-with-socket", Both, staged::socket_then_connect, "", "a task moved in connects a socket that it made outside; a socket inherited or passed by SCM_RIGHTS is the same").staged(Between::MoveIn).expect(Expect::Open(CREATED_ELSEWHERE)),
    path("nested-cgroup", Both, tcp::connect, CONNECT, "in a cgroup made below the workload's own").by(Trial::Suite(Scenario::Nested)),
];

static AGENT: &[Path] = &[
    path("proxy-port", Both, tcp::proxy_port, CONNECT, "the proxy's port dialled directly: 127.0.0.1, 127.0.0.2, ::1, mapped forms, the unspecified and the node's address").uncontrolled(NO_ROUTE),
    path("proxy-port-bound", Both, forged::take_proxy_port, "bind4/6", "a workload listens at the proxy's port").uncontrolled(NO_ROUTE),
    path("no-origin", Both, tcp::connect, "the proxy", "a process outside the gate dials the proxy: a connection without an origin is closed").by(Trial::Suite(Scenario::NoOrigin)),
    path("flow-table-full", Both, tcp::connect, EGRESS, "the table of redirected flows is full").by(Trial::Suite(Scenario::FlowsFull)),
    path("agent-killed", Both, tcp::connect, CONNECT, "the agent is killed: unlisted and redirected connects").by(Trial::Suite(Scenario::AgentKilled)),
    path("proxy-port-taken", Both, tcp::connect, CONNECT, "the agent is killed and another program listens at its port").by(Trial::Suite(Scenario::PortTaken)),
];
