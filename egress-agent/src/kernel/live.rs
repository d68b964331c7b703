//! Finds running connections whose destination the tables no longer list, on both sides of a
//! redirect, and ends them.
//!
//! Judges by the same function and the same tables as the programs, in the agent's memory: to open
//! a table by its id (`BPF_MAP_GET_FD_BY_ID`) takes `CAP_SYS_ADMIN`, which the agent may not have. A policy
//! that audits ends nothing.

use super::diag::{Diag, SocketId};
use super::origins::AncestorsOf;
use super::outer::View;
use super::pins::Pins;
use super::policies::Policies;
use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use egress_ebpf::abi::{
    DEFAULT_POLICY, FlowOrigin, Mode, Owner, Policy, SocketState, policy_flag, proto,
};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, decide};
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::Verdict;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

/// Checks live connections and ends those that no rule lists.
pub struct Live {
    policies: Policies,
    owners: HashMap<MapData, CgroupId, u64>,
    ancestors: AncestorsOf,
    tables: View,
    sockets: MapData,
    origins: MapData,
}

/// A connection that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Where it was going, as dialled.
    pub destination: SocketAddr,
    /// Its owner.
    pub cgroup: CgroupId,
    /// Thread group id of the task that made it.
    pub pid: u32,
    /// Whether it ran through the proxy.
    pub proxied: bool,
}

impl Live {
    /// Opens the pinned maps again; `tables` are those that this agent wrote.
    pub fn open(pins: &Pins, tables: View) -> anyhow::Result<Self> {
        let open = |name: &str| {
            MapData::from_pin(pins.maps().join(name)).with_context(|| format!("opening map {name}"))
        };
        Ok(Self {
            policies: Policies::of(&open("POLICIES")?).context("mapping POLICIES")?,
            ancestors: AncestorsOf::open(pins)?,
            owners: Map::HashMap(open("OWNERS")?).try_into()?,
            tables,
            sockets: open("SOCKETS")?,
            origins: open("ORIGINS")?,
        })
    }

    /// Ends every connection that the present tables do not list: those of workloads, and those
    /// that the proxy accepted for them. `diag` is a socket of `sock_diag(7)`; the connections are
    /// those of its network namespace.
    pub fn end_unlisted(&self, diag: OwnedFd) -> anyhow::Result<Vec<Ended>> {
        let diag = Diag::over(diag);
        let listing = "listing connections by sock_diag";
        let mut ended = Vec::new();
        for (socket, value) in diag
            .connections(self.sockets.fd().as_fd())
            .context(listing)?
        {
            if let Some(end) = read(&value).and_then(|state| self.unlisted(&state))
                && destroy(&diag, &socket)?
            {
                ended.push(end);
            }
        }
        // The proxy's end of a redirected flow: the reset of the client's end may not reach it.
        for (socket, value) in diag
            .connections(self.origins.fd().as_fd())
            .context(listing)?
        {
            if read(&value).is_some_and(|origin| self.unlisted_origin(&origin)) {
                destroy(&diag, &socket)?;
            }
        }
        Ok(ended)
    }

    fn unlisted(&self, state: &SocketState) -> Option<Ended> {
        let mode = Mode(state.mode);
        if state.proto != proto::TCP || mode.action() == 0 || mode.is_inbound(state.answered) {
            return None;
        }
        let id = self.owner_policy(state.cgroup)?;
        let policy = self.policies.get(id);
        let judged = state.judged == SocketState::pair(id, policy.generation);
        if judged || self.lists(&policy, state.dialled, state.port) {
            return None;
        }
        Some(Ended {
            destination: SocketAddr::new(IpAddr::from(state.dialled), state.port),
            cgroup: state.cgroup,
            pid: state.pid,
            proxied: mode.is_redirected(),
        })
    }

    fn unlisted_origin(&self, origin: &FlowOrigin) -> bool {
        let id = self.owner_policy(origin.cgroup).unwrap_or(origin.policy);
        !self.lists(&self.policies.get(id), origin.addr, origin.port)
    }

    /// The policy of the deepest owner that has one, as `policy_of` finds it in the programs.
    /// `None` where it cannot be determined: what the socket sends is denied, or judged by its
    /// packets.
    fn owner_policy(&self, cgroup: CgroupId) -> Option<PolicyId> {
        if cgroup == CgroupId(0) {
            return Some(DEFAULT_POLICY);
        }
        let above = self.ancestors.deepest_first(cgroup);
        let own = |id: &CgroupId| Some(Owner::policy(*id, self.owners.get(id, 0).ok()?));
        (!above.is_empty()).then(|| above.iter().find_map(own).unwrap_or(DEFAULT_POLICY))
    }

    fn lists(&self, policy: &Policy, addr: Addr, port: u16) -> bool {
        // The connect decided between proxy and direct: any port means "a proxy exists", and no
        // flow dials port 0.
        let to = Destination {
            addr,
            port,
            proto: proto::TCP,
        };
        policy.flags & policy_flag::AUDIT != 0
            || !matches!(
                decide(&self.tables, policy, &to, || Some(0)),
                Verdict::Deny(_)
            )
    }
}

fn destroy(diag: &Diag, socket: &SocketId) -> anyhow::Result<bool> {
    diag.destroy(socket)
        .context("ending a connection by sock_diag")
}

/// The value of a map; `None` where its length is another.
fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: as long as the type, for which any bytes are a value.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
