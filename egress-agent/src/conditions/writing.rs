//! Gives each object of the API its condition: reads an object whose condition may differ, and writes what does.

use super::condition::{Change, Wanted, change, wanted};
use crate::applied::Applied;
use crate::kubernetes::{ApiClient, Pause, Problem, random};
use crate::sources::plural;
use egress_core::istio::{GROUP, RuleName, VERSIONS};
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Time between two objects: at most ten reads and ten writes a second.
const APART: Duration = Duration::from_millis(100);
/// After this time all objects are read again: others may have removed the condition. With the bound above, two writers that
/// do not agree write an object once in this time.
const RESYNC_INTERVAL: Duration = Duration::from_mins(10);
/// How often an object is read again after another writer was faster.
const ATTEMPTS: usize = 3;

/// Writes conditions until the future is dropped, or the rules are not followed any more.
pub async fn write_conditions(api: &ApiClient, mut applied: watch::Receiver<Arc<Applied>>) {
    let mut writer = Writer {
        api,
        version: None,
        wanted: BTreeMap::new(),
        done: BTreeMap::new(),
        queue: VecDeque::new(),
    };
    let mut pause = Pause::default();
    let mut again = Instant::now() + RESYNC_INTERVAL;
    let mut said = None;
    loop {
        writer.want(wanted(&applied.borrow_and_update()));
        while let Some(name) = writer.queue.pop_front() {
            match writer.settle(&name).await {
                Ok(()) => {
                    pause.reset();
                    said = None;
                    sleep(APART).await;
                }
                Err(problem) => {
                    let next = pause.after(&problem, random());
                    if said.as_ref() != Some(&problem) {
                        tracing::warn!(rule = %name, %problem, "cannot write the condition of an object; trying again");
                    }
                    said = Some(problem);
                    writer.queue.push_back(name);
                    sleep(next).await;
                }
            }
            if applied.has_changed().unwrap_or(false) {
                writer.want(wanted(&applied.borrow_and_update()));
            }
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(again) => {
                writer.done.clear();
                again = Instant::now() + RESYNC_INTERVAL;
            }
        }
    }
}

struct Writer<'a> {
    api: &'a ApiClient,
    /// The version of the group that the server serves.
    version: Option<&'static str>,
    wanted: BTreeMap<RuleName, Wanted>,
    /// What the objects are known to say.
    done: BTreeMap<RuleName, Wanted>,
    /// Objects to look at.
    queue: VecDeque<RuleName>,
}

impl Writer<'_> {
    fn want(&mut self, wanted: BTreeMap<RuleName, Wanted>) {
        self.done.retain(|name, _| wanted.contains_key(name));
        let differ = |(name, wanted): &(&RuleName, &Wanted)| self.done.get(name) != Some(wanted);
        self.queue = wanted
            .iter()
            .filter(differ)
            .map(|(name, _)| name.clone())
            .collect();
        self.wanted = wanted;
    }

    /// Gives an object its condition.
    async fn settle(&mut self, name: &RuleName) -> Result<(), Problem> {
        let Some(wanted) = self.wanted.get(name).cloned() else {
            return Ok(());
        };
        let version = match self.version {
            Some(version) => version,
            None => self.served().await?,
        };
        self.version = Some(version);
        let RuleName {
            kind,
            namespace,
            name: own,
        } = name;
        let plural = plural(*kind);
        let own_path = format!("/apis/{GROUP}/{version}/namespaces/{namespace}/{plural}/{own}");
        for _ in 0..ATTEMPTS {
            let object = match self.api.get(&own_path).await {
                // It was deleted; the next rules do not have it.
                Err(Problem::NotServed) => return Ok(()),
                object => object?,
            };
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            match change(&object, &wanted, &now) {
                // The next rules have this version.
                Change::Other => return Ok(()),
                Change::Nothing => {
                    self.done.insert(name.clone(), wanted);
                    return Ok(());
                }
                Change::Patch(patch) => {
                    match self.api.merge(&format!("{own_path}/status"), &patch).await {
                        Ok(_) => {
                            self.done.insert(name.clone(), wanted);
                            return Ok(());
                        }
                        Err(problem) if problem.is_conflict() => {}
                        Err(Problem::NotServed) => return Ok(()),
                        Err(problem) => return Err(problem),
                    }
                }
            }
        }
        // Someone writes the object all the time. It is looked at again later.
        Ok(())
    }

    async fn served(&self) -> Result<&'static str, Problem> {
        let group = self.api.get(&format!("/apis/{GROUP}")).await?;
        let served = |version: &&&str| {
            let versions = group["versions"].as_array();
            versions.is_some_and(|all| all.iter().any(|one| one["version"] == ***version))
        };
        VERSIONS
            .iter()
            .find(served)
            .copied()
            .ok_or(Problem::NotServed)
    }
}
