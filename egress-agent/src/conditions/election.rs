//! Which agent of the cluster writes: the holder of a Lease, by the rules of client-go's `tools/leaderelection`.
//!
//! No clock of another machine counts. An agent takes the Lease over only after it has seen it unchanged for the time that
//! the holder may need to renew it, by its own clock. A holder stops before that time has passed since its last renewal.
//! Each write names the version that was read, so of two that take over only one succeeds. A holder that ends on purpose
//! releases the Lease, and the others watch for that.

use super::released::Released;
use crate::kubernetes::{ApiClient, Problem, random};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The Lease.
const NAME: &str = "egress-agent-conditions";
/// The longest time in a Lease that is believed.
const MAX_LEASE_TIME: Duration = Duration::from_mins(10);

/// Times of an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A Lease that has not changed for this time is free.
    pub lease: Duration,
    /// The holder stops if it could not renew for this time, which is less than `lease`.
    pub deadline: Duration,
    /// Time between two renewals, and between two attempts after a failure.
    pub renew: Duration,
    /// Others look at the Lease after this time, or up to half of it sooner, at random.
    pub look: Duration,
    /// After a release others look within this time, at random, so that they do not all write at once.
    pub rush: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: Duration::from_mins(1),
            deadline: Duration::from_secs(40),
            renew: Duration::from_secs(15),
            look: Duration::from_mins(1),
            rush: Duration::from_secs(2),
        }
    }
}

/// See the module.
pub struct Election {
    api: ApiClient,
    identity: String,
    times: Times,
    /// The content of the Lease, and since when it has been the same.
    seen: Option<(Value, Instant)>,
}

impl Election {
    /// `identity` differs from that of every other agent. Asks nobody yet.
    pub fn new(api: ApiClient, identity: String, times: Times) -> Self {
        Self {
            api,
            identity,
            times,
            seen: None,
        }
    }

    /// Returns when this agent holds the Lease.
    pub async fn win(&mut self) {
        let mut problem = None;
        let mut released = Released::follow(&self.api, NAME);
        loop {
            match self.attempt().await {
                Ok(true) => return,
                Ok(false) => problem = None,
                Err(new) => {
                    if problem.as_ref() != Some(&new) {
                        tracing::warn!(problem = %new, lease = NAME, "cannot take part in the election of the agent that writes conditions; trying again");
                    }
                    problem = Some(new);
                }
            }
            let look = self.times.look.mul_f64(random() / 2.0 + 0.5);
            let rush = self.times.rush.mul_f64(random());
            tokio::select! {
                () = sleep(look) => {}
                () = released.for_long(rush) => {}
            }
        }
    }

    /// Releases the Lease if this agent holds it, as client-go's `ReleaseOnCancel` does.
    pub async fn release(&self) -> Result<(), Problem> {
        let one = format!("{}/{NAME}", self.leases());
        let mut lease = match self.api.get(&one).await {
            Ok(lease) => lease,
            Err(Problem::NotServed) => return Ok(()),
            Err(problem) => return Err(problem),
        };
        if lease["spec"]["holderIdentity"] != self.identity.as_str() {
            return Ok(());
        }
        let now = now();
        lease["spec"] = json!({
            "holderIdentity": "",
            "leaseDurationSeconds": 1,
            "renewTime": now,
            "acquireTime": now,
            "leaseTransitions": lease["spec"]["leaseTransitions"],
        });
        match self.api.replace(&one, &lease).await {
            // Another agent took it over.
            Err(problem) if !problem.is_conflict() => Err(problem),
            _ => Ok(()),
        }
    }

    /// The path of the Leases of the agent's namespace.
    fn leases(&self) -> String {
        let namespace = self.api.namespace();
        format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases")
    }

    /// Renews the Lease. Returns when it is lost: another agent holds it, or it could not be renewed in time.
    pub async fn hold(&mut self) {
        loop {
            let end = Instant::now() + self.times.deadline;
            sleep(self.times.renew).await;
            loop {
                match timeout_at(end, self.attempt()).await {
                    Ok(Ok(true)) => break,
                    // Someone else changed the Lease or holds it; the next attempt shows which.
                    Ok(Ok(false)) if self.is_others() => return,
                    Ok(Ok(false) | Err(_)) => {}
                    Err(_) => return,
                }
                let retry = Instant::now() + self.times.renew / 4;
                if retry >= end {
                    return;
                }
                sleep(self.times.renew / 4).await;
            }
        }
    }

    fn is_others(&self) -> bool {
        let seen = self.seen.as_ref();
        seen.is_some_and(|(spec, _)| spec["holderIdentity"] != self.identity.as_str())
    }

    /// Creates, renews or takes over the Lease. Returns whether this agent holds it.
    async fn attempt(&mut self) -> Result<bool, Problem> {
        let all = self.leases();
        let one = format!("{all}/{NAME}");
        let mut lease = match self.api.get(&one).await {
            Ok(lease) => lease,
            Err(Problem::NotServed) => {
                let new = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": NAME}, "spec": self.spec(&Value::Null),
                });
                let created = self.api.create(&all, &new).await;
                return self.wrote(created);
            }
            Err(problem) => return Err(problem),
        };
        let spec = lease["spec"].clone();
        let now = Instant::now();
        match &self.seen {
            Some((seen, _)) if *seen == spec => {}
            _ => self.seen = Some((spec.clone(), now)),
        }
        if !self.may_take(&spec, now) {
            return Ok(false);
        }
        lease["spec"] = self.spec(&spec);
        let replaced = self.api.replace(&one, &lease).await;
        self.wrote(replaced)
    }

    fn wrote(&mut self, written: Result<Value, Problem>) -> Result<bool, Problem> {
        match written {
            Ok(lease) => {
                self.seen = Some((lease["spec"].clone(), Instant::now()));
                Ok(true)
            }
            // Another agent was faster.
            Err(problem) if problem.is_conflict() => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    fn may_take(&self, spec: &Value, now: Instant) -> bool {
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let theirs = spec["leaseDurationSeconds"].as_u64();
        let theirs = theirs
            .map(Duration::from_secs)
            .filter(|d| *d <= MAX_LEASE_TIME);
        let lasts = theirs.map_or(self.times.lease, |theirs| theirs.max(self.times.lease));
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        now.saturating_duration_since(since) >= lasts
    }

    /// The content with this agent as the holder. Its times are for people.
    fn spec(&self, before: &Value) -> Value {
        let now = now();
        let stays = before["holderIdentity"] == self.identity.as_str();
        let transitions = before["leaseTransitions"].as_i64().unwrap_or(0);
        let mut spec = json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.times.lease.as_secs().max(1),
            "renewTime": now,
            "acquireTime": now,
            "leaseTransitions": transitions,
        });
        if stays {
            spec["acquireTime"] = before["acquireTime"].clone();
        } else if before["holderIdentity"].is_string() {
            spec["leaseTransitions"] = json!(transitions.saturating_add(1));
        }
        spec
    }
}

/// As a Lease has it (`MicroTime`).
fn now() -> String {
    let now = Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
