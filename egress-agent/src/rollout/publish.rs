//! Publishes which rules are in force on this node, in a Lease of the agent's namespace. It is written only if its content
//! changes, and at most once in a period.

use super::report::{ANNOTATION, LABEL, Report};
use crate::applied::Applied;
use crate::config::OwnPod;
use crate::kubernetes::{ApiClient, Pause, Problem, random};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// The longest name of an object.
const MAX_NAME: usize = 253;

/// Whose report it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The node.
    pub node: String,
    /// The agent's pod. The report is deleted with it.
    pub pod: Option<OwnPod>,
}

/// Publishes the rules in force and each change of them. `within` this time of a change it is written, at a random moment,
/// so that the nodes of a cluster do not write together. Returns when the rules are not followed any more.
pub async fn publish_rules(
    api: ApiClient,
    place: Place,
    within: Duration,
    mut applied: watch::Receiver<Arc<Applied>>,
) {
    let mut published = None;
    let mut pause = Pause::default();
    loop {
        let current = Report::of(&applied.borrow_and_update());
        if published.as_ref() == Some(&current) {
            if applied.changed().await.is_err() {
                return;
            }
            continue;
        }
        let end = Instant::now() + within;
        sleep(within.mul_f64(random())).await;
        // Changes of the meantime need no write of their own.
        let report = Report::of(&applied.borrow_and_update());
        match write(&api, &place, &report).await {
            Ok(()) => {
                published = Some(report);
                pause.reset();
                sleep_until(end).await;
            }
            Err(problem) => {
                let next = pause.after(&problem, random());
                tracing::warn!(%problem, "cannot publish which rules are in force on this node; trying again");
                sleep(next).await;
            }
        }
    }
}

async fn write(api: &ApiClient, place: &Place, report: &Report) -> Result<(), Problem> {
    let all = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        api.namespace()
    );
    let name = name(&place.node);
    let lease = lease(place, report);
    match api.merge(&format!("{all}/{name}"), &lease).await {
        Err(Problem::NotServed) => {}
        written => return written.map(drop),
    }
    let mut new = lease;
    new["apiVersion"] = json!("coordination.k8s.io/v1");
    new["kind"] = json!("Lease");
    new["metadata"]["name"] = json!(name);
    api.create(&all, &new).await.map(drop)
}

/// A node's name may be as long as that of the object.
fn name(node: &str) -> String {
    let mut name = format!("egress-agent-{node}");
    name.truncate(MAX_NAME);
    name
}

fn lease(place: &Place, report: &Report) -> Value {
    let mut lease = json!({
        "metadata": {
            "labels": {LABEL.0: LABEL.1},
            "annotations": {ANNOTATION: json!(report).to_string()},
        },
        "spec": {"holderIdentity": place.node},
    });
    if let Some(OwnPod { name, uid }) = &place.pod {
        lease["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}]);
    }
    lease
}
