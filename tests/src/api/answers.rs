//! The server's answers: JSON bodies and `Status` objects with the codes and reasons of kube-apiserver.

use super::body::Outgoing;
use super::store::Resource;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// An error of a request.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    /// `None`: the path is not served, which is answered in plain text.
    reason: Option<&'static str>,
    message: String,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let (reason, message) = (Some(reason), message.into());
        Self {
            code,
            reason,
            message,
        }
    }

    /// Of a path that the server does not know, such as that of a kind that is not installed.
    pub(super) fn no_page() -> Self {
        let message = "404 page not found\n".to_owned();
        Self {
            code: 404,
            reason: None,
            message,
        }
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        let group = match resource.group.as_str() {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let message = format!("{}{group} \"{name}\" not found", resource.plural);
        Self::new(404, "NotFound", message)
    }

    pub(super) fn invalid(resource: &Resource, text: &str) -> Self {
        Self::new(
            422,
            "Invalid",
            format!("{} is invalid: {text}", resource.kind),
        )
    }

    /// Of a position whose history is gone.
    pub(super) fn expired(version: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {version} ({oldest})"),
        )
    }

    /// Of a page whose snapshot is gone.
    pub(super) fn continue_expired() -> Self {
        Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        )
    }

    /// Its `Status` object.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason.unwrap_or_default(), "code": self.code,
        })
    }

    pub(super) fn response(&self) -> Response<Outgoing> {
        match self.reason {
            Some(_) => with_type(self.code, "application/json", self.status().to_string()),
            None => with_type(self.code, "text/plain; charset=utf-8", self.message.clone()),
        }
    }
}

/// A JSON answer.
pub(super) fn json_answer(code: u16, value: &Value) -> Response<Outgoing> {
    with_type(code, "application/json", value.to_string())
}

/// An answer of a type.
pub(super) fn with_type(code: u16, kind: &'static str, text: String) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::whole(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    let value = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, value);
    response
}
