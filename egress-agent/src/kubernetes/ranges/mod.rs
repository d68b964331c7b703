//! The cluster's own ranges (pods, Services, nodes, API servers, the node's DNS cache), found in the API and on the
//! node, and kept up to date. The engine allows them to every workload, like `internal` of the config.
//!
//! The last ranges are stored for the next agent, which starts with them while the API server is away.

mod collected;
mod collection;
mod node;
mod nodes;
mod objects;
mod row;

pub use collected::{Ranges, Use};

use super::{ApiClient, Freshness, Kind, News, Selection, Standing, Standings, follow};
use crate::state_file;
use collected::Collected;
use collection::Collection;
use objects::{CONFIG_MAPS, ConfigMap, EndpointSlice, IpPool, Service, ServiceCidr, Source};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// The most bytes of the stored ranges: 20 000 nodes.
const STORED_MOST: usize = 8 << 20;
/// Changes that come within this time are one: a list of nodes is many objects.
const TOGETHER: Duration = Duration::from_millis(50);
/// The source of single Services.
const SERVICES: &str = "services";
/// Objects that wait to be collected.
const QUEUE: usize = 256;

/// Finds the cluster's ranges. See the module.
pub struct RangeFinder {
    collection: Collection,
    /// Addresses that no range may contain.
    reserved: Vec<IpAddr>,
    file: PathBuf,
    current: watch::Sender<Arc<Ranges>>,
}

impl RangeFinder {
    /// Starts with the ranges that the previous agent with this admin socket stored.
    pub fn beside(admin_socket: &Path, reserved: Vec<IpAddr>) -> Self {
        let file = admin_socket.with_extension("ranges");
        let collected = read(&file).unwrap_or_else(|error| {
            let (file, error) = (file.display(), format!("{error:#}"));
            tracing::warn!(%file, error, "cannot use the cluster's ranges of the previous agent");
            Collected::default()
        });
        let ranges = collected.ranges(&reserved);
        Self {
            collection: Collection::new(collected),
            reserved,
            file,
            current: watch::Sender::new(Arc::new(ranges)),
        }
    }

    /// The present ranges, and each later version.
    pub fn ranges(&self) -> watch::Receiver<Arc<Ranges>> {
        self.current.subscribe()
    }

    /// Follows the API and the node. Does not return.
    pub async fn run(self, api: ApiClient, standings: Standings) {
        let collection = self.collection.clone();
        let (followed, client) = (standings.clone(), api.clone());
        let collect = move |source: &str| Collect {
            api: client.clone(),
            collection: collection.clone(),
            standing: followed.add_optional(source),
            source: source.to_owned(),
        };
        let unasked = || watch::Sender::new(None);
        let mut tasks = JoinSet::new();
        let standing = standings.add_optional("nodes");
        tasks.spawn(nodes::follow_nodes(
            api.clone(),
            standing,
            self.collection.clone(),
        ));
        let slice = one(EndpointSlice::KIND, "default", "kubernetes");
        tasks.spawn(collect("endpointslices").run::<EndpointSlice>(slice, unasked()));
        tasks.spawn(collect("ippools").run::<IpPool>(all(IpPool::KIND), unasked()));
        for name in CONFIG_MAPS {
            let map = one(ConfigMap::KIND, "kube-system", name);
            let collect = collect(&format!("configmaps/{name}"));
            tasks.spawn(collect.run::<ConfigMap>(map, unasked()));
        }
        let served = unasked();
        let known = served.subscribe();
        tasks.spawn(collect("servicecidrs").run::<ServiceCidr>(all(ServiceCidr::KIND), served));
        tasks.spawn(node::follow(self.collection.clone()));
        tasks.spawn(services(known, self.collection.clone(), move || {
            collect(SERVICES)
        }));
        self.publish().await;
    }

