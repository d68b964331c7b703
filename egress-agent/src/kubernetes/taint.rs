//! The startup taint: nodes register with it, so that no pod is scheduled there before the gate is closed. The agent
//! removes it from its own node once it is ready.

use super::client::ApiClient;
use super::pause::{Pause, random};
use super::problem::Problem;
use crate::observe::readiness::Board;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// The taint's key.
pub const KEY: &str = "egress-agent/not-ready";
/// Time between two looks at the board.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two looks at the node: it registers again, with the taint, after its object was deleted.
const RECHECK_INTERVAL: Duration = Duration::from_mins(5);

/// Removes the taint from the node whenever the agent is ready. Does not return.
pub async fn remove_startup_taint(api: ApiClient, node: String, board: Board) {
    let mut pause = Pause::default();
    loop {
        while !board.known().ready() {
            sleep(POLL_INTERVAL).await;
        }
        match remove(&api, &node).await {
            Ok(removed) => {
                if removed {
                    tracing::info!(
                        node,
                        taint = KEY,
                        "ready: removed the startup taint from this node"
                    );
                }
                pause.reset();
                // Half of the time is random, so that the nodes of a cluster do not ask together.
                sleep(RECHECK_INTERVAL.mul_f64(random() / 2.0 + 0.5)).await;
            }
            Err(problem) => {
                let next = pause.after(&problem, random());
                tracing::warn!(node, taint = KEY, %problem, "cannot remove the startup taint; trying again");
                sleep(next).await;
            }
        }
    }
}

/// Whether the node had the taint.
async fn remove(api: &ApiClient, node: &str) -> Result<bool, Problem> {
    let path = format!("/api/v1/nodes/{node}");
    let Some(change) = without_taint(&api.get(&path).await?) else {
        return Ok(false);
    };
    api.merge(&path, &change).await?;
    Ok(true)
}

/// The patch that removes the taint, with all its effects; `None` if the node does not have it. The server rejects the
/// patch if someone changed the node in the meantime, because it replaces all taints.
fn without_taint(node: &Value) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let is_ours = |taint: &&Value| taint["key"] == KEY;
    if !taints.iter().any(|taint| is_ours(&taint)) {
        return None;
    }
    let others: Vec<&Value> = taints.iter().filter(|taint| !is_ours(taint)).collect();
    Some(json!({
        "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
        "spec": {"taints": others},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_startup_taint_is_removed() {
        let other = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        let node = |taints: Value| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}});
        let ours = |effect: &str| json!({"key": KEY, "effect": effect});
        let patch = without_taint(&node(json!([ours("NoSchedule"), other, ours("NoExecute")])));
        assert_eq!(
            patch.unwrap(),
            json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}})
        );
        assert_eq!(without_taint(&node(json!([other]))), None);
        assert_eq!(without_taint(&json!({"spec": {}})), None);
    }
}
