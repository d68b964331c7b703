//! The workloads below the enforced roots: their cgroups, their identities in the rules, and the policy of
//! each cgroup in the kernel. `namespaces` follows their processes.
//!
//! Decides nothing about a destination: the pure crate decides what a workload sees.

pub mod cgroups;
mod depth;
mod identities;
mod member;
mod missed;
pub mod names;
mod naming;
mod owners;
mod pod;
mod pods;
mod room;
mod sharers;
mod watches;

pub use depth::TooDeep;
pub use egress_core::registry::scope::Workload;
pub use identities::{Identities, PodNames};
pub use member::{Counts, Placed};
pub use missed::Missed;
pub use owners::Owners;
pub use pod::{Pod, PodNews};
pub use pods::Pods;
pub use sharers::Sharers;

use crate::cgroup2;
use crate::config::{Config, Mode, WorkloadEntry};
use crate::kernel::{Tables, canary};
use crate::namespaces::Namespaces;
use cgroups::{Cgroup, Cgroups, Change};
use egress_ebpf::ids::{CgroupId, PolicyId};
use member::Member;
use naming::{Naming, pod_of};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two full scans, which find what the kernel did not report.
const SCAN: Duration = Duration::from_secs(10);
/// The same if the kernel does not report everything.
const SCAN_BLIND: Duration = Duration::from_secs(1);
/// The shortest time between two scans that a workload can cause.
const SCAN_AT_MOST: Duration = Duration::from_millis(100);

/// A change that the state machine must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This cgroup is a workload.
    Workload(CgroupId, Workload),
    /// This cgroup is gone, or no longer a workload.
    Gone(CgroupId),
}

/// See the module.
pub struct Workloads {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    roots: Vec<PathBuf>,
    naming: Naming,
    cgroups: Cgroups,
    members: BTreeMap<CgroupId, Member>,
    namespaces: Namespaces,
    scanned: Option<Instant>,
    scan_due: Instant,
    /// The last turn took changes, so the next one is for the namespaces that are due.
    took: bool,
    owners: Owners,
    sharers: Sharers,
    identities: Identities,
}

impl Workloads {
    /// Follows the cgroups below `roots` and writes their identities to `identities`. Knows none until
    /// the first [`Self::next`]. `pods` are those of the previous agent.
    pub fn new(
        config: &Config,
        roots: &[PathBuf],
        owners: Owners,
        identities: Identities,
        pods: Vec<Pod>,
    ) -> anyhow::Result<Self> {
        let entries = config.workloads.clone();
        Ok(Self {
            mount: cgroup2::mount_point()?,
            roots: roots.to_vec(),
            naming: Naming::new(entries, pods, identities.clone()),
            cgroups: Cgroups::new(roots)?,
            members: BTreeMap::new(),
            namespaces: Namespaces::new(config.enter_namespaces)?,
            scanned: None,
            scan_due: Instant::now(),
            took: false,
            owners,
            sharers: Sharers::default(),
            identities,
        })
    }

    /// The namespaces of the cgroups' processes, and the agent's services there.
    pub fn namespaces(&mut self) -> &mut Namespaces {
        &mut self.namespaces
    }

    /// How many namespaces the agent serves in.
    pub fn served_namespaces(&self) -> usize {
        self.namespaces.served()
    }

