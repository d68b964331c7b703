//! A follower of the agent in this process, and what it reported.

use egress_agent::config::Kubernetes;
use egress_agent::kubernetes::{
    ApiClient, Freshness, Kind, Limits, Metadata, News, Object, Selection, Shown, Standings,
    connect, follow,
};
use egress_tests::api::FakeApi;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

pub const PODS: Kind = Kind {
    group: "",
    versions: &["v1"],
    plural: "pods",
};

pub const SERVICE_ENTRIES: Kind = Kind {
    group: "networking.istio.io",
    versions: &["v1", "v1beta1", "v1alpha3"],
    plural: "serviceentries",
};

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Thing {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Value,
}

impl Object for Thing {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }
}

/// Objects that a follower reported, by name.
pub struct Following {
    news: mpsc::Receiver<News<Thing>>,
    standings: Standings,
    pub objects: BTreeMap<String, Thing>,
    /// How often everything was complete.
    pub synced: usize,
    pub not_served: usize,
    /// Reports of objects.
    pub puts: usize,
    // Dropped last: ends the follower.
    runtime: Runtime,
}

pub fn selection(kind: Kind) -> Selection {
    Selection {
        freshness: Freshness::Cached,
        limits: Limits {
            answer: Duration::from_secs(1),
            watch: 60,
            absent: Duration::from_secs(3),
        },
        ..Selection::all(kind)
    }
}

pub fn client(runtime: &Runtime, kubeconfig: PathBuf) -> ApiClient {
    let settings = Kubernetes {
        kubeconfig: Some(kubeconfig),
        ..Kubernetes::default()
    };
    runtime.block_on(connect(&settings)).unwrap()
}

pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

impl Following {
    pub fn start(api: &FakeApi, selection: Selection) -> Self {
        Self::by(api.kubeconfig().unwrap(), selection)
    }

    pub fn by(kubeconfig: PathBuf, selection: Selection) -> Self {
        let runtime = runtime();
        let client = client(&runtime, kubeconfig);
        let standings = Standings::default();
        let standing = standings.add(selection.kind.plural);
        let (sender, news) = mpsc::channel(16);
        runtime.spawn(follow(client, selection, standing, sender));
        Self {
            news,
            standings,
            objects: BTreeMap::new(),
            synced: 0,
            not_served: 0,
            puts: 0,
            runtime,
        }
    }

    /// Takes what comes until `fits`.
    pub fn until(&mut self, what: &str, within: Duration, fits: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + within;
        while !fits(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            // Also the standing, which changes without news, may be waited for.
            let step = left.min(Duration::from_millis(20));
            let next = self
                .runtime
                .block_on(async { tokio::time::timeout(step, self.news.recv()).await });
            if let Ok(news) = next {
                self.take(news.expect("the follower runs"));
            }
            assert!(
                !left.is_zero() || fits(self),
                "{what} within {within:?}: {:?}; {:?}",
                self.names(),
                self.standing()
            );
        }
    }

    fn take(&mut self, news: News<Thing>) {
        match news {
            News::Put(thing) => {
                self.puts += 1;
                self.objects.insert(thing.metadata.name.clone(), thing);
            }
            News::Removed { key, uid } => {
                let removed = self.objects.remove(&key.name).expect("known");
                assert_eq!(removed.metadata.uid, uid);
            }
            News::Synced => self.synced += 1,
            News::NotServed => self.not_served += 1,
        }
    }

    pub fn names(&self) -> Vec<&str> {
        self.objects.keys().map(String::as_str).collect()
    }

    pub fn standing(&self) -> Shown {
        self.standings.shown().remove(0)
    }

    /// Why the API server does not answer.
    pub fn problem(&self) -> String {
        self.standing()
            .away
            .map(|(_, problem)| problem)
            .unwrap_or_default()
    }
}
