//! Events on pods in the Kubernetes API, for denied egress: what `kubectl describe pod` shows.
//!
//! `note` owns the object, `writing` when it is written. `observe/pod_denials` gathers the denials.

mod note;
mod writing;

pub use writing::write_pod_events;
