//! The part of the config that the state machine needs.

use crate::config::{
    Config, DeniedAnswer, Intercept, Mode, OnRemoval, TrafficPolicy, UnlistedAddress,
};
use egress_core::dns::settings::{DeniedCode, QuerySettings};
use egress_core::policy::claims;
use egress_core::policy::leases::LeaseSettings;
use egress_core::policy::state::Settings;
use ipnet::IpNet;
use std::sync::Arc;

/// See the module.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        leases: LeaseSettings {
            min_ttl: config.dns.min_ttl,
            grace: config.dns.grace,
            allow_private_answers: config.allow_private_answers,
            private_answers: config.private_answers.clone(),
            ..LeaseSettings::default()
        },
        domain: config.dns.cluster_domain.to_string(),
        // Workloads cannot ask those over TLS, and the agent asks them for them only with `intercept: auto`.
        dns_servers: (config.dns.servers.iter())
            .filter(|server| server.tls.is_none())
            .map(|server| server.address)
            .collect(),
        dns_intercept: config.dns.intercept == Intercept::Auto,
        internal: config.internal.clone(),
        unlisted_address: match config.unlisted_address {
            UnlistedAddress::Refuse => claims::UnlistedAddress::Refuse,
            UnlistedAddress::ByName => claims::UnlistedAddress::ByName,
        },
        allow_any: config.outbound_traffic_policy == TrafficPolicy::AllowAny,
        audit: config.mode == Mode::Audit,
        deny_errno: config.deny_errno.number(),
        proxy_port: config.proxy_port,
        root_namespace: config.root_namespace().to_owned(),
        keep_removed: config.on_removal == OnRemoval::Keep,
        ..Settings::default()
    }
}

/// The part of the config by which queries of workloads are judged. `internal` are the networks that every workload may
/// reach.
pub(crate) fn queries(config: &Config, internal: &[IpNet]) -> QuerySettings {
    QuerySettings {
        cluster_domain: (config.kubernetes.as_ref())
            .map(|_| Arc::clone(&config.dns.cluster_domain)),
        internal: internal.to_vec(),
        denied: match config.dns.denied {
            DeniedAnswer::Refused => DeniedCode::Refused,
            DeniedAnswer::Nxdomain => DeniedCode::NoSuchName,
        },
        types: config.dns.types.clone(),
        search: config.dns.search.clone(),
        below: config.dns.below,
        ..QuerySettings::default()
    }
}
