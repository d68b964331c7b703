//! Metrics of the proxy: requests, and what it has in use.

use crate::in_use::InUse;
use crate::monitoring::metric::Metric::{Counted, Timed};
use crate::monitoring::metric::{Group, counter, gauge};
use crate::monitoring::values::Values;
use crate::observe::histogram::Timing;
use crate::proxy::ProxyUse;

/// What the proxy has in use, by the name of the resource.
fn in_use(values: &Values<'_>) -> impl Iterator<Item = (&'static str, InUse)> {
    let ProxyUse {
        connections,
        descriptors,
        memory,
        pipes,
    } = values
        .status
        .map_or_else(Default::default, |s| s.0.proxy_use);
    let all = [
        ("connections", connections),
        ("descriptors", descriptors),
        ("memory-bytes", memory),
        ("pipes", pipes),
    ];
    all.into_iter().filter(|_| values.status.is_some())
}

/// See the module.
pub const GROUP: Group = Group {
    title: "The proxy",
    metrics: &[
        counter(
            "egress_proxy_requests_total",
            &["protocol", "response_code_class"],
            "Requests and connections through the proxy that are over, denied ones included. Protocol http (HTTP/1.1), http2, tls and tcp (one for each connection). Class none: the client got no status.",
            |values, out| {
                for (protocol, class, count) in values.registry.own.finished().requests() {
                    let labels = [("protocol", protocol), ("response_code_class", class)];
                    out.sample(&labels, count);
                }
            },
        ),
        counter(
            "egress_proxy_response_flags_total",
            &["response_flag"],
            "The same by each of Envoy's response flags that they have (UF: the upstream connection failed, UO: a limit is reached, NR: no route, DC: the client ended it). One with two flags counts in both.",
            |values, out| {
                for (flag, count) in values.registry.own.finished().flags() {
                    out.sample(&[("response_flag", &format!("{flag:?}"))], count);
                }
            },
        ),
        counter(
            "egress_proxy_bytes_total",
            &["direction"],
            "Bytes of these requests' and responses' bodies, and of TLS and TCP connections: received from clients and sent to them.",
            |values, out| {
                let bytes = values.registry.own.finished().bytes();
                for (direction, bytes) in ["received", "sent"].into_iter().zip(bytes) {
                    out.sample(&[("direction", direction)], bytes);
                }
            },
        ),
        Timed(Timing::ProxyRequest),
        gauge(
            "egress_proxy_in_use",
            &["resource"],
            "What the proxy has in use: connections of clients, descriptors of clients and upstream connections, bytes of memory for requests and buffers, pipes of relayed connections.",
            |values, out| {
                for (resource, InUse { used, .. }) in in_use(values) {
                    out.sample(&[("resource", resource)], used);
                }
            },
        ),
        gauge(
            "egress_proxy_limit",
            &["resource"],
            "The most of it that may be in use. One workload gets a quarter.",
            |values, out| {
                for (resource, InUse { limit, .. }) in in_use(values) {
                    out.sample(&[("resource", resource)], limit);
                }
            },
        ),
        Counted("egress_mirrored_requests_total"),
        Counted("egress_access_log_lines_total"),
    ],
};
