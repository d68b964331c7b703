//! The vocabulary of denials: one message, one set of field names and one spelling of each value, for
//! denials by the kernel and by the proxy, and for flows that an auditing policy let pass.
//!
//! Writes the lines. `denials` and `flows` decide which denial gets one.

use super::cgroups::CgroupPaths;
use crate::workloads::{Identities, PodNames};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What denied the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A kernel program: the call failed, or the packet was dropped.
    Kernel,
    /// The proxy: the connection was closed, or the request answered with an error.
    Proxy,
    /// The DNS server: the query was answered with an error.
    Dns,
}

impl By {
    /// Its spelling in logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Proxy => "proxy",
            Self::Dns => "dns",
        }
    }
}

/// The owner of the flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Path of the cgroup in the hierarchy; `id:N` for one that is gone, `None` if it is unknown.
    pub cgroup: Option<String>,
    /// `NAMESPACE/SERVICE-ACCOUNT`; `None` if nothing gives it an identity.
    pub workload: Option<Arc<str>>,
    /// Its pod, if the Kubernetes API knows it.
    pub pod: Option<PodNames>,
}

impl Owner {
    /// `NAMESPACE/NAME` of the pod.
    pub fn pod_name(&self) -> Option<&str> {
        Some(&self.pod.as_ref()?.pod)
    }

    /// The name of the container.
    pub fn container(&self) -> Option<&str> {
        self.pod.as_ref()?.container.as_deref()
    }

    /// The workload that the pod belongs to.
    pub fn pod_owner(&self) -> Option<&str> {
        self.pod.as_ref()?.owner.as_deref()
    }
}

impl Owner {
    /// The namespace of the workload; `None` if it is unknown.
    pub fn namespace(&self) -> Option<&str> {
        let (namespace, _) = self.workload.as_deref()?.split_once('/')?;
        Some(namespace)
    }
}

/// Finds the workload and the path of a cgroup by its id. Clones share the state.
#[derive(Clone, Debug)]
pub struct Owners {
    paths: Arc<Mutex<CgroupPaths>>,
    identities: Identities,
    /// Whether to show the cgroup of a flow whose pod has a name.
    paths_of_pods: bool,
}

impl Owners {
    /// For the hierarchy of this process.
    pub fn new(identities: Identities) -> anyhow::Result<Self> {
        Ok(Self {
            paths: Arc::new(Mutex::new(CgroupPaths::new()?)),
            identities,
            paths_of_pods: true,
        })
    }

    /// For lines that people read: a pod's name says more than the path of its cgroup, so that is left out.
    #[must_use]
    pub fn for_people(mut self, people: bool) -> Self {
        self.paths_of_pods = !people;
        self
    }

    /// The owner of a flow. The id 0 means that the cgroup is not known.
    pub fn of(&self, cgroup: CgroupId) -> Owner {
        if cgroup == CgroupId(0) {
            return Owner::default();
        }
        let path = {
            let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
            paths.path(cgroup)
        };
        let pod = self.identities.pod(&path);
        Owner {
            workload: self.identities.of(&path),
            cgroup: (pod.is_none() || self.paths_of_pods).then_some(path),
            pod,
        }
    }
}

/// A denial, or a flow that an auditing policy let pass. A field that is `None` is left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// What denied.
    pub by: By,
    /// The policy audits: the flow passed.
    pub audit: bool,
    /// The code of the reason, in kebab-case.
    pub reason: &'a str,
    /// The reason as a sentence, if it says more than the code.
    pub detail: Option<&'a str>,
    /// Destination as dialled.
    pub destination: Option<SocketAddr>,
    /// `tcp`, `udp`, `icmp`, `icmpv6` or the IANA number.
    pub protocol: &'a str,
    /// The name that the client named, or the known names of the address, comma-separated.
    pub names: Option<&'a str>,
    /// The rule that came closest, and what differs from the flow.
    pub nearest: Option<&'a str>,
    /// The owner of the flow.
    pub owner: &'a Owner,
    /// Id of the policy that judged.
    pub policy: Option<PolicyId>,
    /// Thread group id of the task.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Option<&'a str>,
    /// The kernel's hook that denied.
    pub hook: Option<&'a str>,
    /// Address of the proxy's client.
    pub peer: Option<SocketAddr>,
    /// Denials of the same kind that were not logged since the last line of the kind.
    pub repeated: u64,
}