    /// The listening sockets of every namespace.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.namespaces.listeners()
    }

    /// Waits for the next changes. Returns those that the state machine must know; the others wait for
    /// [`Namespaces::settle`]. The first call returns at once with all existing workloads. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Told>> {
        let due = self
            .namespaces
            .next()
            .map_or(self.scan_due, |at| at.min(self.scan_due));
        let changes = if self.took && due <= Instant::now() {
            Vec::new()
        } else {
            tokio::select! {
                // Cgroups that wait for their policy come before those that are only looked at again.
                biased;
                changes = self.cgroups.changed() => changes?,
                () = tokio::time::sleep_until(due.into()) => Vec::new(),
            }
        };
        self.took = !changes.is_empty();
        let now = Instant::now();
        let mut told = Vec::new();
        self.take(now, changes, &mut told);
        if self.scan_due <= now {
            let changes = self.cgroups.scan();
            self.take(now, changes, &mut told);
            self.scanned = Some(now);
            self.scan_due = now
                + if self.cgroups.blind() {
                    SCAN_BLIND
                } else {
                    SCAN
                };
        }
        if !self.took {
            for id in self.namespaces.due(now) {
                self.look(now, id);
            }
        }
        Ok(told)
    }

    fn take(&mut self, now: Instant, changes: Vec<Change>, told: &mut Vec<Told>) {
        for change in changes {
            match change {
                Change::Appeared(cgroup) => told.extend(self.appeared(now, cgroup)),
                Change::Vanished(cgroup) => {
                    let gone = self.members.remove(&cgroup.id);
                    if let Some(uid) = gone.as_ref().and_then(|member| member.pod.as_ref()) {
                        self.naming.gone(uid);
                    }
                    self.sharers.remove(cgroup.id);
                    self.namespaces.forget(cgroup.id);
                    let gone = gone.filter(|m| m.workload.is_some());
                    let known = gone.is_some();
                    if let Some(member) = gone {
                        self.identities.set(&member.path, None);
                    }
                    told.extend(known.then_some(Told::Gone(cgroup.id)));
                }
                Change::Populated(id) => {
                    if self.members.contains_key(&id) {
                        self.namespaces.follow(now, id);
                    }
                }
            }
        }
    }

    fn appeared(&mut self, now: Instant, cgroup: Arc<Cgroup>) -> Option<Told> {
        let below = cgroup.folder.strip_prefix(&self.roots[cgroup.root]);
        let below = below.map_or_else(|_| String::new(), |b| b.to_string_lossy().into_owned());
        let id = cgroup.id;
        let path = cgroup2::path_in(&self.mount, &cgroup.folder);
        let pod = pod_of(&below);
        if let Some(uid) = &pod {
            self.naming.found(uid, id, &path);
        }
        let workload = self.named(&cgroup, &below, pod.as_deref());
        if sharers::sharer(&below) == Path::new(&below) {
            self.sharers.add(id);
        }
        self.namespaces.follow(now, id);
        if workload.is_some() {
            self.identities.set(&path, workload.as_ref());
        }
        let member = Member {
            cgroup,
            path,
            below,
            pod,
            workload: workload.clone(),
        };
        self.members.insert(id, member);
        workload.map(|workload| Told::Workload(id, workload))
    }

    fn named(&self, cgroup: &Cgroup, below: &str, pod: Option<&str>) -> Option<Workload> {
        // A canary must be judged by its root's policy, so its cgroup is no workload.
        let proof = cgroup.folder == canary::cage(&self.roots[cgroup.root]);
        self.naming.named(below, pod).filter(|_| !proof)
    }

    /// Names a cgroup again. Returns a change that the state machine must know.
    fn name_again(&mut self, id: CgroupId) -> Option<Told> {
        let member = self.members.get(&id)?;
        let workload = self.named(&member.cgroup, &member.below, member.pod.as_deref());
        let member = self.members.get_mut(&id)?;
        if workload == member.workload {
            return None;
        }
        self.identities.set(&member.path, workload.as_ref());
        member.workload.clone_from(&workload);
        Some(match workload {
            Some(workload) => Told::Workload(id, workload),
            None => Told::Gone(id),
        })
    }

    /// Takes news of the node's pods. Returns the changes that the state machine must know.
    pub fn take_pods(&mut self, news: Vec<PodNews>) -> Vec<Told> {
        let cgroups = self.naming.take(news);
        let told = cgroups.into_iter().filter_map(|id| self.name_again(id));
        told.collect()
    }

    /// Whether [`Self::pods`] changed since the last call.
    pub fn pods_changed(&mut self) -> bool {
        self.naming.pods_changed()
    }

    /// The pods that the next agent must know.
    pub const fn pods(&self) -> &Pods {
        self.naming.pods()
    }

    /// Replaces the entries. Returns the changes that the state machine must know.
    pub fn rename(&mut self, entries: Vec<WorkloadEntry>) -> Vec<Told> {
        self.naming.set_entries(entries);
        let ids: Vec<CgroupId> = self.members.keys().copied().collect();
        ids.into_iter()
            .filter_map(|id| self.name_again(id))
            .collect()
    }

    /// The cgroup ids of the enforced roots; 0 for a missing one, since no cgroup has id 0.
    pub fn roots(&self) -> impl Iterator<Item = CgroupId> {
        let root = |folder| {
            self.cgroups
                .known(folder)
                .map_or(CgroupId(0), |cgroup| cgroup.id)
        };
        self.roots.iter().map(move |folder| root(folder))
    }

    /// The shares of the proxy, kept up to date.
    pub fn sharers(&self) -> Sharers {
        self.sharers.clone()
    }

    /// Scans everything now: an enforced root appeared.
    pub fn look_again(&mut self) {
        self.scan_due = Instant::now();
    }

    /// Finds the namespaces of a cgroup's processes.
    fn look(&mut self, now: Instant, id: CgroupId) {
        let Some(member) = self.members.get(&id) else {
            return;
        };
        let (roots, cgroups, members) = (&self.roots, &self.cgroups, &self.members);
        let workload = || room::one_workload(roots, cgroups, members, member);
        let folder = &member.cgroup.folder;
        let has_process = self.namespaces.look(id, folder, &member.below, workload);
        // The watch was set before, so a process that starts after this is reported.
        if !has_process && cgroups.reports(folder) && cgroup2::populated(folder) == Some(false) {
            self.namespaces.rest(now, id);
        }
    }

    /// A flow of this cgroup was denied because its namespace has no proxy: checks the cgroup soon, and
    /// scans for it if it is not known.
    pub fn missed(&mut self, cgroup: CgroupId) {
        if self.members.contains_key(&cgroup) {
            self.namespaces.hurry(Instant::now(), cgroup);
        } else if let Some(scanned) = self.scanned {
            self.scan_due = self.scan_due.min(scanned + SCAN_AT_MOST);
        }
    }

    /// Writes the policy of each workload's cgroup to the kernel. Returns the former policies: verdicts
    /// that sockets stored under these must be judged again.
    pub fn place(
        &mut self,
        tables: &mut Tables,
        policy_of: impl Fn(CgroupId) -> Option<PolicyId>,
    ) -> anyhow::Result<Vec<PolicyId>> {
        let members = self.members.iter().filter(|(_, m)| m.workload.is_some());
        let wanted = members
            .filter_map(|(id, _)| Some((*id, policy_of(*id)?)))
            .collect();
        self.owners.become_these(tables, &wanted)
    }

    /// The cgroups that are too deep for the kernel to judge, for `status`.
    pub fn too_deep(&self) -> TooDeep {
        self.cgroups.deep().status()
    }

    /// The cgroups that are workloads, or have network namespaces of their own.
    fn shown(&self) -> impl Iterator<Item = &Member> {
        let in_others = |m: &Member| self.namespaces.counted(m.cgroup.id).all > 0;
        let members = self.members.values();
        members.filter(move |m| m.workload.is_some() || in_others(m))
    }

    /// Their number.
    pub fn counted(&self) -> Counts {
        let mut counts = Counts::default();
        for member in self.shown() {
            match member.workload {
                Some(_) => counts.known += 1,
                None => counts.unknown += 1,
            }
        }
        counts
    }

    /// The same by path.
    pub fn placed(&self) -> Vec<Placed> {
        let members = self.shown();
        let mut all: Vec<Placed> = members.map(|member| self.place_of(member)).collect();
        all.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        all
    }

    fn place_of(&self, member: &Member) -> Placed {
        let id = member.cgroup.id;
        let audits = member.workload.as_ref().and_then(|w| w.audit);
        Placed {
            cgroup: member.path.clone(),
            id,
            identity: member.workload.as_ref().map(identities::spelling),
            name: names::read(&member.below),
            pod: self.identities.pod(&member.path),
            mode: audits.map(|audits| if audits { Mode::Audit } else { Mode::Enforce }),
            policy: self.owners.of(id),
            namespaces: self.namespaces.counted(id),
        }
    }
}
