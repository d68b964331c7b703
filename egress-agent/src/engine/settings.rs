//! The part of the config that the state machine needs.

use crate::config::{Config, Mode, OnRemoval, TrafficPolicy, UnlistedAddress};
use egress_core::policy::claims;
use egress_core::policy::leases::LeaseSettings;
use egress_core::policy::state::Settings;

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
        dns_servers: config.dns.servers.clone(),
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
