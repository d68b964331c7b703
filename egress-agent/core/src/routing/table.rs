//! The data of the snapshot, from the policy to the lists of a port. Plain values: a test writes one
//! down as a literal. `entries` has what the lists contain.

use super::by_address::{ByAddress, ByNetwork};
use super::by_name::ByName;
use super::entries::{Cluster, TlsRoute, VirtualHost};
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::{CgroupId, PolicyId};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything the proxy may do, by policy id.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Raised with every snapshot, for logs and `status`.
    pub generation: u64,
    /// Routes of each policy; a policy id that is not here may do nothing.
    pub policies: BTreeMap<PolicyId, Arc<PolicyRoutes>>,
    /// The policy of each cgroup that has one of its own. They are in the same snapshot as the routes, so that no flow
    /// is judged by owners and routes of different moments.
    pub owners: Arc<BTreeMap<CgroupId, PolicyId>>,
}

impl RouteTable {
    /// The present policy of a flow: that of the deepest of its owner's `cgroups` (deepest first) that has one, else
    /// the enforced root's default. A workload may get another policy, or be recognised, while its connections run.
    pub fn policy_of(&self, cgroups: &[CgroupId]) -> PolicyId {
        let own = cgroups.iter().find_map(|id| self.owners.get(id));
        own.copied().unwrap_or(DEFAULT_POLICY)
    }
}

/// What one policy's workloads may reach through the proxy, by dialled port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyRoutes {
    /// Routes of each dialled port.
    pub ports: BTreeMap<u16, Arc<PortRoutes>>,
    /// Destinations that may be reached on any port, whatever is spoken: the agent's `internal` ranges, and everything
    /// under `ALLOW_ANY`. They stay reachable on a port that is redirected because of its names.
    pub passthrough: Arc<[IpNet]>,
    /// Where flows go that nothing lists (`egressProxy` of a Sidecar). `None`: nowhere.
    pub unlisted: Option<Arc<Cluster>>,
    /// The policy audits: a denied flow still goes to its destination, and is recorded.
    pub audit: bool,
}

impl PolicyRoutes {
    /// Whether no destination is denied because nothing lists it: the policy is `ALLOW_ANY`.
    pub fn passes_everything(&self) -> bool {
        self.unlisted.is_some() || self.passthrough.iter().any(|net| net.prefix_len() == 0)
    }

    /// Shares the parts that are equal in another policy's routes.
    pub(crate) fn share(&mut self, other: &Self) {
        for (port, own) in &mut self.ports {
            let Some(of_other) = other.ports.get(port) else {
                continue;
            };
            if own == of_other {
                *own = Arc::clone(of_other);
            } else {
                Arc::make_mut(own).share(of_other);
            }
        }
    }
}

/// How the first bytes of a flow on a port are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortKind {
    /// Only HTTP is listed here: bytes that are not HTTP are closed.
    #[default]
    Http,
    /// Only TLS is listed here: bytes that are no `ClientHello` are closed.
    Tls,
    /// Both, or an unset protocol: look at the first bytes.
    Sniff,
}

/// The routes of one dialled port. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortRoutes {
    /// How to read the flow.
    pub kind: PortKind,
    /// HTTP. The most specific host wins; of one host listed twice, the first.
    pub hosts: ByName<VirtualHost>,
    /// TLS: `VirtualService` tls routes, then the services' own names. The most specific name
    /// wins whose route has the destination; of one name listed twice, the first.
    pub tls: ByName<TlsRoute>,
    /// Destinations whose bytes are relayed unread.
    pub tcp: ByNetwork,
    /// Hosts and server names that an address stands for.
    pub addresses: ByAddress,
}

impl PortRoutes {
    fn share(&mut self, other: &Self) {
        self.hosts.share(&other.hosts);
        self.tls.share(&other.tls);
        self.tcp.share(&other.tcp);
        if self.addresses == other.addresses {
            self.addresses = other.addresses.clone();
        }
    }
}
