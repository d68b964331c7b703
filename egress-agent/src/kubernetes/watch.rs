//! Follows the objects of one kind: a list in pages, then a watch from there, for ever.
//!
//! What is known stays known while the API server is away or answers nonsense. Each failure is followed by a pause.
//! `kube::runtime::watcher` is not used: it starts a watch that ends at once again without a pause, reads on after an
//! event that it could not decode, and has no limit for the size of an answer.

use super::client::ApiClient;
use super::known::{Change, Known};
use super::list::{Asked, PAGE, Page};
use super::meta::{Key, Object};
use super::pause::{Pause, random};
use super::problem::Problem;
use super::request::Line;
use super::selection::{Freshness, Selection};
use super::standing::Standing;
use kube::core::WatchEvent;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// The most bytes of one event: etcd holds 1.5 MiB for one object.
const EVENT_MOST: usize = 16 << 20;
/// The most objects of a kind.
const OBJECTS_MOST: usize = 200_000;
/// A watch that ends sooner is a failure.
const LASTING: Duration = Duration::from_secs(1);

/// A change of what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<K> {
    /// An object is there, or changed.
    Put(K),
    /// An object is gone.
    Removed {
        /// Its name.
        key: Key,
        /// Its uid.
        uid: String,
    },
    /// Everything that was there at one time was reported. Follows each complete list.
    Synced,
    /// The server does not serve the kind. Objects that were reported stay known for a minute. Reported once, until a
    /// list succeeds.
    NotServed,
}

/// Follows until nobody receives the news any more.
pub async fn follow<K: Object>(
    api: ApiClient,
    selection: Selection,
    standing: Standing,
    news: mpsc::Sender<News<K>>,
) {
    let follower = Follower {
        api,
        standing,
        news,
        known: Known::default(),
        position: None,
        version: 0,
        page: PAGE,
        freshness: selection.freshness,
        expired: false,
        lasted: false,
        not_served: false,
        absent: None,
        selection,
    };
    follower.run().await;
}

struct Follower<K> {
    api: ApiClient,
    selection: Selection,
    standing: Standing,
    news: mpsc::Sender<News<K>>,
    known: Known,
    /// The resource version from which to watch; without one, a list is due.
    position: Option<String>,
    /// The index of the kind's version in use.
    version: usize,
    /// Objects of a page.
    page: u32,
    /// How recent the next list must be.
    freshness: Freshness,
    /// The last position was expired, and no watch has lasted since.
    expired: bool,
    /// The last watch was not a failure from the start.
    lasted: bool,
    /// [`News::NotServed`] was reported.
    not_served: bool,
    /// Since when nothing else than "not served" was answered.
    absent: Option<Instant>,
}

/// Why a list or a watch ended.
enum End {
    /// Nobody receives the news.
    Unwanted,
    /// Something failed.
    Problem(Problem),
}

impl From<Problem> for End {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl<K: Object> Follower<K> {
    async fn run(mut self) {
        let mut pause = Pause::default();
        let receiver = self.news.clone();
        loop {
            let ended = tokio::select! {
                ended = self.list_or_watch() => ended,
                () = receiver.closed() => return,
            };
            if std::mem::take(&mut self.lasted) {
                pause.reset();
                self.expired = false;
            }
            let problem = match ended {
                Ok(()) => continue,
                Err(End::Unwanted) => return,
                Err(End::Problem(problem)) => problem,
            };
            match self.goes_on_after(&problem).await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(_) => return,
            }
            match &problem {
                Problem::NotServed => self.standing.not_served(),
                problem => self.standing.failed(&problem.to_string()),
            }
            tokio::select! {
                () = sleep(pause.after(&problem, random())) => {}
                () = receiver.closed() => return,
            }
        }
    }

    async fn list_or_watch(&mut self) -> Result<(), End> {
        match self.position.clone() {
            Some(position) => self.watch(&position).await,
            None => self.list().await,
        }
    }

    /// Draws the conclusion from a problem. Returns whether the next attempt needs no pause.
    async fn goes_on_after(&mut self, problem: &Problem) -> Result<bool, End> {
        if *problem != Problem::NotServed {
            self.absent = None;
        }
        Ok(match problem {
            Problem::Expired => {
                self.position = None;
                self.freshness = Freshness::Latest;
                !std::mem::replace(&mut self.expired, true)
            }
            Problem::NotServed => {
                self.position = None;
                self.version = (self.version + 1) % self.selection.kind.versions.len().max(1);
                if self.version == 0 {
                    self.is_absent().await?;
                }
                self.version != 0
            }
            // An event was lost, or the position is one that the server never had.
            Problem::Malformed(_) | Problem::Status(..) => {
                self.position = None;
                false
            }
            // Everything at once. It will not be smaller the next time.
            Problem::TooLarge(_)
                if self.position.is_none() && self.freshness == Freshness::Cached =>
            {
                self.freshness = Freshness::Latest;
                self.selection.freshness = Freshness::Latest;
                true
            }
            Problem::TooLarge(_) => {
                self.position = None;
                self.page = (self.page / 4).max(1);
                false
            }
            Problem::Unreachable(_)
            | Problem::Broken(_)
            | Problem::Silent(_)
            | Problem::NoWatch
            | Problem::Unauthorized(_)
            | Problem::Forbidden(_)
            | Problem::Overloaded(..) => false,
        })
    }

