//! Rules of `Sidecar`.

use super::addresses::{self, UNIX_PREFIX};
use super::check::Check;
use super::common;
use super::connection_pool::connection_pool;
use super::names;
use super::server_tls::ingress_tls;
use crate::istio::protocol::Protocol;
use crate::istio::sidecar::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicy,
    OutboundTrafficPolicyMode, Sidecar, SidecarPort,
};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the spec of a `Sidecar`.
pub fn sidecar(check: &mut Check<'_>, sidecar: &Sidecar) {
    if !common::workload_selector(check, "sidecar", sidecar.workload_selector.as_ref()) {
        return;
    }
    let is_empty = sidecar.egress.is_empty()
        && sidecar.ingress.is_empty()
        && sidecar.outbound_traffic_policy.is_none()
        && sidecar.inbound_connection_pool.is_none();
    if is_empty {
        check.error("sidecar: empty configuration provided");
        return;
    }
    let mut numbers = BTreeSet::new();
    check.each("ingress", &sidecar.ingress, |check, listener| {
        ingress(check, listener, &mut numbers);
    });
    check.some(
        "inboundConnectionPool",
        sidecar.inbound_connection_pool.as_deref(),
        connection_pool,
    );
    egress(check, &sidecar.egress);
    check.some(
        "outboundTrafficPolicy",
        sidecar.outbound_traffic_policy.as_ref(),
        outbound_policy,
    );
}

fn common_port(check: &mut Check<'_>, port: &SidecarPort) {
    if port.target_port > 0 {
        check.at("targetPort", |check| {
            check.error("targetPort has no impact on Sidecars");
        });
    }
    if !port.name.is_empty() {
        check.at("name", |check| check.require(common::port_name(&port.name)));
    }
    check.at("protocol", |check| {
        check.require(common::protocol(&port.protocol));
    });
}

fn bind_ip(check: &mut Check<'_>, bind: &str) {
    if !bind.is_empty() {
        check.at("bind", |check| check.require(addresses::ip(bind)));
    }
}

fn ingress(check: &mut Check<'_>, listener: &IstioIngressListener, numbers: &mut BTreeSet<u32>) {
    let Some(port) = &listener.port else {
        check.error("sidecar: port is required for ingress listeners");
        return;
    };
    check.at("port", |check| {
        common_port(check, port);
        check.at("number", |check| check.require(common::port(port.number)));
    });
    bind_ip(check, &listener.bind);
    if !numbers.insert(port.number) {
        check.at("port", |check| {
            check.error("sidecar: ports on IP bound listeners must be unique");
        });
    }
    if !listener.default_endpoint.is_empty() {
        check.at("defaultEndpoint", |check| {
            default_endpoint(check, &listener.default_endpoint);
        });
    }
    let protocol = Protocol::parse(&port.protocol);
    check.some("tls", listener.tls.as_deref(), |check, tls| {
        ingress_tls(check, tls, protocol.is_some_and(Protocol::is_tls));
    });
    check.some("connectionPool", listener.connection_pool.as_deref(), |check, pool| {
        connection_pool(check, pool);
        if pool.http.is_some() && !protocol.is_some_and(Protocol::is_http) {
            check.warn(format!(
                "sidecar: HTTP connection pool settings are configured for port {} ({:?}) but its protocol is not HTTP ({}); only TCP settings will apply",
                port.number, port.name, port.protocol
            ));
        }
    });
}

fn default_endpoint(check: &mut Check<'_>, endpoint: &str) {
    if let Some(path) = endpoint.strip_prefix(UNIX_PREFIX) {
        check.require(addresses::unix_path(path));
        return;
    }
    let (host, port) = split_host_port(endpoint).unwrap_or_else(|reason| {
        check.error(format!("address {endpoint}: {reason}"));
        ("", "")
    });
    if !["", "127.0.0.1", "0.0.0.0", "::1", "::"].contains(&host) {
        check.error(
            "sidecar: defaultEndpoint must be of form 127.0.0.1:<port>,0.0.0.0:<port>,[::1]:port,[::]:port,unix://filepath or unset",
        );
    }
    let number = port.strip_prefix('+').unwrap_or(port);
    if let Ok(value) = port.parse::<i64>() {
        check.require(
            common::port(u32::try_from(value).unwrap_or(0))
                .map_err(|_| format!("port number {value} must be in the range 1..65535")),
        );
    } else {
        let is_number = !number.is_empty()
            && number
                .trim_start_matches('-')
                .bytes()
                .all(|b| b.is_ascii_digit());
        let why = if is_number {
            "value out of range"
        } else {
            "invalid syntax"
        };
        check.error(format!(
            "sidecar: defaultEndpoint port ({port}) is not a number: strconv.Atoi: parsing {port:?}: {why}"
        ));
    }
}

/// `host:port` or `[host]:port`, with the reasons of Go's `net.SplitHostPort`.
fn split_host_port(text: &str) -> Result<(&str, &str), &'static str> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("missing ']' in address")?;
        let port = after.strip_prefix(':').ok_or("missing port in address")?;
        if port.contains(':') {
            return Err("too many colons in address");
        }
        (host, port)
    } else {
        let (host, port) = text.rsplit_once(':').ok_or("missing port in address")?;
        if host.contains(':') {
            return Err("too many colons in address");
        }
        (host, port)
    };
    if host.contains('[') || port.contains('[') {
        return Err("unexpected '[' in address");
    }
    if host.contains(']') || port.contains(']') {
        return Err("unexpected ']' in address");
    }
    Ok((host, port))
}

