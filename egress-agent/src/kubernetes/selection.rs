//! What a follower asks the API server for.

use super::pause::random;
use super::problem::Problem;
use http::{HeaderValue, Request, header};
use kube::api::{ListParams, VersionMatch, WatchParams};
use std::time::Duration;

/// A kind of objects.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its API group, empty for the core group.
    pub group: &'static str,
    /// Its versions, the preferred one first. The first one that the server serves is used.
    pub versions: &'static [&'static str],
    /// Its name in paths.
    pub plural: &'static str,
}

impl Kind {
    /// Pods.
    pub const PODS: Self = Self {
        group: "",
        versions: &["v1"],
        plural: "pods",
    };
    /// Leases.
    pub const LEASES: Self = Self {
        group: "coordination.k8s.io",
        versions: &["v1"],
        plural: "leases",
    };
}

/// How recent the first list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The server's cache, which may be late. The watch delivers the rest. The cheapest for the server, which answers
    /// with everything at once.
    Cached,
    /// Nothing that was written before the request is missing. In pages.
    Latest,
}

/// What to follow.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The kind.
    pub kind: Kind,
    /// Only objects of this namespace.
    pub namespace: Option<String>,
    /// A selector of fields.
    pub fields: Option<String>,
    /// A selector of labels.
    pub labels: Option<String>,
    /// How recent the first list must be.
    pub freshness: Freshness,
    /// Limits of time.
    pub limits: Limits,
    /// Rows of the server's table instead of the objects, as `kubectl get` asks for them, if the server makes tables.
    pub table: bool,
}

/// What is accepted instead of objects.
const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1, application/json";

/// How long a follower waits for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For the head of an answer, and for each part of a list.
    pub answer: Duration,
    /// For the end of a watch, in seconds, less than 295. The server ends it then. Up to a fifth less is asked for, at
    /// random, so that nodes do not come back together.
    pub watch: u32,
    /// Until the objects of a kind that is not served any more are gone.
    pub absent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(20),
            watch: 290,
            absent: Duration::from_mins(1),
        }
    }
}

impl Selection {
    /// All objects of a kind.
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            fields: None,
            labels: None,
            freshness: Freshness::Latest,
            limits: Limits::default(),
            table: false,
        }
    }

    fn request(&self, version: usize) -> kube::core::Request {
        let version = self.kind.versions.get(version).copied().unwrap_or_default();
        let prefix = match self.kind.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        let namespace = self.namespace.as_ref();
        let namespace = namespace.map_or_else(String::new, |name| format!("/namespaces/{name}"));
        kube::core::Request::new(format!("{prefix}{namespace}/{}", self.kind.plural))
    }

    /// Asks for rows if they are wanted.
    fn formed(&self, mut request: Request<Vec<u8>>) -> Result<Request<Vec<u8>>, Problem> {
        if self.table {
            let uri = format!("{}&includeObject=None", request.uri());
            *request.uri_mut() = uri
                .parse()
                .map_err(|error: http::uri::InvalidUri| Problem::Malformed(error.to_string()))?;
            let accept = HeaderValue::from_static(TABLE);
            request.headers_mut().insert(header::ACCEPT, accept);
        }
        Ok(request)
    }

    /// A page of a list: the first one, or the one that `more` continues with. A list of the cache is one page, because
    /// `kube` asks no cache for a part.
    pub(super) fn page(
        &self,
        version: usize,
        freshness: Freshness,
        limit: u32,
        more: &str,
    ) -> Result<Request<Vec<u8>>, Problem> {
        let mut list = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            limit: Some(limit),
            ..ListParams::default()
        };
        if !more.is_empty() {
            list.continue_token = Some(more.to_owned());
        } else if freshness == Freshness::Cached {
            list.limit = None;
            list.resource_version = Some("0".to_owned());
            list.version_match = Some(VersionMatch::NotOlderThan);
        }
        let request = self.request(version).list(&list);
        self.formed(request.map_err(|error| Problem::Malformed(error.to_string()))?)
    }

    /// A watch from a position, and when the server ends it.
    pub(super) fn watch(
        &self,
        version: usize,
        position: &str,
    ) -> Result<(Request<Vec<u8>>, Duration), Problem> {
        let spread = Duration::from_secs((self.limits.watch / 5).into()).mul_f64(random());
        let spread = u32::try_from(spread.as_secs()).unwrap_or_default();
        let seconds = self.limits.watch.saturating_sub(spread).max(1);
        let watch = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(seconds),
            ..WatchParams::default()
        };
        let request = self.request(version).watch(&watch, position);
        let request =
            self.formed(request.map_err(|error| Problem::Malformed(error.to_string()))?)?;
        Ok((request, Duration::from_secs(seconds.into())))
    }
}