    /// No version of the kind is served. A kind that is uninstalled takes its objects along, but another server of the
    /// cluster may only be late: objects are gone after some time.
    async fn is_absent(&mut self) -> Result<(), End> {
        if !std::mem::replace(&mut self.not_served, true) {
            self.tell(News::NotServed).await?;
        }
        let since = *self.absent.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.selection.limits.absent {
            for (key, uid) in self.known.keep(&BTreeSet::new()) {
                self.tell(News::Removed { key, uid }).await?;
            }
            self.standing.holds(0);
        }
        Ok(())
    }

    /// Reads everything, and reports what differs from what is known.
    async fn list(&mut self) -> Result<(), End> {
        let mut listed = BTreeSet::new();
        let mut more = String::new();
        let mut restored = false;
        let position = loop {
            let is_first = more.is_empty();
            let page = self.next_page(&more).await?;
            let version = page.metadata.resource_version;
            if version.is_empty() {
                let text = "a list without resourceVersion".to_owned();
                return Err(Problem::Malformed(text).into());
            }
            if is_first && self.known.is_behind(&version) {
                if self.freshness == Freshness::Cached {
                    // The cache of another server, which is behind that of the one before.
                    self.freshness = Freshness::Latest;
                    continue;
                }
                // The cluster was restored from a backup.
                restored = true;
            }
            let before = listed.len();
            for object in page.items {
                listed.insert(named(&object)?);
                self.put(object, restored).await?;
            }
            more = page.metadata.r#continue;
            if more.is_empty() {
                break version;
            }
            if listed.len() == before {
                return Err(Problem::Malformed("a list that does not end".to_owned()).into());
            }
        };
        for (key, uid) in self.known.keep(&listed) {
            self.tell(News::Removed { key, uid }).await?;
        }
        self.known.has_seen(&position);
        self.position = Some(position);
        self.freshness = self.selection.freshness;
        self.not_served = false;
        self.absent = None;
        self.standing.synced(self.known.len());
        self.tell(News::Synced).await
    }

    async fn next_page(&self, more: &str) -> Result<Page<K>, Problem> {
        let asked = Asked {
            version: self.version,
            freshness: self.freshness,
            limit: self.page,
            more,
        };
        let page = self.api.page(&self.selection, &asked).await?;
        self.standing.heard();
        Ok(page)
    }

    /// Reports changes from `position` until the server ends the watch.
    async fn watch(&mut self, position: &str) -> Result<(), End> {
        let (request, ends) = self.selection.watch(self.version, position)?;
        let within = self.selection.limits.answer;
        let mut answer = self.api.ask(request, within).await?;
        self.standing.heard();
        let began = Instant::now();
        let patience = ends + within;
        loop {
            let until = began + if self.lasted { patience } else { LASTING };
            match answer.line(EVENT_MOST, until).await? {
                Line::Text(line) if line.iter().all(u8::is_ascii_whitespace) => {}
                Line::Text(line) => {
                    self.standing.heard();
                    let event = serde_json::from_slice(line);
                    let event = event.map_err(|error| Problem::malformed(&error))?;
                    self.take(event).await?;
                }
                Line::End if self.lasted => return Ok(()),
                Line::End => return Err(Problem::NoWatch.into()),
                Line::Late if self.lasted => return Err(Problem::Silent(patience).into()),
                Line::Late => {
                    self.lasted = true;
                    self.standing.answered();
                }
            }
        }
    }

    async fn take(&mut self, event: WatchEvent<K>) -> Result<(), End> {
        let version = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = object.metadata().resource_version.clone();
                self.put(object, false).await?;
                version
            }
            WatchEvent::Deleted(object) => {
                let key = named(&object)?;
                let metadata = object.metadata();
                if self.known.remove(metadata) {
                    let uid = metadata.uid.clone();
                    self.tell(News::Removed { key, uid }).await?;
                }
                metadata.resource_version.clone()
            }
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
            WatchEvent::Error(status) => {
                return Err(Problem::status(status.code, &status.message, None).into());
            }
        };
        if version.is_empty() {
            return Err(Problem::Malformed("an event without resourceVersion".to_owned()).into());
        }
        if !self.known.is_behind(&version) {
            self.known.has_seen(&version);
            self.position = Some(version);
        }
        self.standing.holds(self.known.len());
        Ok(())
    }

    /// Reports an object that is not known.
    async fn put(&mut self, object: K, restored: bool) -> Result<(), End> {
        let key = named(&object)?;
        match self.known.put(object.metadata(), restored) {
            Change::Nothing => return Ok(()),
            Change::Object => {}
            Change::Instead(uid) => self.tell(News::Removed { key, uid }).await?,
        }
        if self.known.len() > OBJECTS_MOST {
            return Err(Problem::Malformed(format!("more than {OBJECTS_MOST} objects")).into());
        }
        self.tell(News::Put(object)).await
    }

    async fn tell(&self, news: News<K>) -> Result<(), End> {
        let sent = self.news.send(news).await;
        sent.map_err(|_| End::Unwanted)
    }
}

/// The name of an object, which every object has.
fn named<K: Object>(object: &K) -> Result<Key, Problem> {
    let key = object.metadata().key();
    if key.name.is_empty() {
        return Err(Problem::Malformed("an object without a name".to_owned()));
    }
    Ok(key)
}
