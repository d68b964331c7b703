//! The workloads below the enforced roots: which there are, who each is to the rules, which policy
//! its cgroup is under in the kernel, and the proxy's listeners in its network namespace.
//!
//! Decides nothing about a destination: what a workload sees is the pure crate's to say.

pub mod cgroups;
mod depth;
pub mod names;
mod owners;
mod room;
mod sharers;

pub use depth::TooDeep;
pub use egress_core::registry::scope::Workload;
pub use owners::Owners;
pub use sharers::Sharers;

use crate::config::{Config, WorkloadEntry};
use crate::kernel::{Tables, canary};
use crate::namespaces::Spaces;
use crate::namespaces::processes::{self, NsInode};
use crate::namespaces::schedule::Schedule;
use crate::operate::status::WorkloadStatus;
use crate::sockets::NetnsId;
use cgroups::{Cgroup, Cgroups, Change};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often everything is looked at, whatever the kernel told.
const SCAN: Duration = Duration::from_secs(10);
/// How often where the kernel does not tell of everything.
const SCAN_BLIND: Duration = Duration::from_secs(1);
/// Network namespaces of one workload that are served: each costs descriptors of the agent.
const NAMESPACES_EACH: usize = 64;
/// Time between two scans at least.
const SCAN_AT_MOST: Duration = Duration::from_millis(100);

/// What the rules must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This cgroup is a workload.
    Workload(u64, Workload),
    /// It is gone.
    Gone(u64),
}

/// A cgroup and what is known of it.
struct Member {
    cgroup: Arc<Cgroup>,
    below: String,
    workload: Option<Workload>,
    namespaces: BTreeSet<NsInode>,
    /// It has more of them than are served.
    crowded: bool,
}

/// See the module.
pub struct Workloads {
    roots: Vec<PathBuf>,
    entries: Vec<WorkloadEntry>,
    cgroups: Cgroups,
    members: BTreeMap<u64, Member>,
    schedule: Schedule,
    /// Whether other network namespaces are looked for.
    enters: bool,
    scanned: Option<Instant>,
    scan_due: Instant,
    own: NsInode,
    owners: Owners,
    /// None until the proxy is there.
    spaces: Option<Spaces>,
    /// Namespaces without listeners, each with a process that was seen in it.
    wanted: BTreeMap<NsInode, u32>,
    /// A namespace lost its last cgroup, or may have.
    emptied: bool,
    sharers: Sharers,
}

impl Workloads {
    /// Follows the cgroups below `roots`. Knows none until the first [`Self::next`].
    pub fn new(config: &Config, roots: &[PathBuf], owners: Owners) -> anyhow::Result<Self> {
        Ok(Self {
            roots: roots.to_vec(),
            entries: config.workloads.clone(),
            cgroups: Cgroups::new(roots)?,
            members: BTreeMap::new(),
            schedule: Schedule::default(),
            enters: config.enter_namespaces,
            scanned: None,
            scan_due: Instant::now(),
            own: processes::own()?,
            owners,
            spaces: None,
            wanted: BTreeMap::new(),
            emptied: false,
            sharers: Sharers::default(),
        })
    }

    /// The proxy is there: from the next [`Self::settle`] on it serves the workloads' namespaces.
    pub fn serve_by(&mut self, spaces: Spaces) {
        self.spaces = Some(spaces);
    }

