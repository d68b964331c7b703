//! Finds running connections whose destination the tables no longer list, on both sides of a
//! redirect, and ends them.
//!
//! It judges with the same function as the programs, over the same tables in the agent's memory: opening a
//! table by its id (`BPF_MAP_GET_FD_BY_ID`) needs `CAP_SYS_ADMIN`, which the agent may not have. Flows
//! under an auditing policy are not ended.

use super::diag::{Diag, SocketId};
use super::origins::AncestorsOf;
use super::outer::View;
use super::pins::Pins;
use super::policies::Policies;
use anyhow::Context as _;
use aya::Pod;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{DEFAULT_POLICY, FlowOrigin, Mode, Owner, SocketState, policy_flag, proto};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, decide};
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::Verdict;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// Checks live connections and ends those that no rule lists.
pub struct Live {
    policies: Policies,
    owners: HashMap<MapData, CgroupId, u64>,
    ancestors: AncestorsOf,
    tables: View,
    sockets: MapData,
    origins: MapData,
    /// Whether this agent may still end flows. Held from a flow's judgement to its end.
    may_end: Mutex<bool>,
}

/// A connection that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its destination, as dialled.
    pub destination: SocketAddr,
    /// Its owner.
    pub cgroup: CgroupId,
    /// Thread group id of the task that made it.
    pub pid: u32,
    /// Whether it ran through the proxy.
    pub proxied: bool,
}

impl Live {
    /// Opens the pinned maps. `tables` has the tables that this agent wrote.
    pub fn open(pins: &Pins, tables: View) -> anyhow::Result<Self> {
        Ok(Self {
            policies: Policies::open(pins)?,
            ancestors: AncestorsOf::open(pins)?,
            owners: pins.map("OWNERS")?.try_into()?,
            tables,
            sockets: pins.map_data("SOCKETS")?,
            origins: pins.map_data("ORIGINS")?,
            may_end: Mutex::new(true),
        })
    }

    /// From here on no flow is ended. After the lock's release the kernel's policies belong to another agent, whose
    /// tables this one does not have.
    pub fn end_no_more(&self) {
        *self.may_end.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Ends every connection that the present tables do not list: connections of workloads, and those that
    /// the proxy accepted from them. `diag` is a socket of `sock_diag(7)`, and the connections are those in
    /// its network namespace.
    pub fn end_unlisted(&self, diag: OwnedFd) -> anyhow::Result<Vec<Ended>> {
        let diag = Diag::over(diag);
        let listing = "listing connections by sock_diag";
        let mut ended = Vec::new();
        for (socket, value) in diag
            .connections(self.sockets.fd().as_fd())
            .context(listing)?
        {
            let state: Option<SocketState> = read(&value);
            let judge = || state.and_then(|state| self.unlisted(&state));
            ended.extend(self.end_if(&diag, &socket, judge)?);
        }
        // The proxy's end of a redirected flow, because the reset from the client's end may not reach it.
        for (socket, value) in diag
            .connections(self.origins.fd().as_fd())
            .context(listing)?
        {
            let origin: Option<FlowOrigin> = read(&value);
            let judge = || origin.filter(|origin| self.unlisted_origin(origin));
            self.end_if(&diag, &socket, judge)?;
        }
        Ok(ended)
    }

    /// Ends a connection if `judge` returns a value. Returns that value if the connection was still there.
    fn end_if<T>(
        &self,
        diag: &Diag,
        socket: &SocketId,
        judge: impl FnOnce() -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let may_end = self.may_end.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(judged) = may_end.then(judge).flatten() else {
            return Ok(None);
        };
        let there = diag.destroy(socket);
        Ok(there
            .context("ending a connection by sock_diag")?
            .then_some(judged))
    }

    /// The addresses that workloads dialled for the connections of a network namespace, as far as the gate allowed them.
    pub fn destinations(&self, diag: OwnedFd) -> anyhow::Result<BTreeSet<IpAddr>> {
        let diag = Diag::over(diag);
        let connections = diag
            .connections(self.sockets.fd().as_fd())
            .context("listing connections by sock_diag")?;
        let states = connections
            .iter()
            .filter_map(|(_, value)| read::<SocketState>(value));
        let dialled = states.filter(|state| {
            let mode = Mode(state.mode);
            state.proto == proto::TCP && mode.action() != 0 && !mode.is_inbound(state.answered)
        });
        Ok(dialled.map(|state| state.dialled.into()).collect())
    }

    fn unlisted(&self, state: &SocketState) -> Option<Ended> {
        let mode = Mode(state.mode);
        if state.proto != proto::TCP || mode.action() == 0 || mode.is_inbound(state.answered) {
            return None;
        }
        let id = self.owner_policy(state.cgroup)?;
        let judged = SocketState::pair(id, self.policies.get(id).generation);
        let policy = || self.owner_policy(state.cgroup).unwrap_or(id);
        if state.judged == judged || self.lists(policy, state.dialled, state.port) {
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
        let policy = || self.owner_policy(origin.cgroup).unwrap_or(origin.policy);
        !self.lists(policy, origin.addr, origin.port)
    }

    /// The policy of the deepest owner that has one, as `policy_of` of the programs finds it. `None` if it
    /// is not known; then the egress hook judges the socket's packets, or denies them.
    fn owner_policy(&self, cgroup: CgroupId) -> Option<PolicyId> {
        if cgroup == CgroupId(0) {
            return Some(DEFAULT_POLICY);
        }
        let above = self.ancestors.deepest_first(cgroup);
        let own = |id: &CgroupId| Some(Owner::policy(*id, self.owners.get(id, 0).ok()?));
        (!above.is_empty()).then(|| above.iter().find_map(own).unwrap_or(DEFAULT_POLICY))
    }

    /// Whether the policy that `id` returns lists a destination. The tables may change meanwhile, and those of a former
    /// policy are emptied, so a flow is unlisted only if the policy is the same before and after the lookup.
    fn lists(&self, id: impl Fn() -> PolicyId, addr: Addr, port: u16) -> bool {
        // The connect has decided between proxy and direct. Any port here means that a proxy exists;
        // port 0 cannot be the flow's own destination.
        let to = Destination {
            addr,
            port,
            proto: proto::TCP,
        };
        let mut policy = self.policies.get(id());
        loop {
            let listed = policy.flags & policy_flag::AUDIT != 0
                || !matches!(
                    decide(&self.tables, &policy, &to, || Some(0)),
                    Verdict::Deny(_)
                );
            let now = self.policies.get(id());
            if listed || now == policy {
                return listed;
            }
            policy = now;
        }
    }
}

/// A value of a map; `None` if it has another length.
fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
    // SAFETY: the bytes are as long as the type, for which any bytes are a value.
    (bytes.len() == size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}
