//! The table of fields that the gate does not carry out, and their effect on a rule.
//!
//! The single source: `check`, the notes at load and in `status`, and the routes are made from it. Does not walk
//! objects.

use crate::istio::destination_rule::{ClientTlsMode, ConsistentHashLb, LoadBalancerSettings};
use crate::istio::fields::StringMatch;
use crate::istio::service_entry::ServicePort;
use crate::istio::sidecar::{CaptureMode, IstioEgressListener, Sidecar};
use crate::istio::virtual_service::{
    HttpMatchRequest, HttpRoute, HttpRouteDestination, L4MatchAttributes,
};
use crate::istio::workload_entry::WorkloadEntry;
use crate::registry::services::Class;
use crate::traffic::{
    MergedPolicy, has_redirect_status, has_rewrite_regex, is_broken_match, missing_headers,
};

/// The effect on a rule with a field that is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The field adds convenience. The rule applies without it.
    PassedOver,
    /// The field changes nothing here: it is about connections to the workload, or about what the gate does in another way.
    NoEffect,
    /// The field narrows or protects. The part of the rule that has the field serves nothing, because without the field
    /// it would allow more than its author wrote.
    ServesNothing,
}

/// One field of `T` that is not carried out.
pub struct Field<T> {
    /// Its path below `T`, with dots.
    pub name: &'static str,
    /// The effect on the rule.
    pub effect: Effect,
    /// Whether an object asks for it.
    pub asked: fn(&T) -> bool,
    /// What is missing, for people; may be empty.
    pub note: &'static str,
}

/// The first field that is set and makes its owner serve nothing.
pub fn serves_nothing<T>(table: &[Field<T>], of: &T) -> Option<&'static str> {
    let strict = |f: &&Field<T>| f.effect == Effect::ServesNothing && (f.asked)(of);
    table.iter().find(strict).map(|f| f.name)
}

/// A row: the field's name, its effect, whether it is asked for, and what is missing.
macro_rules! fields {
    ($($name:literal $effect:ident ($asked:expr) $note:literal)*) => {
        [$(Field { name: $name, effect: Effect::$effect, asked: $asked, note: $note }),*]
    };
}

/// All tests of a match.
fn string_matches(m: &HttpMatchRequest) -> impl Iterator<Item = &StringMatch> {
    let single = [&m.uri, &m.scheme, &m.method, &m.authority];
    let named = [&m.headers, &m.without_headers, &m.query_params];
    let named = named.into_iter().flat_map(|tests| tests.values());
    single.into_iter().flatten().chain(named)
}

