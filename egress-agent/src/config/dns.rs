//! `dns` of the config: the agent's own questions, and the queries of workloads.

use super::choices::{DeniedAnswer, Intercept};
use super::values::{DnsDomain, DnsServer, DnsType, Span, list};
use crate::failure::Failure;
use clap::Args;
use egress_core::dns::name_server::NameServer;
use egress_core::dns::settings::Below;
use hickory_resolver::proto::rr::RecordType;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The domain of nearly every cluster.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// `dns` of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsSettings {
    /// DNS server to ask, instead of those of /etc/resolv.conf: IP or IP:PORT, or tls://IP#NAME or tls://IP:PORT#NAME to ask
    /// it over TLS, with the name in its certificate
    #[arg(id = "dns_servers", long = "dns-server", value_name = "SERVER")]
    pub servers: Vec<DnsServer>,
    /// PEM file of the authorities that issue the certificates of DNS servers over TLS [default: the system's]
    #[arg(
        id = "dns_ca_certificates",
        long = "dns-ca-certificates",
        value_name = "PATH"
    )]
    pub ca_certificates: Option<PathBuf>,
    /// Minimum time to keep a DNS answer, whatever its TTL [default: 30s]
    #[arg(id = "dns_min_ttl", long = "dns-min-ttl", value_name = "DURATION")]
    #[serde(rename = "minTTL")]
    pub min_ttl: Option<Span>,
    /// How long an address stays allowed after its TTL has ended [default: 10m]
    #[arg(id = "dns_grace", long = "dns-grace", value_name = "DURATION")]
    pub grace: Option<Span>,
    /// Whether the agent answers the workloads' queries to DNS servers, for names that the rules list [default: off]
    #[arg(id = "dns_intercept", long = "dns-intercept", value_name = "MODE")]
    pub intercept: Option<Intercept>,
    /// The answer to a query for a name that no rule lists, with `intercept: auto` [default: refused]
    #[arg(id = "dns_denied", long = "dns-denied", value_name = "ANSWER")]
    pub denied: Option<DeniedAnswer>,
    /// Type that listed names may be asked for beside A, AAAA, CNAME, HTTPS and SVCB, with `intercept: auto`
    #[arg(id = "dns_types", long = "dns-type", value_name = "TYPE")]
    pub types: Vec<DnsType>,
    /// Domain of the workloads' search lists, beside the cluster's: names that it completes are no denials, with
    /// `intercept: auto`
    #[arg(id = "dns_search", long = "dns-search", value_name = "DOMAIN")]
    pub search: Vec<DnsDomain>,
    /// The cluster's domain, which completes short names in rules, and whose names the cluster's name server answers
    /// [default: cluster.local]
    #[arg(
        id = "dns_cluster_domain",
        long = "dns-cluster-domain",
        value_name = "DOMAIN"
    )]
    pub cluster_domain: Option<DnsDomain>,
    /// Maximum bytes of a name before the domain of a wildcard, with `intercept: auto` [default: 128]
    #[arg(
        id = "dns_below_length",
        long = "dns-below-length",
        value_name = "BYTES"
    )]
    pub below_length: Option<u8>,
    /// Maximum labels of a name before the domain of a wildcard, with `intercept: auto` [default: 6]
    #[arg(
        id = "dns_below_labels",
        long = "dns-below-labels",
        value_name = "COUNT"
    )]
    pub below_labels: Option<u8>,
    /// New names that a workload may ask for at once below one wildcard, with `intercept: auto` [default: 256]
    #[arg(id = "dns_below_burst", long = "dns-below-burst", value_name = "COUNT")]
    pub below_burst: Option<u32>,
    /// Further new names that it may ask for each minute, with `intercept: auto` [default: 60]
    #[arg(
        id = "dns_below_per_minute",
        long = "dns-below-per-minute",
        value_name = "COUNT"
    )]
    pub below_per_minute: Option<u32>,
}

