//! The reasons why the agent can be not ready, and their text in `status` and the log. Checks nothing.

use egress_core::istio::Kind;
use std::fmt::{self, Formatter};
use std::path::PathBuf;

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The gate is not proven closed: the error of repairing or proving it.
    Gate(String),
    /// Enforced roots that do not exist.
    RootsAbsent(Vec<PathBuf>),
    /// None of the cgroups exists in which the kubelet may create pods.
    PodsAbsent(Vec<PathBuf>),
    /// The workloads are not below the enforced roots.
    Misplaced(Misplaced),
    /// Only the agent has the BPF file system at this path mounted.
    PinsShortLived(PathBuf),
    /// The canary of the proxy failed.
    Redirect(NoRedirect),
    /// Kinds of rules that the Kubernetes API has not listed since the start, each with the error.
    NoRules(Vec<(Kind, Option<String>)>),
    /// The rules of the Kubernetes API are known and not yet in force.
    RulesNotInForce,
    /// Names without a first DNS answer.
    Answers {
        /// How many.
        count: usize,
        /// The first of them.
        first: Vec<String>,
    },
    /// The process has few free descriptors.
    Descriptors {
        /// Open ones.
        open: usize,
        /// The limit of open files.
        limit: usize,
    },
    /// The agent cannot listen on its admin socket: the error.
    Admin(String),
}

/// Why the roots do not contain the workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misplaced {
    /// The agent was started as a pod below this cgroup, which no root contains.
    PodsOutside(PathBuf),
    /// The agent was started as a pod in a cgroup of version 1.
    PodsInVersion1 {
        /// That cgroup.
        pod: String,
        /// Its cgroup of version 2.
        v2: String,
    },
    /// No process runs below a root while pods run elsewhere.
    PodsElsewhere {
        /// The root.
        root: PathBuf,
        /// Where pods run.
        pods: PathBuf,
    },
    /// No workload is below this root.
    Empty(PathBuf),
}

/// The outcome of the canary of the proxy, a redirected connect of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRedirect {
    /// The kernel denied it.
    Denied,
    /// It reached another process, or none answered.
    Elsewhere,
    /// It could not be tried: the error.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gate(error) => f.write_str(error),
            Self::RootsAbsent(roots) => write!(
                f,
                "the enforced root {} does not exist; the agent closes it when the kubelet or the service manager creates it; if the workloads run in another cgroup, name that one in `cgroups`",
                roots
                    .iter()
                    .map(|root| root.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::PodsAbsent(places) => write!(
                f,
                "no pods' root was found: none of {} exists; the agent closes the one that the kubelet creates; if the kubelet uses another cgroup (cgroupRoot), name its pods' root in `cgroups`",
                places
                    .iter()
                    .map(|place| place.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Misplaced(misplaced) => misplaced.fmt(f),
            Self::PinsShortLived(pins) => write!(
                f,
                "only the agent has the BPF file system at {} mounted: the gate opens when the agent ends; mount one on the node (`mount -t bpf bpf /sys/fs/bpf`) and give the agent that one",
                pins.display()
            ),
            Self::Redirect(missing) => missing.fmt(f),
            Self::NoRules(kinds) => {
                let all: Vec<_> = kinds.iter().map(|(kind, _)| kind.as_str()).collect();
                let why = kinds.iter().find_map(|(_, why)| why.as_deref());
                write!(
                    f,
                    "the Kubernetes API has not listed {} since the agent's start ({}), and there are no last good rules: everything that no rule file lists is denied",
                    all.join(", "),
                    why.unwrap_or("no answer yet")
                )
            }
            Self::RulesNotInForce => {
                f.write_str("the rules of the Kubernetes API are being put in force")
            }
            Self::Answers { count, first } => write!(
                f,
                "waiting for the first DNS answers: {count} names, {}",
                first.join(", ")
            ),
            Self::Descriptors { open, limit } => write!(
                f,
                "{open} of {limit} descriptors are open: the agent may fail to read rules, to ask DNS and to accept connections; raise its limit (LimitNOFILE, RLIMIT_NOFILE)"
            ),
            Self::Admin(error) => write!(f, "cannot listen on the admin socket: {error}"),
        }
    }
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodsOutside(pods) => write!(
                f,
                "this agent was started as a pod below {0}, and no enforced root contains it: the pods of this node are not behind the gate; set `cgroups: [{0}]`",
                pods.display()
            ),
            Self::PodsInVersion1 { pod, v2 } => write!(
                f,
                "this agent was started as a pod in a cgroup of version 1 ({pod}) and in {v2} of version 2: the runtime does not put pods into cgroup v2, and no enforced root can contain them"
            ),
            Self::PodsElsewhere { root, pods } => write!(
                f,
                "no process runs below {}, while pods run below {1}, outside every enforced root; set `cgroups: [{1}]`",
                root.display(),
                pods.display()
            ),
            Self::Empty(root) => write!(
                f,
                "no workload is below {}: nothing is behind the gate yet; if the workloads run in another cgroup, name that one in `cgroups`",
                root.display()
            ),
        }
    }
}

impl fmt::Display for NoRedirect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str(
                "a redirected connect is denied: the kernel has no listener of this agent, and everything that needs the proxy is denied; restart the agent",
            ),
            Self::Elsewhere => f.write_str(
                "a redirected connect does not reach this agent: its proxy does not answer, or programs of another agent are attached to the same cgroup",
            ),
            Self::Failed(error) => write!(f, "the canary of the proxy failed: {error}"),
        }
    }
}