/// Fields of `VirtualService.http[]`.
pub const HTTP_ROUTE: &[Field<HttpRoute>] = &fields! {
    "match"                   ServesNothing (|r| r.r#match.iter().flat_map(string_matches).any(is_broken_match)) "a regular expression is too large"
    "corsPolicy.allowOrigins" ServesNothing (|r| r.cors_policy.as_ref().is_some_and(|c| c.allow_origins.iter().any(is_broken_match))) "a regular expression is too large"
    "redirect.redirectCode"   ServesNothing (|r| r.redirect.as_ref().is_some_and(|r| !has_redirect_status(r))) "only 301, 302, 303, 307 and 308 are"
    "rewrite.uriRegexRewrite" ServesNothing (|r| r.rewrite.as_ref().and_then(|w| w.uri_regex_rewrite.as_ref()).is_some_and(|w| !has_rewrite_regex(w))) ""
    "headers"                 ServesNothing (|r| missing_headers(r.headers.as_ref()).is_some()) "it changes a field of framing, or a value has a %VARIABLE% that is not known"
    "retries.retryRemoteLocalities" NoEffect (|r| r.retries.as_ref().is_some_and(|r| r.retry_remote_localities == Some(true))) "retries go to endpoints of every locality"
};

/// Fields of `VirtualService.http[].match[]`.
pub const HTTP_MATCH: &[Field<HttpMatchRequest>] = &fields! {
    "statPrefix" PassedOver (|m| !m.stat_prefix.is_empty()) "no metric is kept by match"
};

/// Fields of `VirtualService.http[].route[]`. One of them makes the whole route serve nothing.
pub const HTTP_DESTINATION: &[Field<HttpRouteDestination>] = &fields! {
    "headers" ServesNothing (|d| missing_headers(d.headers.as_ref()).is_some()) "it changes a field of framing, or a value has a %VARIABLE% that is not known"
};

/// Fields of `VirtualService.tcp[].match[]`.
pub const TCP_MATCH: &[Field<L4MatchAttributes>] = &fields! {
    "sourceSubnet" ServesNothing (|m| !m.source_subnet.is_empty()) ""
};

/// Whether there is something besides the switch.
fn prefers_localities(settings: &LoadBalancerSettings) -> bool {
    settings.locality_lb_setting.as_ref().is_some_and(|l| {
        !l.distribute.is_empty() || !l.failover.is_empty() || !l.failover_priority.is_empty()
    })
}

/// Whether the hash asks for a size.
fn hashes(policy: &MergedPolicy<'_>, sized: fn(&ConsistentHashLb) -> bool) -> bool {
    let load_balancer = policy.load_balancer;
    load_balancer.is_some_and(|l| l.consistent_hash.as_ref().is_some_and(sized))
}

/// Whether `credentialName` has the form of a name of what the policy needs: a ConfigMap has no client certificate.
/// Whether it may be used depends on the rule's namespace.
fn may_name(policy: &MergedPolicy<'_>, name: &str) -> bool {
    match name.split_once("://") {
        None | Some(("kubernetes", _)) => true,
        Some(("configmap", rest)) => {
            rest.contains('/') && policy.tls.is_some_and(|t| t.mode == ClientTlsMode::Simple)
        }
        Some(_) => false,
    }
}

/// Fields of a traffic policy.
pub fn traffic_policy<'a>() -> [Field<MergedPolicy<'a>>; 10] {
    fields! {
    "tls.mode"           ServesNothing (|p| p.tls.is_some_and(|t| t.mode == ClientTlsMode::IstioMutual)) "ISTIO_MUTUAL needs the certificates of a mesh; use SIMPLE, or MUTUAL with files"
    "tls.credentialName" ServesNothing (|p| p.credential_name().is_some_and(|name| !may_name(p, name))) "only a Secret is (name, kubernetes://name or kubernetes://namespace/name) and, in mode SIMPLE, a ConfigMap (configmap://namespace/name)"
    "connectionPool.http.http2KeepAlive"       PassedOver (|p| p.http().is_some_and(|h| h.http2_keep_alive.is_some())) ""
    "loadBalancer.localityLbSetting"           PassedOver (|p| p.load_balancer.is_some_and(prefers_localities)) "the agent has no locality, so endpoints of all localities take turns"
    "loadBalancer.zoneAwareLbSetting"          PassedOver (|p| p.load_balancer.is_some_and(|l| l.zone_aware_lb_setting.is_some())) "the agent has no locality, so endpoints of all zones take turns"
    "loadBalancer.warmup"                      PassedOver (|p| p.load_balancer.is_some_and(|l| l.warmup.is_some() || l.warmup_duration_secs.is_some())) "a new endpoint gets its full share at once"
    "loadBalancer.consistentHash.ringHash.minimumRingSize" NoEffect (|p| hashes(p, |h| h.ring_hash.as_ref().is_some_and(|r| r.minimum_ring_size != 0))) "there is no table to size"
    "loadBalancer.consistentHash.maglev.tableSize"         NoEffect (|p| hashes(p, |h| h.maglev.as_ref().is_some_and(|m| m.table_size != 0))) "there is no table to size"
    "loadBalancer.consistentHash.minimumRingSize"          NoEffect (|p| hashes(p, |h| h.minimum_ring_size != 0)) "there is no table to size"
    "retryBudget.budgetInterval"               PassedOver (|p| p.retry_budget.is_some_and(|b| b.budget_interval.is_some())) "the requests of the moment count"
    }
}

/// Fields of `ServiceEntry.endpoints[]` and of a `WorkloadEntry`.
pub const ENDPOINT: &[Field<WorkloadEntry>] = &fields! {
    "address" ServesNothing (|e| e.address.starts_with("unix:")) "an endpoint that is a Unix socket gets nothing"
    "network"  NoEffect (|e| !e.network.is_empty()) "the agent has no network, so the endpoint is dialled as it is written"
    "locality" NoEffect (|e| !e.locality.is_empty()) "the agent has no locality, so endpoints of all localities take turns"
};

/// A port of a `ServiceEntry`, and the other fields of the entry that matter for it.
pub struct PortOf<'a> {
    /// The port.
    pub port: &'a ServicePort,
    /// The entry has `addresses`, which clients dial instead of its endpoints.
    pub vips: bool,
}

impl PortOf<'_> {
    fn is_udp(&self) -> bool {
        Class::parse(&self.port.protocol) == Some(Class::Udp)
    }
}

/// Fields of `ServiceEntry.ports[]`.
pub fn port<'a>() -> [Field<PortOf<'a>>; 2] {
    fields! {
    "targetPort" ServesNothing (|p| p.is_udp() && p.port.target_port != 0 && p.port.target_port != p.port.number) "a UDP port with another targetPort is denied"
    "protocol"   ServesNothing (|p| p.is_udp() && p.vips) "UDP to spec.addresses is denied"
    }
}

/// Fields of `Sidecar.egress[]`.
pub const LISTENER: &[Field<IstioEgressListener>] = &fields! {
    "bind"        ServesNothing (|l| !l.bind.is_empty()) "the listener imports nothing"
    "captureMode" ServesNothing (|l| l.capture_mode == CaptureMode::None) "the listener imports nothing"
    "port"        ServesNothing (|l| l.port.as_ref().is_some_and(|p| p.protocol.eq_ignore_ascii_case("HTTP_PROXY"))) "a listener for an explicit proxy imports nothing"
};

/// Fields of a `Sidecar`.
pub const SIDECAR: &[Field<Sidecar>] = &fields! {
    "ingress"               NoEffect (|s| !s.ingress.is_empty()) "the gate governs outgoing connections only"
    "inboundConnectionPool" NoEffect (|s| s.inbound_connection_pool.is_some()) "the gate governs outgoing connections only"
};
