//! Waits until all nodes have a rule: follows the objects of the rule's kind, the agents' pods and the agents' reports.

use super::report::{ANNOTATION, LABEL, Report};
use super::tally::{Goal, Tally, Verdict};
use crate::kubernetes::{
    ApiClient, Freshness, Key, Kind, Metadata, News, Object, Selection, Standing, Standings, follow,
};
use crate::sources::rule_kind;
use egress_core::istio::RuleName;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// News of a kind that wait.
const MAX_PENDING: usize = 64;

/// The pods of the agents.
#[derive(Clone, Debug)]
pub struct Agents {
    /// Their namespace, and that of their reports.
    pub namespace: String,
    /// A selector of their labels.
    pub selector: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bare {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lease {
    metadata: Metadata,
    spec: LeaseSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    holder_identity: String,
}

impl Object for Bare {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Object for Pod {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

impl Object for Lease {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Returns the number of nodes once all have the rule as `goal` says, or why not.
pub async fn wait_for_nodes(
    api: &ApiClient,
    agents: &Agents,
    rule: RuleName,
    goal: Goal,
    limit: Duration,
) -> Result<usize, String> {
    let end = Instant::now() + limit;
    let standings = Standings::default();
    let mut tasks = JoinSet::new();
    let rules = Selection::all(rule_kind(rule.kind));
    let mut objects = start::<Bare>(api, rules, &standings, &mut tasks);
    let of_agents = |kind, labels| Selection {
        namespace: Some(agents.namespace.clone()),
        labels: Some(labels),
        freshness: Freshness::Cached,
        ..Selection::all(kind)
    };
    let pods = of_agents(Kind::PODS, agents.selector.clone());
    let mut pods = start::<Pod>(api, pods, &standings, &mut tasks);
    let leases = of_agents(Kind::LEASES, format!("{}={}", LABEL.0, LABEL.1));
    let mut leases = start::<Lease>(api, leases, &standings, &mut tasks);
    let mut seen = Seen {
        tally: Tally::new(rule, goal),
        nodes: BTreeMap::new(),
        listed: [false; 3],
    };
    loop {
        tokio::select! {
            Some(news) = objects.recv() => seen.object(news),
            Some(news) = pods.recv() => seen.pod(news),
            Some(news) = leases.recv() => seen.lease(news),
            () = sleep_until(end) => {
                let why = match seen.verdict() {
                    Some(Verdict::Done(nodes)) => return Ok(nodes),
                    Some(Verdict::Never(why) | Verdict::NotYet(why)) => why,
                    None => "the Kubernetes API has not answered".to_owned(),
                };
                return Err(format!("{why}{} (waited {limit:?})", away(&standings)));
            }
        }
        match seen.verdict() {
            Some(Verdict::Done(nodes)) => return Ok(nodes),
            Some(Verdict::Never(why)) => return Err(why),
            Some(Verdict::NotYet(_)) | None => {}
        }
    }
}

fn start<K: Object>(
    api: &ApiClient,
    selection: Selection,
    standings: &Standings,
    tasks: &mut JoinSet<()>,
) -> mpsc::Receiver<News<K>> {
    let standing: Standing = standings.add(selection.kind.plural);
    let (send, news) = mpsc::channel(MAX_PENDING);
    tasks.spawn(follow(api.clone(), selection, standing, send));
    news
}

/// What keeps the API from answering.
fn away(standings: &Standings) -> String {
    let shown = standings.shown().into_iter();
    let away = shown.filter_map(|one| Some(format!("; {}: {}", one.kind, one.away?.1)));
    away.collect()
}

struct Seen {
    tally: Tally,
    /// The node of each report.
    nodes: BTreeMap<Key, String>,
    /// Which of the three kinds have been listed.
    listed: [bool; 3],
}

impl Seen {
    /// `None` until everything is known.
    fn verdict(&self) -> Option<Verdict> {
        self.listed
            .iter()
            .all(|listed| *listed)
            .then(|| self.tally.verdict())
    }

    fn object(&mut self, news: News<Bare>) {
        match news {
            News::Put(Bare { metadata }) => {
                let key = metadata.key();
                self.tally.put(key, metadata.uid, metadata.generation);
            }
            News::Removed { key, .. } => self.tally.remove(&key),
            News::Synced => self.listed[0] = true,
            News::NotServed => {}
        }
        if self.listed[0] {
            self.tally.settled();
        }
    }

    fn pod(&mut self, news: News<Pod>) {
        match news {
            News::Put(pod) => {
                let ended = ["Succeeded", "Failed"].contains(&pod.status.phase.as_str());
                let stays = !ended && pod.metadata.deletion_timestamp.is_none();
                let node = pod.spec.node_name.filter(|node| !node.is_empty());
                let key = pod.metadata.key();
                if stays {
                    self.tally.agent(key, node);
                } else {
                    self.tally.no_agent(&key);
                }
            }
            News::Removed { key, .. } => self.tally.no_agent(&key),
            News::Synced => self.listed[1] = true,
            News::NotServed => {}
        }
    }

    fn lease(&mut self, news: News<Lease>) {
        match news {
            News::Put(lease) => {
                let text = lease.metadata.annotations.get(ANNOTATION);
                let report = text.and_then(|text| serde_json::from_str(text).ok());
                let node = lease.spec.holder_identity;
                self.nodes.insert(lease.metadata.key(), node.clone());
                self.tally.report(node, report);
            }
            News::Removed { key, .. } => {
                if let Some(node) = self.nodes.remove(&key) {
                    self.tally.report(node, None::<Report>);
                }
            }
            News::Synced => self.listed[2] = true,
            News::NotServed => {}
        }
    }
}
