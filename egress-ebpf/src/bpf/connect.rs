//! connect(): judges the destination and, for a flow that needs the proxy, redirects it there.

use crate::bpf::answers::{answers, cookie};
use crate::bpf::claims::{older_claims, stream_claims};
use crate::bpf::context::{destination4, destination6, redirect4, redirect6, sock_of};
use crate::bpf::dns;
use crate::bpf::event;
use crate::bpf::judge::{judge, policy_of, proxy_port};
use crate::bpf::listener;
use crate::bpf::settle::settle;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::SockAddrContext;
use egress_ebpf::abi::{policy_flag, proto};
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// The ports to which name resolvers connect: glibc (sysdeps/posix/getaddrinfo.c), Go (net/addrselect.go) and musl
/// (src/network/lookup_name.c).
const SORTING: [u16; 3] = [0, 9, 65_535];

/// connect() on an IPv4 socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let to = destination4(ctx);
    let (verdict, port) = gate(ctx, &to, Hook::Connect4);
    if port != 0 {
        redirect4(ctx, port);
    }
    verdict.return_code()
}

/// connect() on an IPv6 socket, to an IPv6 or a mapped IPv4 address.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let to = destination6(ctx);
    let (verdict, port) = gate(ctx, &to, Hook::Connect6);
    if port != 0 {
        redirect6(ctx, &to, port);
    }
    verdict.return_code()
}

/// The verdict, and the agent's port to which the flow is redirected; 0: it is not.
#[inline(always)]
fn gate(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> (Verdict, u16) {
    // Name resolvers connect() a datagram socket to each address, so that the kernel chooses a source address (RFC 6724
    // sorting). That sends no packet, and a later send is judged by its packet.
    if to.proto == proto::UDP && SORTING.contains(&to.port) {
        return (Verdict::Allow, 0);
    }
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return (event::deny(None, None, to, Reason::State, hook), 0);
    };
    let netns = sock.netns_or_ask(ctx.as_ptr());
    if to.proto == proto::UDP {
        sock.note_process();
    } else {
        sock.note_task();
    }
    let applied = policy_of(sock);
    let claims = if to.proto == proto::UDP {
        older_claims(ctx, sock, to)
    } else {
        applied.policy.flags & policy_flag::ALLOW_ANY == 0 && stream_claims(ctx, to)
    };
    if claims {
        sock.note_task();
        return (
            event::deny(Some(sock), Some(&applied), to, Reason::ForgedSource, hook),
            0,
        );
    }
    // The egress hook judges each datagram: there the kernel can return the socket's owner.
    if to.proto == proto::UDP && applied.is_unknown() {
        return (Verdict::Allow, 0);
    }
    let (verdict, port) = match judge(&applied, netns, to) {
        Verdict::Dns if to.proto == proto::UDP => dns::redirect(ctx, sock, to),
        redirected @ (Verdict::Proxy | Verdict::Dns) => {
            let port = proxy_port(netns).unwrap_or(0);
            if listener::is_there(ctx, to.addr.is_v4(), port, proto::TCP) {
                (redirected, port)
            } else if redirected == Verdict::Dns {
                (Verdict::Deny(Reason::NoDns), 0)
            } else {
                (Verdict::Deny(Reason::NoProxy), 0)
            }
        }
        other => (other, 0),
    };
    // Some resolvers connect to the service's port instead. So a datagram socket may connect to a destination
    // that a stream may reach, to show its source address. It still cannot send: nothing is remembered, and the
    // backstop judges each datagram. A socket that asks a DNS server is redirected by its connect or not at all.
    if to.proto == proto::UDP && matches!(verdict, Verdict::Deny(reason) if reason != Reason::NoDns)
    {
        // Nor is an answer remembered, so the egress hook asks for the peer's own datagram each time.
        if matches!(verdict, Verdict::Deny(Reason::NotListed)) && answers(cookie(ctx), to) {
            return (Verdict::Allow, 0);
        }
        let stream = Destination {
            proto: proto::TCP,
            ..*to
        };
        if !matches!(judge(&applied, netns, &stream), Verdict::Deny(_)) {
            return (Verdict::Allow, 0);
        }
    }
    (settle(sock, &applied, to, verdict, hook), port)
}
