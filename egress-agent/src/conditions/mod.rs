//! Conditions on Istio's objects in the Kubernetes API: whether the gate accepts an object, and why not.
//!
//! One agent of the cluster writes them. `election` decides which one, with the hints of `released`, `condition` what an
//! object's status must contain, and `writing` reads and writes the objects.

mod condition;
mod election;
mod released;
mod writing;

pub use election::{Election, Times};
pub use writing::write_conditions;

use crate::applied::Applied;
use crate::kubernetes::ApiClient;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// The longest time that the end of an agent waits for an API server.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// Releases the Lease if this agent holds it, once [`keep_conditions`] has ended.
pub async fn release(api: ApiClient, identity: String) {
    let election = Election::new(api, identity, Times::default());
    match timeout(RELEASE_WITHIN, election.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => {
            tracing::warn!(%problem, "could not release the Lease; another agent writes conditions once it has run out");
        }
        Err(_) => tracing::warn!(
            "the API server does not answer, so the Lease is not released; another agent writes conditions once it has run out"
        ),
    }
}

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
