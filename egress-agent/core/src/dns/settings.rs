//! Settings of the queries of workloads. The defaults here are for tests; the agent's own are in its configuration.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// The types that every listed name may be asked for. PTR has rules of its own.
pub const TYPES: [RecordType; 5] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::HTTPS,
    RecordType::SVCB,
];

/// The response code of a denied query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedCode {
    /// REFUSED: resolvers ask the next name server and report a failure. Nothing is cached.
    #[default]
    Refused,
    /// NXDOMAIN: the name does not exist. Resolvers go on with the search list at once.
    NoSuchName,
}

impl From<DeniedCode> for ResponseCode {
    fn from(code: DeniedCode) -> Self {
        match code {
            DeniedCode::Refused => Self::Refused,
            DeniedCode::NoSuchName => Self::NXDomain,
        }
    }
}

/// Bounds of what a workload can write into names below a listed wildcard: whoever serves that domain reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// The most bytes of a name before the wildcard's domain.
    pub length: usize,
    /// The most labels of a name before the wildcard's domain.
    pub labels: usize,
    /// How many names that were not asked for lately a workload may ask for at once below one wildcard.
    pub burst: u32,
    /// How many more such names it may ask for each minute.
    pub per_minute: u32,
}

impl Default for Below {
    fn default() -> Self {
        Self {
            length: 128,
            labels: 6,
            burst: 256,
            per_minute: 60,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuerySettings {
    /// The cluster's domain, in canonical form; `None` outside a cluster, where no name is the cluster's own.
    pub cluster_domain: Option<Arc<str>>,
    /// Further domains of search lists, in canonical form.
    pub search: Vec<Arc<str>>,
    /// Networks whose reverse names the cluster's name server answers.
    pub internal: Vec<IpNet>,
    /// Further types that listed names may be asked for.
    pub types: Vec<RecordType>,
    /// The response code of a denied query.
    pub denied: DeniedCode,
    /// Bounds of names below wildcards.
    pub below: Below,
    /// Longest TTL of a record that a client gets. A lease lasts at least as long.
    pub max_ttl: Duration,
}

impl Default for QuerySettings {
    fn default() -> Self {
        Self {
            cluster_domain: None,
            search: Vec::new(),
            internal: Vec::new(),
            types: Vec::new(),
            denied: DeniedCode::default(),
            below: Below::default(),
            max_ttl: Duration::from_hours(1),
        }
    }
}