impl Event<'_> {
    /// Writes the line.
    pub fn log(&self) {
        self.line(false);
    }

    /// Writes a line that only reports repeats.
    pub fn log_repeats(&self) {
        self.line(true);
    }

    fn line(&self, again: bool) {
        // A line's level and message must be literals, so there is one macro call for each pair.
        macro_rules! line {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    target: "egress::event",
                    reason = self.reason,
                    by = self.by.word(),
                    detail = self.detail,
                    destination = self.destination.map(tracing::field::display),
                    protocol = self.protocol,
                    names = self.names,
                    nearest = self.nearest,
                    pod = self.owner.pod_name(),
                    container = self.owner.container(),
                    owner = self.owner.pod_owner(),
                    workload = self.owner.workload.as_deref(),
                    cgroup = self.owner.cgroup.as_deref(),
                    policy = self.policy.map(|id| id.0),
                    pid = self.pid,
                    comm = self.comm,
                    hook = self.hook,
                    peer = self.peer.map(tracing::field::display),
                    repeated = self.repeated,
                    $message
                )
            };
        }
        match (self.audit, again) {
            (false, false) => line!(warn, "denied"),
            (false, true) => line!(warn, "denied again"),
            (true, false) => line!(info, "would_deny"),
            (true, true) => line!(info, "would_deny again"),
        }
    }
}

/// Logs how many denials the rate limit suppressed.
pub fn log_suppressed(by: By, suppressed: u64) {
    if suppressed > 0 {
        tracing::warn!(
            target: "egress::event",
            by = by.word(),
            suppressed,
            "denials not logged (rate limit)"
        );
    }
}

#[cfg(test)]
pub(super) const MODULE: &str = module_path!();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::captured;

    const fn event(owner: &Owner, by: By) -> Event<'_> {
        Event {
            by,
            audit: false,
            reason: "not-listed",
            detail: None,
            destination: None,
            protocol: "tcp",
            names: Some("a.example"),
            nearest: None,
            owner,
            policy: Some(PolicyId(1)),
            pid: None,
            comm: None,
            hook: None,
            peer: None,
            repeated: 0,
        }
    }

    #[test]
    fn kernel_and_proxy_differ_in_who_denied_only() {
        let owner = Owner {
            cgroup: Some("/pods/a".into()),
            workload: Some("shop/web".into()),
            pod: Some(PodNames {
                pod: "shop/web-1".into(),
                uid: "u".into(),
                container: Some("main".into()),
                owner: None,
            }),
        };
        let mut lines = captured::lines(|| {
            event(&owner, By::Kernel).log();
            event(&owner, By::Proxy).log();
        });
        for (line, by) in lines.iter_mut().zip(["kernel", "proxy"]) {
            assert_eq!(line["by"], by);
            let fields = line.as_object_mut().unwrap();
            fields.remove("by");
            fields.remove("timestamp");
        }
        assert_eq!(lines[0], lines[1]);
        assert_eq!(
            lines[0],
            serde_json::json!({
                "level": "WARN", "target": "egress::event", "message": "denied",
                "reason": "not-listed", "protocol": "tcp", "names": "a.example",
                "pod": "shop/web-1", "container": "main", "workload": "shop/web", "cgroup": "/pods/a", "policy": 1,
                "repeated": 0,
            })
        );
    }

    #[test]
    fn the_message_says_whether_it_passed_and_whether_it_stands_for_repeats() {
        let owner = Owner::default();
        let lines = captured::lines(|| {
            for audit in [false, true] {
                let event = Event {
                    audit,
                    ..event(&owner, By::Proxy)
                };
                event.log();
                event.log_repeats();
            }
        });
        let said: Vec<_> = lines
            .iter()
            .map(|line| (line["level"].as_str(), line["message"].as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (Some("WARN"), Some("denied")),
                (Some("WARN"), Some("denied again")),
                (Some("INFO"), Some("would_deny")),
                (Some("INFO"), Some("would_deny again")),
            ]
        );
    }
}
