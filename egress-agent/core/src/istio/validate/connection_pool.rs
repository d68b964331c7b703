//! Rules of connection pools.

use super::check::Check;
use super::common::{duration, required_duration, some_duration};
use crate::istio::destination_rule::{
    ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, TcpSettings,
};

/// Checks a connection pool, of a `DestinationRule` or a `Sidecar`.
pub fn connection_pool(check: &mut Check<'_>, settings: &ConnectionPoolSettings) {
    if settings.http.is_none() && settings.tcp.is_none() {
        check.error("connection pool must have at least one field");
        return;
    }
    check.some("http", settings.http.as_ref(), http);
    check.some("tcp", settings.tcp.as_ref(), tcp);
}

fn not_negative(check: &mut Check<'_>, key: &'static str, value: i32, name: &str) {
    if value < 0 {
        check.at(key, |check| {
            check.error(format!("{name} must be non-negative"));
        });
    }
}

fn http(check: &mut Check<'_>, http: &HttpSettings) {
    for (key, value, name) in [
        (
            "http1MaxPendingRequests",
            http.http1_max_pending_requests,
            "http1 max pending requests",
        ),
        (
            "http2MaxRequests",
            http.http2_max_requests,
            "http2 max requests",
        ),
        (
            "maxRequestsPerConnection",
            http.max_requests_per_connection,
            "max requests per connection",
        ),
        ("maxRetries", http.max_retries, "max retries"),
        (
            "maxConcurrentStreams",
            http.max_concurrent_streams,
            "max concurrent streams",
        ),
    ] {
        not_negative(check, key, value, name);
    }
    some_duration(check, "idleTimeout", http.idle_timeout);
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        check.at("useClientProtocol", |check| {
            check.error("use client protocol must not be true when H2UpgradePolicy is UPGRADE");
        });
    }
    check.some(
        "http2KeepAlive",
        http.http2_keep_alive.as_ref(),
        |check, keepalive| {
            required_duration(
                check,
                "interval",
                keepalive.interval,
                "http2 keepalive interval is required",
            );
            required_duration(
                check,
                "timeout",
                keepalive.timeout,
                "http2 keepalive timeout is required",
            );
        },
    );
}

fn tcp(check: &mut Check<'_>, tcp: &TcpSettings) {
    not_negative(
        check,
        "maxConnections",
        tcp.max_connections,
        "max connections",
    );
    some_duration(check, "connectTimeout", tcp.connect_timeout);
    some_duration(check, "maxConnectionDuration", tcp.max_connection_duration);
    // Less than a millisecond switches the idle timeout off.
    check.some("idleTimeout", tcp.idle_timeout.as_ref(), |check, span| {
        if span.nanos() / 1_000_000 != 0 {
            check.require(duration(*span));
        }
    });
    check.some(
        "tcpKeepalive",
        tcp.tcp_keepalive.as_ref(),
        |check, keepalive| {
            some_duration(check, "time", keepalive.time);
            some_duration(check, "interval", keepalive.interval);
        },
    );
}