fn egress(check: &mut Check<'_>, listeners: &[IstioEgressListener]) {
    let (mut numbers, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let mut index = 0;
    check.each("egress", listeners, |check, listener| {
        index += 1;
        match &listener.port {
            None if index < listeners.len() => {
                check.error("sidecar: the egress listener with empty port should be the last listener in the list");
            }
            None => {}
            Some(port) => {
                egress_port(check, port, listener);
                if port.number == 0 {
                    if !sockets.insert(listener.bind.clone()) {
                        check.at("bind", |check| {
                            check.error("sidecar: unix domain socket values for listeners must be unique");
                        });
                    }
                } else if !numbers.insert(port.number) {
                    check.at("port", |check| check.error("sidecar: ports on IP bound listeners must be unique"));
                }
            }
        }
        if listener.hosts.is_empty() {
            check.error("sidecar: egress listener must contain at least one host");
        } else {
            egress_hosts(check, &listener.hosts);
        }
    });
}

fn egress_port(check: &mut Check<'_>, port: &SidecarPort, listener: &IstioEgressListener) {
    check.at("port", |check| common_port(check, port));
    if port.number != 0 {
        check.at("port", |check| {
            check.at("number", |check| check.require(common::port(port.number)));
        });
        bind_ip(check, &listener.bind);
        return;
    }
    check.at("bind", |check| {
        match listener.bind.strip_prefix(UNIX_PREFIX) {
            None => check
                .error("sidecar: ports with 0 value must have a unix domain socket bind address"),
            Some(path) => check.require(addresses::unix_path(path)),
        }
    });
    if listener.capture_mode == CaptureMode::Iptables {
        check.at("captureMode", |check| {
            check.error(
                "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners",
            );
        });
    }
}

fn egress_hosts(check: &mut Check<'_>, hosts: &[String]) {
    let own = check.object().meta.namespace.as_str();
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut pairs = hosts.iter().map(|host| host.split_once('/'));
    check.each("hosts", hosts, |check, host| {
        let pair = pairs.next().flatten();
        let Some((namespace, name)) = pair else {
            check.error("host must be of form namespace/dnsName");
            return;
        };
        imported_host(check, namespace, name);
        if is_exclusion(namespace, name) {
            return;
        }
        let names = seen
            .entry(if namespace == "." { own } else { namespace })
            .or_default();
        let is_covered = if name == "*" {
            !names.is_empty()
        } else {
            names.contains(name) || names.contains("*")
        };
        if is_covered {
            check.warn(format!("duplicated egress host: {host}"));
        }
        names.insert(name);
    });
    if seen.len() > 1 && seen.get("*").is_some_and(|names| names.contains("*")) {
        check.at("hosts", |check| {
            check.warn("`*/*` host select all resources, no other hosts can be added");
        });
    }
}

/// `~ns/...` and `~/host` take hosts away from what the other entries import; `~/*` imports
/// nothing at all (istio pull request 60581).
fn is_exclusion(namespace: &str, name: &str) -> bool {
    namespace
        .strip_prefix('~')
        .is_some_and(|namespace| !namespace.is_empty() || name != "*")
}

/// `namespace/name` of an import.
fn imported_host(check: &mut Check<'_>, namespace: &str, name: &str) {
    if namespace.is_empty() || name.is_empty() {
        check.error("config namespace and dnsName in host entry cannot be empty");
    }
    let bare = namespace.strip_prefix('~').unwrap_or(namespace);
    if !["", "*", "."].contains(&bare) && !names::is_label(bare) {
        check.error(format!("invalid namespace value {namespace:?} in sidecar"));
    }
    if name != "*" && !name.contains('.') {
        check.error("short names (non FQDN) are not allowed");
    }
    check.require(names::host(name));
    check.require(names::partial_wildcard(name));
}

fn outbound_policy(check: &mut Check<'_>, policy: &OutboundTrafficPolicy) {
    check.some("egressProxy", policy.egress_proxy.as_ref(), |check, proxy| {
        if policy.mode != OutboundTrafficPolicyMode::AllowAny {
            check.error("sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode");
            return;
        }
        let host = names::fqdn(&proxy.host);
        let refused = host.is_err();
        check.at("host", |check| check.require(host));
        if proxy.port.is_none() {
            check.error("sidecar: egress_proxy port must be non-nil");
        } else if !refused {
            common::destination(check, proxy);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_split_as_go_splits_them() {
        for (text, expected) in [
            ("127.0.0.1:80", Ok(("127.0.0.1", "80"))),
            ("[::1]:80", Ok(("::1", "80"))),
            (":80", Ok(("", "80"))),
            ("127.0.0.1", Err("missing port in address")),
            ("::1:80", Err("too many colons in address")),
            ("[::1]", Err("missing port in address")),
            ("[::1", Err("missing ']' in address")),
        ] {
            assert_eq!(split_host_port(text), expected, "{text}");
        }
    }
}