impl DnsSettings {
    /// These settings, and those of `below` for what is not set here.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            servers: list(self.servers, below.servers),
            ca_certificates: self.ca_certificates.or(below.ca_certificates),
            min_ttl: self.min_ttl.or(below.min_ttl),
            grace: self.grace.or(below.grace),
            intercept: self.intercept.or(below.intercept),
            denied: self.denied.or(below.denied),
            types: list(self.types, below.types),
            search: list(self.search, below.search),
            cluster_domain: self.cluster_domain.or(below.cluster_domain),
            below_length: self.below_length.or(below.below_length),
            below_labels: self.below_labels.or(below.below_labels),
            below_burst: self.below_burst.or(below.below_burst),
            below_per_minute: self.below_per_minute.or(below.below_per_minute),
        }
    }
}

/// `dns` of [`super::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Servers in the order in which they are asked, at least one.
    pub servers: Vec<NameServer>,
    /// PEM file of the authorities of those over TLS; `None`: the system's.
    pub ca_certificates: Option<PathBuf>,
    /// Shortest time that an answer is kept, whatever its TTL.
    pub min_ttl: Duration,
    /// How long an address stays allowed after its TTL has ended.
    pub grace: Duration,
    /// Who answers the workloads' queries.
    pub intercept: Intercept,
    /// The answer to a denied query.
    pub denied: DeniedAnswer,
    /// Further types that listed names may be asked for.
    pub types: Vec<RecordType>,
    /// Further domains of search lists.
    pub search: Vec<Arc<str>>,
    /// The cluster's domain.
    pub cluster_domain: Arc<str>,
    /// Bounds of names below wildcards.
    pub below: Below,
}

impl Dns {
    /// With defaults for what is not set.
    pub(super) fn of(
        s: &DnsSettings,
        servers: Vec<NameServer>,
        system_servers: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Result<Self, Failure> {
        let below = Below::default();
        if let Some(file) = s.ca_certificates.as_ref().filter(|f| !f.is_absolute()) {
            let file = file.display();
            return Err(Failure::usage(format_args!(
                "dns.caCertificates: `{file}`: want an absolute path"
            )));
        }
        Ok(Self {
            servers: if servers.is_empty() {
                system_servers().into_iter().map(Into::into).collect()
            } else {
                servers
            },
            ca_certificates: s.ca_certificates.clone(),
            min_ttl: s.min_ttl.map_or(Duration::from_secs(30), |d| d.0),
            // Clients hold addresses beyond the TTL: connection pools, the JVM's cache.
            grace: s.grace.map_or(Duration::from_mins(10), |d| d.0),
            intercept: s.intercept.unwrap_or_default(),
            denied: s.denied.unwrap_or_default(),
            types: s.types.iter().map(|kind| kind.0).collect(),
            search: s
                .search
                .iter()
                .map(|domain| Arc::clone(&domain.0))
                .collect(),
            cluster_domain: s
                .cluster_domain
                .as_ref()
                .map_or_else(|| CLUSTER_DOMAIN.into(), |domain| Arc::clone(&domain.0)),
            below: Below {
                length: s.below_length.map_or(below.length, usize::from),
                labels: s.below_labels.map_or(below.labels, usize::from),
                burst: s.below_burst.unwrap_or(below.burst),
                per_minute: s.below_per_minute.unwrap_or(below.per_minute),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Dns, DnsSettings};

    #[test]
    fn the_file_of_authorities_has_an_absolute_path() {
        let of = |file: &str| {
            let settings = DnsSettings {
                ca_certificates: Some(file.into()),
                ..DnsSettings::default()
            };
            Dns::of(&settings, Vec::new(), Vec::new)
        };
        assert!(of("/etc/ssl/dns.pem").unwrap().ca_certificates.is_some());
        let failure = of("ca.pem").unwrap_err();
        let want = "dns.caCertificates: `ca.pem`: want an absolute path";
        assert_eq!(
            (failure.code, &*failure.message),
            (crate::failure::USAGE, want)
        );
    }
}
