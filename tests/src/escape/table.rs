//! Every path past the gate: its name, the attempt, and the expected result.
//!
//! The documentation's matrix is made from this table, and the suite checks each cell on the
//! running kernel. It tries nothing itself.

use super::Aim;
pub use super::rows::{SECTIONS, SUITE_PROBES};
use super::sock::Step;
use std::net::SocketAddr;

/// The families over which a path exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// IPv4 and IPv6.
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// It has no IP family: shown in both columns, tried once.
    Neither,
}

/// The expected result of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing leaves. The text names the hook.
    Closed(&'static str),
    /// Nothing leaves if `lsm_cgroup` loads. Otherwise the path is open, and this closes it.
    NeedsLsm(&'static str),
    /// It leaves. The text has the reason and what closes it.
    Open(&'static str),
    /// It must leave. It is not an escape, but a gate that is too tight would break it.
    Works(&'static str),
}

/// The control, which shows that the path exists: the same call without the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It reaches the target outside the gate.
    Leaves,
    /// It cannot leave without the gate either, for this reason. The call itself must be denied.
    None(&'static str),
    /// The same, but the call may succeed: only what leaves is judged.
    Unseen(&'static str),
}

/// How a path is tried.
#[derive(Clone, Copy)]
pub enum Trial {
    /// One process from start to end.
    Probe(fn(&Aim) -> Step),
    /// In two parts; the suite says what happens between them.
    Staged(fn(&Aim) -> Step, Between),
    /// The suite itself.
    Suite(Scenario),
    /// Not tried; the reason is in the row.
    Untried,
}

/// What happens between the parts of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// The agent attaches.
    Attach,
    /// The process, outside so far, is moved behind the gate.
    MoveIn,
    /// The process, behind the gate so far, is moved out.
    MoveOut,
}

/// Who calls a server of the node from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The target, by datagrams.
    Datagrams,
    /// A host that no rule lists, by connections.
    Connections,
}

/// What the suite does itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// In a cgroup that a workload made below its own.
    Nested,
    /// An unlisted and a redirected connect after the agent was killed.
    AgentKilled,
    /// Another process listens at the proxy's port after the agent was killed.
    PortTaken,
    /// More redirected flows than the table has room for.
    FlowsFlooded,
    /// A process outside the gate dials the proxy.
    NoOrigin,
    /// `net.ipv4.ip_nonlocal_bind` and `net.ipv6.ip_nonlocal_bind` are set in the workload's
    /// network namespace; then this probe.
    NonlocalBind(&'static str),
    /// The same with a probe that dials a listed host. The result is whether its packets arrive.
    ClaimedStream(&'static str),
    /// A workload in another network namespace of this node claims to be the target, by this
    /// probe, and writes to a server behind the gate.
    Neighbour(&'static str),
    /// The same with `ip_nonlocal_bind` set in that namespace.
    NonlocalNeighbour(&'static str),
    /// A server answers, by this probe, and again when the time for it is over.
    AnswerAged(&'static str),
    /// A process outside the gate connects on request over the loopback device.
    Forwarder,
}

/// One path.
#[derive(Clone, Copy)]
pub struct Path {
    /// Its name, which is the probe's too.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// Over which families it exists.
    pub over: Over,
    /// How it is tried.
    pub trial: Trial,
    /// Changes the form of the target before it is dialled.
    pub form: Option<fn(SocketAddr) -> SocketAddr>,
    /// The control of the path.
    pub control: Control,
    /// Whether the same call to a listed destination must go through.
    pub listed: bool,
    /// The expected result.
    pub expect: Expect,
    /// Who calls the node's server while the probe runs.
    pub caller: Option<Caller>,
}

/// The destination port of the targets.
pub const TARGET_PORT: u16 = 80;

pub(super) const fn path(
    name: &'static str,
    over: Over,
    probe: fn(&Aim) -> Step,
    by: &'static str,
    what: &'static str,
) -> Path {
    Path {
        name,
        what,
        over,
        trial: Trial::Probe(probe),
        form: None,
        control: Control::Leaves,
        listed: false,
        expect: Expect::Closed(by),
        caller: None,
    }
}

impl Path {
    /// Requires that the same call reaches a listed destination.
    pub(super) const fn listable(mut self) -> Self {
        self.listed = true;
        self
    }

    pub(super) const fn uncontrolled(mut self, why: &'static str) -> Self {
        self.control = Control::None(why);
        self
    }

    pub(super) const fn unseen(mut self, why: &'static str) -> Self {
        self.control = Control::Unseen(why);
        self
    }

    pub(super) const fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    pub(super) const fn called(mut self, by: Caller) -> Self {
        self.caller = Some(by);
        self.control = Control::Leaves;
        self
    }

    pub(super) const fn form(mut self, form: fn(SocketAddr) -> SocketAddr) -> Self {
        self.form = Some(form);
        self
    }

    pub(super) const fn staged(mut self, between: Between) -> Self {
        if let Trial::Probe(probe) = self.trial {
            self.trial = Trial::Staged(probe, between);
        }
        self
    }

    pub(super) const fn by(mut self, trial: Trial) -> Self {
        self.trial = trial;
        self
    }

    /// The families to try; true is IPv6.
    pub fn families(&self) -> &'static [bool] {
        match self.over {
            Over::Both => &[false, true],
            Over::V4 | Over::Neither => &[false],
            Over::V6 => &[true],
        }
    }
}

/// A probe by its name.
pub fn probe(name: &str) -> Option<fn(&Aim) -> Step> {
    let of_suite = SUITE_PROBES.iter().find(|(of, _)| *of == name);
    of_suite.map(|(_, probe)| *probe).or_else(|| {
        paths()
            .find(|p| p.name == name)
            .and_then(|p| match p.trial {
                Trial::Probe(probe) | Trial::Staged(probe, _) => Some(probe),
                Trial::Suite(_) | Trial::Untried => None,
            })
    })
}

/// Every path, in the order of the page.
pub fn paths() -> impl Iterator<Item = &'static Path> {
    SECTIONS.iter().flat_map(|(_, paths)| paths.iter())
}

/// The program for families beyond IP, by the name of its pin.
pub const LSM_PROGRAM: &str = "socket_create";
