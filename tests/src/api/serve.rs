//! The server's HTTP side: connections, faults, and the requests about objects.

use super::answers::{Refusal, json_answer, with_type};
use super::asked::{Asked, Verb};
use super::body::Outgoing;
use super::discovery;
use super::faults::Fault;
use super::selectors::Selectors;
use super::shared::Shared;
use super::store::{Resource, Store, name_of};
use super::table;
use super::watching::{self, typed};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

/// The most bytes of a request's body, as kube-apiserver has it.
const BODY_MOST: usize = 3 << 20;

/// Accepts connections until the task is aborted.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        // As Go's listeners do: otherwise an event waits for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        let served = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let _open = Open::new(&served);
            match served.tls.clone() {
                None => connection(stream, &served).await,
                Some(tls) => {
                    if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                        connection(stream, &served).await;
                    }
                }
            }
        });
        shared.serving(task.abort_handle());
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection<S>(stream: S, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        async move { answer(request, &shared).await }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // An error is a client that left, or a fault that was asked for.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
) -> Result<Response<Outgoing>, io::Error> {
    let path = request.uri().path();
    if ["/livez", "/readyz", "/healthz"].contains(&path) {
        return Ok(with_type(200, "text/plain", "ok".to_owned()));
    }
    let token = request.headers().get(AUTHORIZATION);
    if token.is_none_or(|value| value != &*format!("Bearer {}", shared.token)) {
        return Ok(Refusal::new(401, "Unauthorized", "Unauthorized").response());
    }
    if let Some(document) = shared.read(|store| discovery::document(store, path)) {
        return Ok(json_answer(200, &document));
    }
    let Some(asked) = Asked::of(request.method(), request.uri()) else {
        return Ok(Refusal::no_page().response());
    };
    let asked = asked.with_form(request.headers());
    let count = (asked.verb, asked.plural.clone());
    *shared.counts().entry(count).or_default() += 1;
    if asked.is_of_cache() {
        *shared.of_cache().entry(asked.plural.clone()).or_default() += 1;
    }
    match shared.fault(&asked) {
        None => {}
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Cut) => return Err(io::Error::other("a fault that a test asked for")),
        Some(Fault::Body(text)) => return Ok(with_type(200, "application/json", text)),
        Some(Fault::Status(code, reason)) => {
            return Ok(Refusal::new(code, reason, "a fault that a test asked for").response());
        }
        Some(Fault::RetryAfter(seconds)) => {
            let text =
                "The server has received too many requests and has asked us to try again later";
            let mut response = Refusal::new(429, "TooManyRequests", text).response();
            response
                .headers_mut()
                .insert(hyper::header::RETRY_AFTER, seconds.into());
            return Ok(response);
        }
    }
    let done = about_objects(request, &asked, shared).await;
    Ok(done.unwrap_or_else(|refusal| refusal.response()))
}

async fn about_objects(
    request: Request<Incoming>,
    asked: &Asked,
    shared: &Arc<Shared>,
) -> Result<Response<Outgoing>, Refusal> {
    let resource = shared.read(|store| served(store, asked))?;
    let one = |object: &Value| typed(&resource, &asked.version, object);
    let key = (asked.namespace.clone(), asked.name.clone());
    let current = || {
        let found = shared.read(|store| store.kinds.get(&asked.plural)?.objects.get(&key).cloned());
        found.ok_or_else(|| Refusal::not_found(&resource, &asked.name))
    };
    match asked.verb {
        Verb::Watch => watching::start(shared, asked),
        Verb::List => list(shared, asked, &resource),
        Verb::Get => Ok(json_answer(200, &one(&*current()?))),
        Verb::Delete => {
            let gone = shared
                .change(|store| store.delete(&asked.plural, &asked.namespace, &asked.name))?;
            Ok(json_answer(200, &one(&gone)))
        }
        Verb::Create => {
            let mut object = body(request).await?;
            if object["metadata"]["namespace"].is_null() && resource.namespaced {
                object["metadata"]["namespace"] = json!(asked.namespace);
            }
            let key = name_of(&resource, &object)?;
            let exists = shared
                .read(|store| Some(store.kinds.get(&asked.plural)?.objects.contains_key(&key)));
            if exists == Some(true) {
                let text = format!("{} \"{}\" already exists", resource.plural, key.1);
                return Err(Refusal::new(409, "AlreadyExists", text));
            }
            let stored = shared.change(|store| store.put(&asked.plural, object))?;
            Ok(json_answer(201, &one(&stored)))
        }
        Verb::Update | Verb::Patch => {
            let before = current()?;
            let merges = request.headers().get(CONTENT_TYPE);
            let merges = merges.is_some_and(|kind| kind == "application/merge-patch+json");
            if asked.verb == Verb::Patch && !merges {
                let text = "only application/merge-patch+json is supported by this server";
                return Err(Refusal::new(415, "UnsupportedMediaType", text));
            }
            let given = body(request).await?;
            let mut new = if asked.verb == Verb::Patch {
                merged((*before).clone(), &given)
            } else {
                given
            };
            let expected = new["metadata"]["resourceVersion"].as_str();
            if expected.is_some_and(|version| before["metadata"]["resourceVersion"] != version) {
                let text = format!(
                    "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your \
                     changes to the latest version and try again",
                    resource.plural, asked.name
                );
                return Err(Refusal::new(409, "Conflict", text));
            }
            if asked.subresource == "status" {
                let status = new["status"].take();
                new = (*before).clone();
                new["status"] = status;
            }
            new["metadata"]["uid"] = before["metadata"]["uid"].clone();
            let stored = shared.change(|store| store.put(&asked.plural, new))?;
            Ok(json_answer(200, &one(&stored)))
        }
    }
}

