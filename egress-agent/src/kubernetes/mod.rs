//! The Kubernetes API as seen from the agent: the client, and a follower of the objects of one kind.
//!
//! Of its own accord it changes nothing in the cluster but the startup taint. Who a pod is and which rule an object contains is decided by the readers.

mod client;
mod known;
mod list;
mod meta;
mod objects;
mod pause;
mod pods;
mod problem;
mod ranges;
mod request;
mod selection;
mod standing;
mod taint;
mod watch;

pub use client::{ApiClient, connect, connect_as_user};
pub use meta::{Key, Metadata, Object, OwnerReference};
pub use pause::{Pause, random};
pub use pods::follow_pods;
pub use problem::Problem;
pub use ranges::{RangeFinder, Ranges, Use};
pub use selection::{Freshness, Kind, Limits, Selection};
pub use standing::{Shown, Standing, Standings};
pub use taint::remove_startup_taint;
pub use watch::{News, follow};
