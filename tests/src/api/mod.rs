//! An API server of Kubernetes for tests, in this process: lists in pages, watches, bookmarks, writes, discovery, and the
//! faults of real servers on request.
//!
//! It answers as kube-apiserver 1.36 does, as far as a client that follows objects can tell: a client that works with it
//! must work with the real one. It has no admission and no schemas. `store` keeps the objects, `serve` speaks HTTP.

mod answers;
mod asked;
mod body;
mod discovery;
mod faults;
mod kinds;
mod selectors;
mod serve;
mod shared;
mod store;
mod table;
mod watching;

pub use asked::{Asked, Verb};
pub use faults::Fault;
pub use kinds::KINDS;
pub use store::Resource;

use crate::folder::folder;
use crate::hosts::Authority;
use crate::netns::NetNs;
use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use store::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The token that a kubeconfig of the server has.
const TOKEN: &str = "token-of-a-test";

/// How long a listening socket may take to close.
const FREE_WITHIN: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends it.
pub struct FakeApi {
    runtime: Option<Runtime>,
    shared: Arc<shared::Shared>,
    address: SocketAddr,
    dir: TempDir,
    /// Where connections are accepted.
    accepting: Option<tokio::task::AbortHandle>,
    authority: Option<Authority>,
}

impl FakeApi {
    /// A server at a free port of 127.0.0.1, over plain HTTP, that knows pods and namespaces.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Self::build(listener, runtime()?, None)
    }

    /// The same over TLS, with HTTP/2.
    pub fn start_tls() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Self::build(listener, runtime()?, Some(Authority::new()?))
    }

    /// The same as [`Self::start`] in another network namespace.
    pub fn start_in(netns: &NetNs) -> Result<Self> {
        let (listener, runtime) = netns.run(|| -> Result<_> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            Ok((listener, runtime()?))
        })??;
        Self::build(listener, runtime, None)
    }

    fn build(
        listener: TcpListener,
        runtime: Runtime,
        authority: Option<Authority>,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let tls = match &authority {
            None => None,
            Some(authority) => {
                let config = authority.server(&["127.0.0.1"])?;
                let mut config = Arc::unwrap_or_clone(config);
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                Some(Arc::new(config))
            }
        };
        let mut store = Store::default();
        store.install(Resource::core("Pod", "pods", true));
        store.install(Resource::core("Namespace", "namespaces", false));
        let mut api = Self {
            runtime: Some(runtime),
            shared: Arc::new(shared::Shared::new(store, tls, TOKEN)),
            address,
            dir: folder("api")?,
            accepting: None,
            authority,
        };
        api.accept(listener)?;
        Ok(api)
    }

    fn accept(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let runtime = self.runtime.as_ref().context("a running server")?;
        let task = runtime.spawn(serve::accept(listener, Arc::clone(&self.shared)));
        self.accepting = Some(task.abort_handle());
        Ok(())
    }

    /// Listens in another network namespace too, at the same address.
    pub fn listen_in(&self, netns: &NetNs) -> Result<()> {
        let listener = netns.run(|| TcpListener::bind(self.address))??;
        listener.set_nonblocking(true)?;
        let runtime = self.runtime.as_ref().context("a running server")?;
        // It ends with the runtime.
        runtime.spawn(serve::accept(listener, Arc::clone(&self.shared)));
        Ok(())
    }

    /// `http://127.0.0.1:PORT`, or `https`.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let authority = self.authority.as_ref().map(Authority::path);
        self.write_kubeconfig("kubeconfig", authority, TOKEN)
    }

    /// The same with another token and another authority.
    pub fn write_kubeconfig(
        &self,
        name: &str,
        authority: Option<&Path>,
        token: &str,
    ) -> Result<PathBuf> {
        let mut cluster = json!({"server": self.url()});
        if let Some(authority) = authority {
            cluster["certificate-authority"] = json!(authority);
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        let path = self.dir.path().join(name);
        std::fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Serves a kind from here on.
    pub fn install(&self, resource: Resource) {
        self.shared.change(|store| store.install(resource));
    }

    /// Deletes a kind with its objects. Watches see the deletions and end.
    pub fn uninstall(&self, plural: &str) {
        self.shared.change(|store| store.uninstall(plural));
    }

    /// Creates an object, or replaces the one of its name. The server's fields (uid, creationTimestamp, resourceVersion,
    /// generation) are filled in; a uid that is given stays. Returns the object as stored.
    pub fn put(&self, plural: &str, object: Value) -> Result<Value> {
        let put = |store: &mut Store| store.put(plural, object);
        self.shared
            .change(put)
            .map_err(|error| anyhow!("{error:?}"))
    }

    /// Deletes an object.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<()> {
        let deleted = |store: &mut Store| store.delete(plural, namespace, name);
        let gone = self.shared.change(deleted);
        gone.map(drop).map_err(|error| anyhow!("{error:?}"))
    }

    /// Answers each request from here on as `fault` says; `None` is no fault.
    pub fn fault(&self, fault: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static) {
        self.shared.set_fault(Some(Box::new(fault)));
    }

    /// Ends the faults of [`Self::fault`].
    pub fn no_fault(&self) {
        self.shared.set_fault(None);
    }

    /// Drops the history: watches and pages from before are answered with 410 Gone. Running watches stay.
    pub fn compact(&self) {
        self.shared.change(Store::compact);
    }

    /// Sends a bookmark to each watch that asked for bookmarks.
    pub fn bookmark(&self) {
        self.shared.bookmark();
    }

    /// Sends bytes into each watch of a kind; a line ends with a newline.
    pub fn inject(&self, plural: &str, bytes: &str) {
        self.shared.inject(plural, bytes);
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Breaks all connections and refuses further ones.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let free = || self.bind().ok();
            drop(crate::wait_until("the port is free", FREE_WITHIN, free)?);
        }
        self.cut();
        Ok(())
    }

    /// Accepts connections again after [`Self::stop`], at the same address.
    pub fn start_again(&mut self) -> Result<()> {
        let bound = || self.bind().ok();
        let listener = crate::wait_until("the port is free", FREE_WITHIN, bound)?;
        self.accept(listener)
    }

    /// Listens, on a thread of the runtime, which is in the server's network namespace.
    fn bind(&self) -> Result<TcpListener> {
        let runtime = self.runtime.as_ref().context("a running server")?;
        let address = self.address;
        let bound = runtime.spawn(async move { TcpListener::bind(address) });
        Ok(runtime.block_on(bound)??)
    }

    /// An object as it is stored.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Value> {
        let key = (namespace.to_owned(), name.to_owned());
        let found = self
            .shared
            .read(|store| store.kinds.get(plural)?.objects.get(&key).cloned());
        found
            .map(|object| (*object).clone())
            .with_context(|| format!("no {plural} {name}"))
    }

    /// All objects of a kind.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let objects = self.shared.read(|store| {
            let stored = store.kinds.get(plural);
            stored.map(|stored| Arc::clone(&stored.objects))
        });
        let objects = objects.unwrap_or_default();
        objects.values().map(|object| (**object).clone()).collect()
    }

    /// How many requests there were since the start, without those for discovery.
    pub fn requests(&self, verb: Verb, plural: &str) -> usize {
        self.shared
            .counts()
            .get(&(verb, plural.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// The same of all kinds.
    pub fn all_requests(&self) -> usize {
        self.shared.counts().values().sum()
    }

    /// How many lists of a kind were asked of the server's cache, which answers each as a whole.
    pub fn lists_of_cache(&self, plural: &str) -> usize {
        let counts = self.shared.of_cache();
        counts.get(plural).copied().unwrap_or_default()
    }

    /// Running watches of a kind.
    pub fn watches(&self, plural: &str) -> usize {
        self.shared.watches(plural)
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A runtime whose threads are in the caller's network namespace.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("api")
        .enable_all()
        .build();
    Ok(runtime?)
}
