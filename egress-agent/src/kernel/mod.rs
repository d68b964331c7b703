//! The kernel side as the agent sees it: load the programs, adopt or make the maps, attach, fill
//! the tables, read the events. Everything is pinned and outlives the agent.
//!
//! It judges nothing and knows no rule; what it writes comes from the pure crate.

mod attach;
mod btf;
pub mod canary;
mod counters;
mod diag;
mod early;
mod events;
mod live;
mod load;
mod mapped;
mod origins;
mod outer;
mod pins;
mod policies;
pub mod random;
mod rival;
mod rules;
mod slots;
mod sys;
mod tables;

pub use attach::{
    attach, attach_agent, attach_roots, denies_unlisted, detach, detach_links, forget_vanished,
    is_attached, missing, policy, refuse_rival,
};
pub use counters::Counters;
pub use early::Redirects;
pub use events::{Events, ProgramLog};
pub use live::{Ended, Live};
pub use load::{Kernel, OBJECT, supported};
pub use origins::Origins;
pub use outer::View;
pub use pins::Pins;
pub use rules::{NoRoom, Room};
pub use tables::Tables;

/// Programs attached to each enforced root, in the order of attachment: the egress hook first, which
/// alone lets no packet out that the rules do not list, so that a root is closed by the first link;
/// connect last, so that no flow is redirected before its origin can be told.
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

/// The program attached to each enforced root where the kernel lets it load: it denies the socket
/// families that no other hook sees.
pub const LSM_PROGRAM: &str = "socket_create";

/// The program attached to each enforced root on a kernel that runs no egress hook for a listener's
/// answer over IPv6: it knows what listeners older than the gate accept.
pub const ACCEPTED_PROGRAM: &str = "workload_ops";

/// Programs attached to the agent's own cgroup: what takes origins over, and what keeps the
/// answers of the proxy's listeners on the node.
pub const AGENT_PROGRAMS: [&str; 2] = ["agent_ops", "agent_egress"];