    /// Waits until there is something to do: what the rules must hear of is returned, the rest
    /// waits for [`Self::settle`]. The first call returns at once with all that is there.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Told>> {
        let due = self
            .schedule
            .next()
            .map_or(self.scan_due, |at| at.min(self.scan_due));
        let changes = if due <= Instant::now() {
            Vec::new()
        } else {
            tokio::select! {
                changes = self.cgroups.changed() => changes?,
                () = tokio::time::sleep_until(due.into()) => Vec::new(),
            }
        };
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
        for id in self.schedule.take(now) {
            self.look(id);
        }
        Ok(told)
    }

    fn take(&mut self, now: Instant, changes: Vec<Change>, told: &mut Vec<Told>) {
        for change in changes {
            match change {
                Change::Appeared(cgroup) => told.extend(self.appeared(now, cgroup)),
                Change::Vanished(cgroup) => {
                    let gone = self.members.remove(&cgroup.id);
                    self.sharers.remove(cgroup.id);
                    self.schedule.forget(cgroup.id);
                    self.emptied |= gone.as_ref().is_some_and(|m| !m.namespaces.is_empty());
                    let known = gone.is_some_and(|m| m.workload.is_some());
                    told.extend(known.then_some(Told::Gone(cgroup.id)));
                }
                Change::Populated(id) => {
                    if self.members.contains_key(&id) {
                        self.look_soon(now, id);
                    }
                }
            }
        }
    }

    fn appeared(&mut self, now: Instant, cgroup: Arc<Cgroup>) -> Option<Told> {
        let below = cgroup.folder.strip_prefix(&self.roots[cgroup.root]);
        let below = below.map_or_else(|_| String::new(), |b| b.to_string_lossy().into_owned());
        let workload = self.named(&cgroup, &below);
        let id = cgroup.id;
        if sharers::sharer(&below) == Path::new(&below) {
            self.sharers.add(id);
        }
        self.look_soon(now, id);
        let member = Member {
            cgroup,
            below,
            workload: workload.clone(),
            namespaces: BTreeSet::new(),
            crowded: false,
        };
        self.members.insert(id, member);
        workload.map(|workload| Told::Workload(id, workload))
    }

    /// Who a cgroup is, by the first entry that fits it.
    fn named(&self, cgroup: &Cgroup, below: &str) -> Option<Workload> {
        // What the gate is proven by is judged as its root is.
        let proof = cgroup.folder == canary::cage(&self.roots[cgroup.root]);
        let mut entries = self.entries.iter();
        let entry = entries.find(|entry| !proof && entry.cgroup.fits(below));
        entry.map(Workload::from)
    }

    /// Other entries hold from here on. Returns what the rules must hear of.
    pub fn rename(&mut self, entries: Vec<WorkloadEntry>) -> Vec<Told> {
        self.entries = entries;
        let mut told = Vec::new();
        for (id, mut member) in std::mem::take(&mut self.members) {
            let workload = self.named(&member.cgroup, &member.below);
            if workload != member.workload {
                told.push(match workload.clone() {
                    Some(workload) => Told::Workload(id, workload),
                    None => Told::Gone(id),
                });
                member.workload = workload;
            }
            self.members.insert(id, member);
        }
        told
    }

    /// The cgroups of the enforced roots; 0, which none has, for one that is not there.
    pub fn roots(&self) -> impl Iterator<Item = u64> {
        let root = |folder| self.cgroups.known(folder).map_or(0, |cgroup| cgroup.id);
        self.roots.iter().map(move |folder| root(folder))
    }

    /// Who shares the proxy as one, kept as it is.
    pub fn sharers(&self) -> Sharers {
        self.sharers.clone()
    }

    /// Looks at everything at once: an enforced root came.
    pub fn look_again(&mut self) {
        self.scan_due = Instant::now();
    }

    fn look_soon(&mut self, now: Instant, id: u64) {
        if self.enters {
            self.schedule.start(now, id);
        }
    }

    /// Looks where the processes of a cgroup are.
    fn look(&mut self, id: u64) {
        let Some(member) = self.members.get(&id) else {
            return;
        };
        let mut found = processes::namespaces(&member.cgroup.folder);
        found.remove(&self.own);
        let all_known = found.keys().all(|n| member.namespaces.contains(n));
        // Those that are served keep their place.
        let taken = if all_known {
            0
        } else {
            self.namespaces_beside(id)
        };
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let mut room = NAMESPACES_EACH.saturating_sub(taken);
        let before = found.len();
        found.retain(|namespace, _| {
            let known = member.namespaces.contains(namespace);
            let new = !known && room > 0;
            room -= usize::from(new);
            known || new
        });
        let crowded = found.len() < before;
        if crowded && !member.crowded {
            tracing::warn!(
                cgroup = member.below,
                served = NAMESPACES_EACH,
                "more network namespaces than are served: flows that need the proxy are refused in the others"
            );
        }
        member.crowded = crowded;
        let namespaces: BTreeSet<NsInode> = found.keys().copied().collect();
        self.emptied |= !member.namespaces.is_subset(&namespaces);
        member.namespaces = namespaces;
        found.retain(|namespace, _| !self.proxied(*namespace));
        self.wanted.append(&mut found);
    }

    fn proxied(&self, namespace: NsInode) -> bool {
        let spaces = self.spaces.as_ref();
        spaces.is_some_and(|spaces| spaces.is_open(namespace))
    }

    /// A flow of this cgroup found no proxy in its namespace: looks there now.
    pub fn missed(&mut self, cgroup: u64) {
        if self.members.contains_key(&cgroup) {
            if self.enters {
                self.schedule.hurry(Instant::now(), cgroup);
            }
        } else if let Some(scanned) = self.scanned {
            self.scan_due = self.scan_due.min(scanned + SCAN_AT_MOST);
        }
    }

    /// Brings the listeners to where the workloads are, and takes them away from where none is
    /// left.
    pub async fn settle(&mut self, tables: &mut Tables) -> anyhow::Result<()> {
        let Some(spaces) = &mut self.spaces else {
            return Ok(());
        };
        for (namespace, pid) in std::mem::take(&mut self.wanted) {
            // A process that has ended meanwhile is no finding; another look follows in any case.
            if let Err(error) = spaces.open(tables, namespace, pid).await
                && std::path::Path::new(&format!("/proc/{pid}")).exists()
            {
                tracing::warn!(
                    pid,
                    error = format!("{error:#}"),
                    "no proxy in a network namespace: flows that need it are refused there"
                );
            }
        }
        if std::mem::take(&mut self.emptied) {
            let members = self.members.values();
            let used: BTreeSet<NsInode> = members.flat_map(|m| &m.namespaces).copied().collect();
            spaces.close_but(tables, |namespace| used.contains(&namespace))?;
        }
        Ok(())
    }

    /// Removes the listeners that an agent before this one told the kernel of, but for those that
    /// are there again, and the agent's own.
    pub fn tidy(&self, tables: &mut Tables, own: NetnsId) -> anyhow::Result<()> {
        let ports = self.spaces.iter().flat_map(Spaces::ports);
        let open: BTreeSet<u64> = ports.map(|(netns, _)| netns.0).collect();
        let mut stale = tables.proxies()?;
        stale.retain(|netns| *netns != own.0 && !open.contains(netns));
        stale
            .into_iter()
            .try_for_each(|netns| tables.set_proxy(netns, None))
    }

    /// Puts the cgroups of workloads under their policies. Returns the policies that sockets were
    /// under until then: what these remember must be judged anew.
    pub fn place(
        &mut self,
        tables: &mut Tables,
        policy_of: impl Fn(u64) -> Option<u32>,
    ) -> anyhow::Result<Vec<u32>> {
        let members = self.members.iter().filter(|(_, m)| m.workload.is_some());
        let wanted = members
            .filter_map(|(id, _)| Some((*id, policy_of(*id)?)))
            .collect();
        self.owners.become_these(tables, &wanted)
    }

    /// What `status` shows of the cgroups that the kernel does not judge.
    pub fn too_deep(&self) -> TooDeep {
        self.cgroups.deep().status()
    }

    /// What `status` shows of them.
    pub fn status(&self) -> Vec<WorkloadStatus> {
        let shown = |m: &&Member| m.workload.is_some() || !m.namespaces.is_empty();
        let members = self.members.values().filter(shown);
        let mut all: Vec<WorkloadStatus> = members.map(|member| self.status_of(member)).collect();
        all.sort_by(|a, b| a.cgroup.cmp(&b.cgroup));
        all
    }

    fn status_of(&self, member: &Member) -> WorkloadStatus {
        let (id, name) = (member.cgroup.id, names::read(&member.below));
        let mode = |w: &Workload| Some(if w.audit? { "audit" } else { "enforce" }.to_owned());
        let identity = |w: &Workload| format!("{}/{}", w.namespace, w.service_account);
        let proxied = |namespace: &&NsInode| self.proxied(**namespace);
        WorkloadStatus {
            cgroup: member.below.clone(),
            id,
            identity: member.workload.as_ref().map(identity),
            pod: name.pod.map(|pod| pod.uid),
            container: name.container.map(|container| container.id),
            mode: member.workload.as_ref().and_then(mode),
            policy: self.owners.of(id),
            network_namespaces: member.namespaces.len(),
            proxied: member.namespaces.iter().filter(proxied).count(),
        }
    }

    /// Stops taking redirected flows in other namespaces; those that run go on until drained.
    pub fn withdraw(&self, tables: &mut Tables) -> anyhow::Result<()> {
        self.spaces
            .iter()
            .try_for_each(|spaces| spaces.withdraw(tables))
    }

    /// Waits until the flows in other namespaces have ended, which the drain makes sure of.
    pub async fn drained(&mut self) {
        if let Some(spaces) = &mut self.spaces {
            spaces.drained().await;
        }
    }
}
