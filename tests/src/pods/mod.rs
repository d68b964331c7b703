//! Pods without a container runtime. Each has a network namespace that is connected to the lab's node, and the cgroups
//! that a kubelet with the cgroupfs driver would make below the enforced root.
//!
//! Owns their creation and removal. The tests decide what runs in them.

pub mod cluster;
pub mod held;

use crate::cgroup::Cgroup;
use crate::child::Guarded;
use crate::client::{self, Reply};
use crate::lab::{Lab, LabOptions};
use crate::netns::NetNs;
use crate::place::{Place, ResolverFiles};
use anyhow::Result;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

/// The node's side of every pod's cable.
const GATEWAY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(169, 254, 1, 1),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
);

/// The lab's node with pods: it forwards, and the outside has a route back.
pub struct Pods {
    burstable: Cgroup,
    number: AtomicU16,
}

/// The address families of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// Both.
    Dual,
    /// No IPv6 in the namespace.
    V4,
    /// No IPv4 address except loopback.
    V6,
}

/// A pod. Dropping it kills its processes and removes its cgroups and its namespace.
pub struct Pod {
    // Dropped in this order: first the processes inside.
    pause: Guarded,
    container: Cgroup,
    sandbox: Cgroup,
    whole: Cgroup,
    /// Its namespace.
    pub netns: NetNs,
    /// Its IPv4 address.
    pub v4: IpAddr,
    /// Its IPv6 address.
    pub v6: IpAddr,
    /// `metadata.uid`.
    pub uid: String,
    resolver: ResolverFiles,
}

/// Makes the lab's node forward, and gives the outside a route back to the pods' ranges (10.244.0.0/16,
/// fd00:10:244::/48).
pub fn forward(lab: &Lab) -> Result<()> {
    lab.node().sysctl("ipv4/ip_forward", "1")?;
    lab.node().sysctl("ipv6/conf/all/forwarding", "1")?;
    lab.outside()
        .ip("route add 10.244.0.0/16 via 203.0.113.1\nroute add fd00:10:244::/48 via 2001:db8:1::1")
}

impl Pods {
    /// Makes the lab's node ready for pods.
    pub fn on(lab: &Lab) -> Result<Self> {
        forward(lab)?;
        Ok(Self {
            burstable: lab.workloads().child("burstable")?,
            number: AtomicU16::new(1),
        })
    }

    /// A pod with its pause process, dual stack.
    pub fn create(&self, lab: &Lab) -> Result<Pod> {
        self.create_in(lab, NetNs::new()?, Stack::Dual)
    }

    /// The same in an existing namespace, with the families of `stack`.
    pub fn create_in(&self, lab: &Lab, netns: NetNs, stack: Stack) -> Result<Pod> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 244, high, low);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number);
        wire(lab, &netns, number, stack, v4, v6)?;
        let uid = uid(number);
        let whole = self.burstable.child(&format!("pod{uid}"))?;
        let sandbox = whole.child(&id(b'a', number))?;
        let container = whole.child(&id(b'c', number))?;
        let mut pause = Place {
            cgroup: Some(&sandbox),
            netns: Some(&netns),
            resolver: None,
        }
        .command("sleep")?;
        pause.arg("infinity").stdin(Stdio::null());
        Ok(Pod {
            pause: Guarded::spawn(&mut pause)?,
            container,
            sandbox,
            whole,
            netns,
            v4: v4.into(),
            v6: v6.into(),
            uid,
            resolver: ResolverFiles::new(&[crate::lab::v4(crate::lab::host::DNS)])?,
        })
    }
}

/// Connects it as point-to-point CNI plugins do: a cable, a route to the pod on the node, the gateway's address at the
/// node's end.
fn wire(
    lab: &Lab,
    netns: &NetNs,
    number: u16,
    stack: Stack,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
) -> Result<()> {
    let (near, gateway) = (format!("pod{number}"), GATEWAY);
    let mut here: Vec<(IpAddr, u8)> = Vec::new();
    let mut inside = String::new();
    let mut node = String::new();
    if stack != Stack::V6 {
        here.push((v4.into(), 32));
        writeln!(
            inside,
            "route add {} dev eth0\nroute add default via {}",
            gateway.0, gateway.0
        )?;
        writeln!(
            node,
            "addr add {}/32 dev {near}\nroute add {v4} dev {near}",
            gateway.0
        )?;
    }
    if stack == Stack::V4 {
        netns.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
    } else {
        here.push((v6.into(), 128));
        writeln!(inside, "route add default via {} dev eth0", gateway.1)?;
        writeln!(
            node,
            "addr add {}/64 dev {near} nodad\nroute add {v6} dev {near}",
            gateway.1
        )?;
    }
    netns.connect("eth0", &here, lab.node(), &near, &[])?;
    lab.node().ip(&node)?;
    netns.ip(&inside)
}

/// `metadata.uid` of a node's pod with that number; the first has number 1.
pub fn uid(number: u16) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

/// The number in a uid puts each of these pods into a namespace: entries of `workloads`.
pub fn in_namespaces(pods: &[(u16, &str)]) -> LabOptions {
    let entry = |(number, namespace): &(u16, &str)| {
        let uid = uid(*number);
        let entry = format!("{{cgroup: '**/pod{uid}', namespace: {namespace}}}");
        ["--workload".to_owned(), entry]
    };
    LabOptions {
        agent: pods.iter().flat_map(entry).collect(),
        ..LabOptions::default()
    }
}

fn id(kind: u8, number: u16) -> String {
    format!("{:0<60}{number:04x}", char::from(kind))
}

impl Pod {
    /// The place of its container.
    pub fn place(&self) -> Place<'_> {
        Place {
            cgroup: Some(&self.container),
            netns: Some(&self.netns),
            resolver: Some(&self.resolver),
        }
    }

    /// Runs curl in its container.
    pub fn curl(&self, arguments: &[&str]) -> Result<Reply> {
        client::curl(&self.place(), arguments)
    }

    /// The pod's own cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.whole
    }

    /// The pause process.
    pub fn pause(&self) -> u32 {
        self.pause.id()
    }

    /// The pause process's cgroup.
    pub fn sandbox(&self) -> &Cgroup {
        &self.sandbox
    }
}
