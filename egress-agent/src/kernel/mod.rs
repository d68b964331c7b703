//! The kernel side as the agent sees it: loads and attaches the programs, adopts or creates the maps, fills
//! the tables and reads the events. Links and maps are pinned and outlive the agent.
//!
//! It judges nothing and knows no rule: the pure crate decides what is written.

mod attach;
mod btf;
pub mod canary;
mod clients;
mod counters;
mod diag;
mod early;
mod events;
mod explain;
mod grace;
mod live;
mod load;
mod mapped;
mod neighbours;
mod origins;
mod outer;
mod pins;
mod policies;
mod programs;
pub mod random;
mod rival;
mod rules;
mod slots;
mod sys;
mod tables;
mod version;

pub use attach::{
    attach, attach_agent, attach_roots, denies_unlisted, detach, detach_links, forget_vanished,
    is_attached, missing, policy, refuse_rival,
};
pub use clients::DnsClients;
pub use counters::Counters;
pub use early::Redirects;
pub use events::{Events, ProgramLog};
pub use grace::Grace;
pub use live::{Ended, Live};
pub use load::Kernel;
pub use neighbours::neighbours;
pub use origins::Origins;
pub use outer::View;
pub use pins::Pins;
pub use programs::{BUILD, OBJECT, try_programs};
pub use rules::NoRoom;
pub use tables::Tables;
pub use version::supported;

/// Programs attached to each enforced root, in the order of attachment. The egress hook is first: it alone
/// denies every packet that the rules do not list, so the first link closes the root. The connect hooks are
/// last, so that no flow is redirected before the programs that store its origin are attached.
pub const ROOT_PROGRAMS: [&str; 13] = [
    "egress",
    "bind4",
    "bind6",
    "setsockopt",
    "sock_create",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
    "connect4",
    "connect6",
];

/// A program attached to each enforced root if the kernel can load it. It denies the socket families that
/// no other hook sees.
pub const LSM_PROGRAM: &str = "socket_create";

/// A program attached to each enforced root if the kernel does not run the egress hook for a listener's
/// answer over IPv6. It recognises connections that listeners older than the gate accept.
pub const ACCEPTED_PROGRAM: &str = "workload_ops";

/// Programs attached to the agent's own cgroup. The first moves a flow's origin to the accepted socket. The
/// second drops answers of the proxy's listeners that would leave the node.
pub const AGENT_PROGRAMS: [&str; 2] = ["agent_ops", "agent_egress"];