    /// Publishes and stores the ranges when they change.
    async fn publish(self) {
        loop {
            self.collection.changed().await;
            tokio::time::sleep(TOGETHER).await;
            let (ranges, text) = {
                let collected = self.collection.lock();
                let text = serde_json::to_string(&*collected).unwrap_or_default();
                (collected.ranges(&self.reserved), text)
            };
            if **self.current.borrow() == ranges {
                continue;
            }
            log(&self.current.borrow(), &ranges);
            self.current.send_replace(Arc::new(ranges));
            let file = self.file.clone();
            let write = move || state_file::write(&file, &text, STORED_MOST).map(drop);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                let (file, error) = (self.file.display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot store the cluster's ranges for the next agent");
            }
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Collected> {
    let text = state_file::read(file, STORED_MOST)?;
    Ok(text.map_or_else(
        || Ok(Collected::default()),
        |text| serde_json::from_str(&text),
    )?)
}

fn log(before: &Ranges, now: &Ranges) {
    let list = |of: Use| {
        let nets = now.found.get(&of).into_iter().flatten().take(8);
        nets.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    tracing::info!(
        pods = list(Use::Pods),
        services = list(Use::Services),
        nodes = now.found.get(&Use::Nodes).map_or(0, Vec::len),
        api_server = list(Use::ApiServer),
        "the cluster's own ranges are allowed"
    );
    for refused in now
        .refused
        .iter()
        .filter(|line| !before.refused.contains(line))
    {
        tracing::warn!(
            refused,
            "a range of the cluster is not allowed; add it to `internal` if it is meant"
        );
    }
}

/// Collects the ranges of one kind.
struct Collect {
    api: ApiClient,
    collection: Collection,
    standing: Standing,
    source: String,
}

impl Collect {
    /// Does not return. Sets `served` when it is known whether the server serves the kind.
    async fn run<S: Source>(self, selection: Selection, served: watch::Sender<Option<bool>>) {
        let (send, mut news) = mpsc::channel(QUEUE);
        let following = follow::<S>(self.api, selection, self.standing, send);
        let (collection, source) = (self.collection, self.source);
        let collecting = async {
            let mut first = Some(BTreeSet::new());
            while let Some(news) = news.recv().await {
                match news {
                    News::Put(object) => {
                        let key = object.metadata().key();
                        if let Some(listed) = &mut first {
                            listed.insert(key.to_string());
                        }
                        collection.change(|all| all.put(&source, &key, object.ranges()));
                    }
                    News::Removed { key, .. } => {
                        collection.change(|all| all.remove(&source, &key, S::ALWAYS));
                    }
                    News::Synced => {
                        // The previous agent may have stored objects that no longer exist.
                        if let Some(listed) = first.take() {
                            collection.change(|all| all.keep(&source, &listed, S::ALWAYS));
                        }
                        served.send_replace(Some(true));
                    }
                    News::NotServed => drop(served.send_replace(Some(false))),
                }
            }
        };
        tokio::join!(following, collecting);
    }
}

/// Follows the Services themselves if the server does not know their ranges.
async fn services(
    mut ranges: watch::Receiver<Option<bool>>,
    collection: Collection,
    collect: impl FnOnce() -> Collect,
) {
    let known = ranges.wait_for(Option::is_some).await.map(|known| *known);
    match known {
        Ok(Some(false)) => {
            let services = all(Service::KIND);
            collect()
                .run::<Service>(services, watch::Sender::new(None))
                .await;
        }
        // Those that the previous agent may have stored.
        Ok(_) => collection.change(|all| all.keep(SERVICES, &BTreeSet::new(), false)),
        Err(_) => {}
    }
}

/// All objects of a kind.
fn all(kind: Kind) -> Selection {
    Selection {
        freshness: Freshness::Cached,
        ..Selection::all(kind)
    }
}

/// One object.
fn one(kind: Kind, namespace: &str, name: &str) -> Selection {
    Selection {
        namespace: Some(namespace.to_owned()),
        fields: Some(format!("metadata.name={name}")),
        ..all(kind)
    }
}
