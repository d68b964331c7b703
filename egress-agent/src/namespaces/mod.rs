//! The network namespaces in which the agent serves: which there are, found by the processes in
//! them, when each cgroup is looked at again, and the proxy's listeners in each. Which cgroups are
//! followed, and what they are to the rules, is `workloads`'s.

pub mod processes;
pub mod schedule;
pub mod spaces;

pub use spaces::Spaces;
