//! Writes the reports of denials as Events, not faster than the bound.

use super::note;
use crate::kubernetes::{ApiClient, Pause, Problem, random};
use crate::observe::pod_denials::{Due, PodDenials};
use k8s_openapi::jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Time between two looks for reports.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Events of this node: one in this time, after so many at once.
const EACH: Duration = Duration::from_secs(2);
const AT_ONCE: u32 = 20;

/// Writes Events until the future is dropped.
pub async fn write_pod_events(api: ApiClient, node: String, denials: PodDenials) {
    let mut pause = Pause::default();
    let mut said: Option<Problem> = None;
    // The time at which the Events so far would have been written at the rate.
    let mut ahead = Instant::now();
    loop {
        let now = Instant::now();
        ahead = ahead.max(now);
        let early = ahead - now;
        let free = early <= EACH * (AT_ONCE - 1);
        let Some(due) = denials.due(now).filter(|_| free) else {
            sleep(POLL_INTERVAL).await;
            continue;
        };
        ahead += EACH;
        match write(&api, &node, &due).await {
            Ok(Some(name)) => {
                denials.written(&due.id, due.count, &name, Instant::now());
                pause.reset();
                said = None;
            }
            Ok(None) => denials.lost(&due.id),
            Err(Problem::NotServed) => denials.drop_report(&due.id),
            Err(problem) => {
                let next = pause.after(&problem, random());
                if said.as_ref() != Some(&problem) {
                    tracing::warn!(%problem, "cannot write an Event about denied egress; trying again");
                }
                said = Some(problem);
                sleep(next).await;
            }
        }
    }
}

/// The name of the Event; `None` if the one that was written before is gone. The API server deletes Events after an hour.
async fn write(api: &ApiClient, node: &str, due: &Due) -> Result<Option<String>, Problem> {
    let now = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let all = format!("/apis/events.k8s.io/v1/namespaces/{}/events", due.pod.0);
    if let Some(name) = &due.written {
        let changed = api
            .merge(&format!("{all}/{name}"), &note::series(due, &now))
            .await;
        return match changed {
            Ok(_) => Ok(Some(name.clone())),
            Err(Problem::NotServed) => Ok(None),
            Err(problem) => Err(problem),
        };
    }
    let nanoseconds = Timestamp::now().as_nanosecond();
    let name = note::name(due, u64::try_from(nanoseconds).unwrap_or_default());
    api.create(&all, &note::event(due, &name, node, &now))
        .await?;
    Ok(Some(name))
}
