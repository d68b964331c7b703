//! Streams.

use super::forms::{compatible, loopback_in_6to4, nat64, nothing_in_6to4, six_to_four, teredo};
use super::{ACCEPTED, CONNECT, CREATE, EGRESS, NO_ROUTE, SETSOCKOPT};
use crate::escape::table::Over::{Both, V4, V6};
use crate::escape::table::{Between, Caller, Expect, Path, path};
use crate::escape::{served, staged, tcp};

pub(super) static STREAMS: &[Path] = &[
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
        "tcp-listener-connect",
        Both,
        served::listener_then_connect,
        CONNECT,
        "a listener that has answered a handshake, AF_UNSPEC, connect",
    )
    .listable(),
    path(
        "tcp-client-listener-connect",
        Both,
        served::client_then_listener,
        CONNECT,
        "the same with a socket that was a client's before",
    )
    .listable(),
    path(
        "tcp-answer",
        Both,
        served::caller,
        EGRESS,
        "a server answers a caller that no rule lists",
    )
    .called(Caller::Connections)
    .expect(Expect::Works(ACCEPTED)),
    path(
        "tcp-answer-last",
        Both,
        served::last_caller,
        EGRESS,
        "the same after its listener was closed",
    )
    .called(Caller::Connections)
    .expect(Expect::Works(ACCEPTED)),
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
        SETSOCKOPT,
        "IP_TRANSPARENT, IPV6_FREEBIND",
    ),
    path(
        "tcp-unspecified-as-bound",
        V4,
        tcp::unspecified_as_bound,
        EGRESS,
        "bound to the target before the attach, connect to 0.0.0.0, which the kernel dials as the bound address",
    )
    .staged(Between::Attach),
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
