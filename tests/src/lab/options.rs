//! Options of a lab.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The address families that the names of the hosts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

/// How a lab is set up.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// The families of the hosts' names; the hosts listen in both always.
    pub family: Family,
    /// The TTL of every name, in seconds.
    pub ttl: u32,
    /// The agent's name servers. If empty, these are the lab's own over both families, unless `agent` names others.
    pub servers: Vec<SocketAddr>,
    /// The agent's limit of descriptors (`ulimit -n`), if it differs from that of the test.
    pub descriptors: Option<u32>,
    /// Another agent than the one that was built with the tests.
    pub binary: Option<PathBuf>,
    /// Whether the agent reads the lab's rule files.
    pub files: bool,
    /// Flags for `egress-agent run`, in addition to the lab's own.
    pub agent: Vec<String>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            family: Family::Dual,
            ttl: 30,
            descriptors: None,
            servers: Vec::new(),
            binary: None,
            files: true,
            agent: Vec::new(),
        }
    }
}

impl LabOptions {
    /// An agent with these flags.
    pub fn flags(flags: &[&str]) -> Self {
        Self {
            agent: flags.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }
}
