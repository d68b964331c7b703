//! Settings that do not come from resources, and the entries that they add to every policy.

use crate::policy::claims::UnlistedAddress;
use crate::policy::endpoints::everywhere;
use crate::policy::leases::LeaseSettings;
use crate::policy::tables::{Action, Claims, Target, Transport, claim};
use crate::registry::scope::{Scope, Workload};
use egress_ebpf::abi::{CLOSED_POLICY, PROOF_POLICY};
use egress_ebpf::ids::PolicyId;
use ipnet::IpNet;
use std::net::SocketAddr;

/// Settings that do not come from resources.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, each a field of its own in the config"
)]
pub struct Settings {
    /// The lifetime of addresses.
    pub leases: LeaseSettings,
    /// Name servers that workloads may ask, by UDP and TCP.
    pub dns_servers: Vec<SocketAddr>,
    /// Queries of workloads to DNS servers go to the agent's own.
    pub dns_intercept: bool,
    /// Ranges that every workload may reach on any port by TCP and UDP.
    pub internal: Vec<IpNet>,
    /// What happens to an address that does not belong to the host.
    pub unlisted_address: UnlistedAddress,
    /// `outboundTrafficPolicy: ALLOW_ANY`.
    pub allow_any: bool,
    /// Domain that completes short names.
    pub domain: String,
    /// Namespace whose Sidecar is for every namespace.
    pub root_namespace: String,
    /// The workload that stands for unknown ones.
    pub unknown: Workload,
    /// Nothing is denied to workloads without a setting of their own; flows that would be denied are recorded.
    pub audit: bool,
    /// Errno (positive) of a denied call; 0 is EPERM.
    pub deny_errno: u32,
    /// First policy id that may not be used, at most [`CLOSED_POLICY`].
    pub policies_end: PolicyId,
    /// Port of the proxy on both loopback addresses, which no workload may dial.
    pub proxy_port: u16,
    /// Running flows outlive the rule that listed them.
    pub keep_removed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leases: LeaseSettings::default(),
            dns_servers: Vec::new(),
            dns_intercept: false,
            internal: Vec::new(),
            unlisted_address: UnlistedAddress::default(),
            allow_any: false,
            domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            unknown: Workload::default(),
            audit: false,
            deny_errno: 0,
            policies_end: PROOF_POLICY.min(CLOSED_POLICY),
            proxy_port: 15001,
            keep_removed: false,
        }
    }
}

impl Settings {
    /// Policy ids that may be used, from this one on.
    pub(super) fn ids_from(&self, first: PolicyId) -> impl Iterator<Item = PolicyId> + use<> {
        (first.0..self.policies_end.0).map(PolicyId)
    }

    /// Whether flows of this scope that no rule lists are let out.
    pub(super) fn allows_any(&self, scope: &Scope) -> bool {
        scope.allow_any().unwrap_or(self.allow_any)
    }

    /// Destinations that the policy of a scope allows for any protocol.
    pub(super) fn passthrough(&self, scope: &Scope) -> Vec<IpNet> {
        if self.allows_any(scope) && scope.egress_proxy().is_none() {
            return everywhere().to_vec();
        }
        self.internal.iter().map(IpNet::trunc).collect()
    }

    /// The claims of the policy of a scope, independent of its services.
    pub(super) fn claims(&self, scope: &Scope) -> Claims {
        let mut claims = Claims::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            for server in &self.dns_servers {
                let target = Target::address(server.ip(), server.port(), transport);
                claim(&mut claims, target, Action::Allow);
            }
            for net in &self.internal {
                for target in Target::network(*net, 0, transport) {
                    claim(&mut claims, target, Action::Allow);
                }
            }
        }
        if scope.egress_proxy().is_some() {
            let all = everywhere().into_iter();
            for target in all.flat_map(|net| Target::network(net, 0, Transport::Tcp)) {
                claim(&mut claims, target, Action::Proxy);
            }
        }
        claims
    }
}