/// The kind that a request is about.
fn served(store: &Store, asked: &Asked) -> Result<Resource, Refusal> {
    let stored = store
        .kinds
        .get(&asked.plural)
        .ok_or_else(Refusal::no_page)?;
    let resource = &stored.resource;
    if resource.group != asked.group || !resource.versions.contains(&asked.version) {
        return Err(Refusal::no_page());
    }
    Ok(resource.clone())
}

fn list(
    shared: &Shared,
    asked: &Asked,
    resource: &Resource,
) -> Result<Response<Outgoing>, Refusal> {
    let selectors = Selectors::of(asked)?;
    let position = asked.parameter("resourceVersion");
    if asked.parameter("continue").is_some() && position.is_some() {
        let text = "specifying resource version is not allowed when using continue";
        return Err(Refusal::new(400, "BadRequest", text));
    }
    if asked.parameter("resourceVersionMatch").is_some() && position.is_none() {
        let text = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(Refusal::new(400, "BadRequest", text));
    }
    // The cache of a server has no pages.
    let limit = (!asked.is_of_cache()).then_some(asked);
    let limit = limit.and_then(|asked| {
        let limit = asked.parameter("limit")?;
        limit.parse().ok()
    });
    let limit: usize = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let (version, after, objects) = match asked.parameter("continue") {
        None => shared.read(|store| {
            let stored = store.kinds.get(&asked.plural);
            let objects = stored.map(|stored| Arc::clone(&stored.objects));
            (store.version, None, objects.unwrap_or_default())
        }),
        Some(token) => {
            let (version, after) = continued(token)
                .ok_or_else(|| Refusal::new(400, "BadRequest", "continue key is not valid"))?;
            let snapshot = (asked.plural.clone(), version);
            let objects = shared.read(|store| store.snapshots.get(&snapshot).cloned());
            (
                version,
                Some(after),
                objects.ok_or_else(Refusal::continue_expired)?,
            )
        }
    };
    let rest = objects
        .iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
    let mut fitting = rest.filter(|(_, object)| selectors.fits(object));
    let page: Vec<_> = fitting.by_ref().take(limit).collect();
    let left = fitting.count();
    // Objects of built-in kinds have no type of their own in a list.
    let shown = |object: &Value| {
        let mut shown = typed(resource, &asked.version, object);
        if resource.group.is_empty()
            && let Some(fields) = shown.as_object_mut()
        {
            fields.remove("apiVersion");
            fields.remove("kind");
        }
        shown
    };
    let table = asked.table && table::has(resource);
    let items: Vec<Value> = page.iter().map(|(_, object)| shown(object)).collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some((last, _)) = page.last().filter(|_| left > 0) {
        metadata["continue"] = json!(token(version, last));
        metadata["remainingItemCount"] = json!(left);
        let snapshot = (asked.plural.clone(), version);
        shared.change(|store| store.snapshots.insert(snapshot, Arc::clone(&objects)));
    }
    if table {
        return Ok(json_answer(200, &table::list(&metadata, &items)));
    }
    let list = json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(&asked.version),
        "metadata": metadata, "items": items,
    });
    Ok(json_answer(200, &list))
}

/// A token that clients cannot read.
fn token(version: u64, last: &(String, String)) -> String {
    let text = format!("{version}/{}/{}", last.0, last.1);
    text.bytes().fold(String::new(), |mut token, byte| {
        // Writing to a String does not fail.
        let _ = write!(token, "{byte:02x}");
        token
    })
}

fn continued(token: &str) -> Option<(u64, (String, String))> {
    let digits = (0..token.len()).step_by(2);
    let bytes = digits.map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok());
    let text = String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()?;
    let mut parts = text.splitn(3, '/');
    let version = parts.next()?.parse().ok()?;
    Some((
        version,
        (parts.next()?.to_owned(), parts.next()?.to_owned()),
    ))
}

async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let bad = |text: String| Refusal::new(400, "BadRequest", text);
    let body = Limited::new(request.into_body(), BODY_MOST).collect().await;
    let bytes = body.map_err(|error| bad(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

/// RFC 7396.
fn merged(mut target: Value, patch: &Value) -> Value {
    let Some(fields) = patch.as_object() else {
        return patch.clone();
    };
    if !target.is_object() {
        target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(object) = target.as_object_mut() {
                object.remove(name);
            }
        } else {
            target[name] = merged(target[name].take(), value);
        }
    }
    target
}
