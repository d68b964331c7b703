//! The ranges of nodes. A watch of the server's table shows which node must be read, and only that one is.
//!
//! A new node is in force within about [`SPREAD`]. All nodes are read once if many are unknown, and again after
//! [`ALL`], because a row has not every address of a node.

use super::collection::Collection;
use super::objects::{Node, Source as _};
use super::row::NodeRow;
use crate::kubernetes::pause::{Pause, random};
use crate::kubernetes::{
    ApiClient, Freshness, Key, News, Object as _, Problem, Selection, Standing, follow,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// The source's name in the collection.
const SOURCE: &str = "nodes";
/// Each agent reads a changed node at a random time within this, so that thousands of agents do not ask at once.
const SPREAD: Duration = Duration::from_secs(1);
/// More nodes than this are read with one list.
const SINGLY: usize = 32;
/// The longest time until all nodes are read again; half of it is random.
const ALL: Duration = Duration::from_hours(12);
/// News that wait.
const QUEUE: usize = 256;

/// Follows the nodes. Does not return.
pub(super) async fn follow_nodes(api: ApiClient, standing: Standing, collection: Collection) {
    let (send, mut news) = mpsc::channel(QUEUE);
    let selection = Selection {
        freshness: Freshness::Cached,
        table: true,
        ..Selection::all(NodeRow::KIND)
    };
    let following = follow::<NodeRow>(api.clone(), selection, standing, send);
    let mut nodes = Nodes::new(collection);
    let reading = async {
        let mut pause = Pause::default();
        let mut all_at = Instant::now() + spread(ALL);
        loop {
            tokio::select! {
                news = news.recv() => match news {
                    Some(news) => nodes.take(news),
                    None => return,
                },
                () = at(nodes.at) => match nodes.read(&api).await {
                    Ok(()) => pause.reset(),
                    Err(problem) => {
                        tracing::warn!(%problem, nodes = nodes.due.len(), "cannot read nodes whose addresses may have changed; trying again");
                        nodes.at = Some(Instant::now() + pause.after(&problem, random()));
                    }
                },
                () = sleep_until(all_at) => {
                    all_at = Instant::now() + spread(ALL);
                    nodes.read_all_soon();
                }
            }
        }
    };
    tokio::join!(following, reading);
}

/// Half of a time and a random part of the other half.
fn spread(time: Duration) -> Duration {
    time.mul_f64(random() / 2.0 + 0.5)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Nodes {
    collection: Collection,
    /// The mark of each node's row, and the addresses in it.
    rows: BTreeMap<String, (String, Vec<IpAddr>)>,
    /// Nodes to be read.
    due: BTreeSet<String>,
    /// All of them are to be read.
    all: bool,
    /// When.
    at: Option<Instant>,
    /// Nodes of the first list, until it is complete.
    first: Option<BTreeSet<String>>,
    /// Of all nodes as they are, not as rows.
    whole: Selection,
}

impl Nodes {
    fn new(collection: Collection) -> Self {
        Self {
            collection,
            rows: BTreeMap::new(),
            due: BTreeSet::new(),
            all: false,
            at: None,
            first: Some(BTreeSet::new()),
            whole: Selection {
                freshness: Freshness::Cached,
                ..Selection::all(Node::KIND)
            },
        }
    }

    fn take(&mut self, news: News<NodeRow>) {
        match news {
            News::Put(row) => self.put(row),
            News::Removed { key, .. } => {
                self.rows.remove(&key.name);
                self.due.remove(&key.name);
                self.collection
                    .change(|all| all.remove(SOURCE, &key, Node::ALWAYS));
            }
            News::Synced => {
                // The previous agent may have stored nodes that no longer exist.
                if let Some(listed) = self.first.take() {
                    self.collection
                        .change(|all| all.keep(SOURCE, &listed, Node::ALWAYS));
                    if !self.due.is_empty() {
                        self.at = Some(Instant::now());
                    }
                }
            }
            News::NotServed => {}
        }
    }

    fn put(&mut self, row: NodeRow) {
        let key = row.metadata().key();
        let name = key.name.clone();
        if let Some(listed) = &mut self.first {
            listed.insert(key.to_string());
        }
        if let Some(ranges) = row.whole {
            self.collection.change(|all| all.put(SOURCE, &key, ranges));
            return;
        }
        let differs = match self.rows.get(&name) {
            Some((before, _)) => *before != row.mark,
            // Ranges that the previous agent stored are those of the node if they have its address.
            None => !self.collection.lock().has(SOURCE, &key, &row.addresses),
        };
        self.rows.insert(name.clone(), (row.mark, row.addresses));
        if differs {
            self.due.insert(name);
            // The first list comes in parts.
            if self.first.is_none() {
                self.at
                    .get_or_insert_with(|| Instant::now() + SPREAD.mul_f64(random()));
            }
        }
    }

    fn read_all_soon(&mut self) {
        self.all = true;
        self.at.get_or_insert_with(Instant::now);
    }

    /// Reads the nodes that are due.
    async fn read(&mut self, api: &ApiClient) -> Result<(), Problem> {
        self.at = None;
        if self.all || self.due.len() > SINGLY {
            let mut read = Vec::new();
            let take = |node: Node| read.push(node);
            api.each(&mut self.whole, take).await?;
            self.all = false;
            // The cache of this server may be behind the watch: a node without the row's address stays due.
            for node in read {
                let ranges = node.ranges();
                let row = self.rows.get(&node.metadata().name);
                let has = |ip: &IpAddr| ranges.iter().any(|found| found.net == IpNet::from(*ip));
                if row
                    .is_some_and(|(_, addresses)| addresses.is_empty() || addresses.iter().any(has))
                {
                    self.found(&node);
                }
            }
        }
        while let Some(name) = self.due.first().cloned() {
            let mut selection = Selection {
                fields: Some(format!("metadata.name={name}")),
                ..Selection::all(Node::KIND)
            };
            let mut read = None;
            let take = |node: Node| read = Some(node);
            api.each(&mut selection, take).await?;
            match read {
                Some(node) => self.found(&node),
                // It is gone since, which the watch reports.
                None => drop(self.due.remove(&name)),
            }
        }
        Ok(())
    }

    fn found(&mut self, node: &Node) {
        let key: Key = node.metadata().key();
        self.due.remove(&key.name);
        // The watch may have reported its end meanwhile.
        if self.rows.contains_key(&key.name) {
            self.collection
                .change(|all| all.put(SOURCE, &key, node.ranges()));
        }
    }
}
