//! Reads and writes single objects of the API server. Their content is the caller's.

use super::client::ApiClient;
use super::problem::Problem;
use http::{Method, Request, header};
use serde_json::Value;
use std::time::Duration;

/// The limit of one request.
const WITHIN: Duration = Duration::from_secs(10);
/// The most bytes of an object. The API server takes at most 3 MiB in a request; a Node lists up to fifty images.
const MAX_OBJECT_SIZE: usize = 4 << 20;

impl ApiClient {
    /// The namespace of the service account or of the kubeconfig's context.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// The object of a path.
    pub async fn get(&self, path: &str) -> Result<Value, Problem> {
        self.one(Method::GET, path, None).await
    }

    /// Creates an object in the collection of a path. [`Problem::is_conflict`] if there is one of its name.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Problem> {
        let json = "application/json";
        self.one(Method::POST, path, Some((json, object))).await
    }

    /// Replaces the object of a path. [`Problem::is_conflict`] if it has changed since its `resourceVersion`.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value, Problem> {
        let json = "application/json";
        self.one(Method::PUT, path, Some((json, object))).await
    }

    /// Changes the object of a path by a JSON merge patch (RFC 7396). [`Problem::is_conflict`] if the change has a
    /// `resourceVersion` and the object has another one.
    pub async fn merge(&self, path: &str, change: &Value) -> Result<Value, Problem> {
        let merge = "application/merge-patch+json";
        self.one(Method::PATCH, path, Some((merge, change))).await
    }

    async fn one(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, Problem> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((kind, _)) = body {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let body = body.map(|(_, value)| value.to_string().into_bytes());
        let request = request.body(body.unwrap_or_default());
        let request = request.map_err(|error| Problem::Malformed(error.to_string()))?;
        let answer = self.ask(request, WITHIN).await?;
        let text = answer.whole(MAX_OBJECT_SIZE, WITHIN).await?;
        serde_json::from_slice(&text).map_err(|error| Problem::malformed(&error))
    }
}
