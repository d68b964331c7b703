//! Conditions on Istio's objects in the Kubernetes API: whether the gate accepts an object, and why not.
//!
//! One agent of the cluster writes them. `election` decides which one, `condition` what an object's status must contain, and
//! `writing` reads and writes the objects.

mod condition;
mod election;
mod writing;

pub use election::{Election, Times};
pub use writing::write_conditions;

use crate::applied::Applied;
use crate::kubernetes::ApiClient;
use std::sync::Arc;
use tokio::sync::watch;

/// Takes part in the election, and writes conditions while this agent is elected. Does not return.
pub async fn keep_conditions(
    api: ApiClient,
    identity: String,
    applied: watch::Receiver<Arc<Applied>>,
) {
    let mut election = Election::new(api.clone(), identity, Times::default());
    loop {
        election.win().await;
        tracing::info!("elected: this agent writes the conditions of Istio's objects");
        tokio::select! {
            () = election.hold() => {}
            () = write_conditions(&api, applied.clone()) => {}
        }
        tracing::info!("this agent no longer writes the conditions of Istio's objects");
    }
}
