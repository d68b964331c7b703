//! A format of the access log, from Istio's `accessLogEncoding` and `accessLogFormat` to a line.

use super::command::Command;
use super::entry::Entry;
use super::json::Node;
use super::text::{BadFormat, commands, push_pieces};
use crate::http::format::{Named, Piece, pieces};
use http::HeaderName;

/// The most bytes of a format that a user writes.
const SIZE: usize = 16 * 1024;
/// The most commands in it.
const COMMANDS: usize = 100;

/// Istio's default text (`pilot/pkg/model/telemetry_logging.go`, `EnvoyTextLogFormat`).
pub const ISTIO_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
    \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
    %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// Istio's default object (the same file, `EnvoyJSONLogFormatIstio`).
pub const ISTIO_JSON: &str = r#"{
    "authority": "%REQ(:AUTHORITY)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "route_name": "%ROUTE_NAME%",
    "start_time": "%START_TIME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "user_agent": "%REQ(USER-AGENT)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%"
}"#;

/// How a finished flow becomes a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessFormat {
    form: Form,
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Text(Vec<Piece<Command>>),
    Json(Node),
}

impl AccessFormat {
    /// Lines of text. Without a `format`, Istio's default.
    ///
    /// # Errors
    ///
    /// What is wrong about the format.
    pub fn text(format: Option<&str>) -> Result<Self, BadFormat> {
        let text = bounded(format.unwrap_or(ISTIO_TEXT))?;
        if text.contains(['\n', '\r']) {
            return Err(BadFormat::LineBreak);
        }
        Self::of(Form::Text(pieces(text, Command::known)?))
    }

    /// A JSON object a line. Without a `format`, which is an object too, Istio's default.
    ///
    /// # Errors
    ///
    /// What is wrong about the format.
    pub fn json(format: Option<&str>) -> Result<Self, BadFormat> {
        Self::of(Form::Json(Node::new(bounded(
            format.unwrap_or(ISTIO_JSON),
        )?)?))
    }

    fn of(form: Form) -> Result<Self, BadFormat> {
        let (mut request, mut response, mut count) = (Vec::new(), Vec::new(), 0);
        let mut count_in = |command: &Command| {
            count += 1;
            match command {
                Command::Request(named) => note_names(named, &mut request),
                Command::Response(named) => note_names(named, &mut response),
                Command::Plain(_) => {}
            }
        };
        match &form {
            Form::Text(pieces) => commands(pieces, &mut count_in),
            Form::Json(node) => node.commands(&mut count_in),
        }
        if count > COMMANDS {
            return Err(BadFormat::TooMany);
        }
        Ok(Self {
            form,
            request,
            response,
        })
    }

    /// The headers of a request that a line needs.
    pub fn request_headers(&self) -> &[HeaderName] {
        &self.request
    }

    /// The headers of a response that a line needs.
    pub fn response_headers(&self) -> &[HeaderName] {
        &self.response
    }

    /// The line of an entry, with its line break.
    pub fn line(&self, entry: &Entry<'_>) -> String {
        let mut line = String::with_capacity(512);
        match &self.form {
            Form::Text(pieces) => {
                push_pieces(pieces, entry, &mut line, String::push_str);
            }
            Form::Json(node) => node.push(entry, &mut line),
        }
        line.push('\n');
        line
    }
}

/// The text without the line breaks at its end.
fn bounded(text: &str) -> Result<&str, BadFormat> {
    if text.len() > SIZE {
        return Err(BadFormat::TooLong);
    }
    Ok(text.trim_end_matches(['\n', '\r']))
}

fn note_names(named: &Named, to: &mut Vec<HeaderName>) {
    for name in [Some(&named.name), named.other.as_ref()]
        .into_iter()
        .flatten()
    {
        // A pseudo-header is none.
        if let Ok(name) = HeaderName::try_from(name.as_str())
            && !to.contains(&name)
        {
            to.push(name);
        }
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
