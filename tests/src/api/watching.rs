//! A running watch: turns the history into events for one client.

use super::answers::Refusal;
use super::asked::Asked;
use super::body::Outgoing;
use super::selectors::Selectors;
use super::shared::Shared;
use super::store::{Change, Resource};
use super::table;
use bytes::Bytes;
use hyper::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// What a test tells running watches.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Bookmark,
    Bytes(String),
}

/// A watch that runs.
pub(super) struct Running {
    pub(super) plural: String,
    pub(super) tell: mpsc::UnboundedSender<Told>,
}

struct Watch {
    shared: Arc<Shared>,
    plural: String,
    version: String,
    selectors: Selectors,
    bookmarks: bool,
    table: bool,
    /// Changes up to this version were sent.
    from: u64,
    ends: Option<Instant>,
    lines: mpsc::Sender<Bytes>,
    told: mpsc::UnboundedReceiver<Told>,
}

/// Starts a watch, or says why not.
pub(super) fn start(shared: &Arc<Shared>, asked: &Asked) -> Result<Response<Outgoing>, Refusal> {
    let selectors = Selectors::of(asked)?;
    let given = asked.parameter("resourceVersion").unwrap_or("0");
    let given: u64 = given
        .parse()
        .map_err(|_| Refusal::new(400, "BadRequest", "invalid resource version"))?;
    let (current, compacted) = shared.read(|store| (store.version, store.compacted));
    if given > current {
        let text = format!("Too large resource version: {given}, current: {current}");
        return Err(Refusal::new(504, "Timeout", text));
    }
    let (lines, body) = mpsc::channel(16);
    let mut response = Response::new(Outgoing::Lines(body));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    let seconds = asked
        .parameter("timeoutSeconds")
        .and_then(|s| s.parse().ok());
    let (tell, told) = mpsc::unbounded_channel();
    let watch = Watch {
        shared: Arc::clone(shared),
        plural: asked.plural.clone(),
        version: asked.version.clone(),
        selectors,
        bookmarks: asked.parameter("allowWatchBookmarks") == Some("true"),
        table: asked.table,
        from: given,
        ends: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        lines,
        told,
    };
    shared.watching(Running {
        plural: asked.plural.clone(),
        tell,
    });
    // As kube-apiserver does, an error after this is an event in an answer with status 200.
    let expired = given != 0 && given < compacted;
    tokio::spawn(async move {
        if expired {
            let status = Refusal::expired(given, compacted).status();
            let _ = watch.send("ERROR", &status).await;
        } else {
            let _ = watch.run().await;
        }
    });
    Ok(response)
}

/// The client is gone, or the kind.
struct Over;

impl Watch {
    async fn run(mut self) -> Result<(), Over> {
        let mut changed = self.shared.changed();
        if self.from == 0 {
            let (objects, version) = self
                .shared
                .read(|store| {
                    Some((
                        Arc::clone(&store.kinds.get(&self.plural)?.objects),
                        store.version,
                    ))
                })
                .ok_or(Over)?;
            for object in objects.values().filter(|o| self.selectors.fits(o)) {
                self.send_object("ADDED", object).await?;
            }
            self.from = version;
        }
        loop {
            self.catch_up().await?;
            let ends = async {
                match self.ends {
                    Some(ends) => sleep_until(ends).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changed.changed() => change.map_err(|_| Over)?,
                told = self.told.recv() => match told {
                    Some(Told::Bookmark) if self.bookmarks => self.bookmark().await?,
                    Some(Told::Bytes(text)) => self.write(text.into()).await?,
                    Some(Told::Bookmark) => {}
                    None => return Err(Over),
                },
                () = ends => return Ok(()),
                () = self.lines.closed() => return Err(Over),
            }
        }
    }

    /// Sends the changes since the last call. Ends if the kind is gone and its last changes were sent.
    async fn catch_up(&mut self) -> Result<(), Over> {
        let (changes, gone) = self.shared.read(|store| {
            let stored = store
                .kinds
                .get(&self.plural)
                .or_else(|| store.former.get(&self.plural));
            let history = stored.map(|stored| stored.history.iter());
            let new = history
                .into_iter()
                .flatten()
                .filter(|c| c.version > self.from);
            let gone = !store.kinds.contains_key(&self.plural);
            (new.cloned().collect::<Vec<Change>>(), gone)
        });
        for change in changes {
            self.from = change.version;
            let fitted = change
                .before
                .as_ref()
                .is_some_and(|b| self.selectors.fits(b));
            let fits = !change.deleted && self.selectors.fits(&change.after);
            match (fitted, fits) {
                (false, false) => {}
                (false, true) => self.send_object("ADDED", &change.after).await?,
                (true, true) => self.send_object("MODIFIED", &change.after).await?,
                (true, false) => self.send_object("DELETED", &change.after).await?,
            }
        }
        if gone { Err(Over) } else { Ok(()) }
    }

    async fn bookmark(&self) -> Result<(), Over> {
        let Some(resource) = self.resource() else {
            return Err(Over);
        };
        let version = self.shared.read(|store| store.version);
        let object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(&self.version),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        self.send("BOOKMARK", &object).await
    }

    fn resource(&self) -> Option<Resource> {
        self.shared
            .read(|store| Some(store.kinds.get(&self.plural)?.resource.clone()))
    }

    async fn send_object(&self, kind: &str, object: &Value) -> Result<(), Over> {
        let resource = self.shared.read(|store| {
            let stored = store
                .kinds
                .get(&self.plural)
                .or_else(|| store.former.get(&self.plural));
            stored.map(|stored| stored.resource.clone())
        });
        let resource = resource.ok_or(Over)?;
        let typed = typed(&resource, &self.version, object);
        if self.table && table::has(&resource) {
            return self.send(kind, &table::event(&typed)).await;
        }
        self.send(kind, &typed).await
    }

    async fn send(&self, kind: &str, object: &Value) -> Result<(), Over> {
        // kube-apiserver writes `type` first.
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.write(line.into()).await
    }

    async fn write(&self, bytes: Bytes) -> Result<(), Over> {
        self.lines.send(bytes).await.map_err(|_| Over)
    }
}

/// An object in one of the versions of its kind.
pub(super) fn typed(resource: &Resource, version: &str, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(resource.api_version(version));
    object["kind"] = json!(resource.kind);
    object
}
