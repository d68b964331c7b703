//! Datagrams.

use super::forms::{loopback_in_6to4, nat64, six_to_four};
use super::{CONNECT, CREATE, EGRESS, SENDMSG, SETSOCKOPT};
use crate::escape::table::Over::{Both, V4, V6};
use crate::escape::table::{Path, path};
use crate::escape::udp;

pub(super) static DATAGRAMS: &[Path] = &[
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
    path(
        "udp-sorting-ports",
        Both,
        udp::sorting_ports,
        EGRESS,
        "connect to port 9 and to port 65535, which resolvers do to sort addresses, send",
    ),
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
        SETSOCKOPT,
        "IP_TRANSPARENT, IPV6_FREEBIND",
    ),
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
