//! How an upstream was lost before its response began, in Envoy's words.
//!
//! The reply that the client gets for it is in `local_reply`.

/// How an upstream was lost before its response began (Envoy `http/utility.cc`, `resetReasonToString`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamReset {
    /// The connection could not be made; the text is that of [`connect_failure`].
    ConnectFailure(String),
    /// The TLS handshake with the upstream failed, for this reason if one is known.
    TlsFailure(Option<String>),
    /// The connection was not made in time.
    ConnectTimeout,
    /// The upstream closed before its response headers.
    Termination,
    /// The upstream sent what is not an HTTP response.
    ProtocolError,
    /// A limit was reached: one of the cluster's, or the agent's own that the text names.
    Overflow(Option<&'static str>),
    /// The upstream reset the stream.
    RemoteReset,
    /// The upstream reset the stream before it looked at the request.
    RemoteRefused,
}

impl UpstreamReset {
    /// The transport's reason as the access log has it: without spaces, so that it is one field.
    pub fn logged_transport(&self) -> Option<String> {
        Some(self.transport()?.replace(' ', "_"))
    }

    /// The transport's reason, if one is known.
    pub fn transport(&self) -> Option<&str> {
        match self {
            Self::ConnectFailure(text) => Some(text),
            Self::TlsFailure(text) => text.as_deref(),
            Self::ConnectTimeout
            | Self::Termination
            | Self::ProtocolError
            | Self::Overflow(_)
            | Self::RemoteReset
            | Self::RemoteRefused => None,
        }
    }
}

/// The reason for a tunnel that an HTTP proxy did not open.
pub fn tunnel_failure(why: &str) -> UpstreamReset {
    UpstreamReset::ConnectFailure(format!("the tunnel's proxy did not open it: {why}"))
}

/// The transport's reason for a connection that could not be made. `text` is the system's, as in
/// `Connection refused`; `immediate` where `connect` itself said so, before the network could
/// (Envoy `network/connection_impl.cc`).
///
/// Envoy hides this text from the body since 1.38 (envoyproxy/envoy#44746) unless
/// `hide_transport_failure_reason_in_response_body` is off. It is sent here: the client is a workload
/// of the same owner, and the text is what people search for.
pub fn connect_failure(text: &str, immediate: bool) -> UpstreamReset {
    let when = if immediate { "immediate" } else { "delayed" };
    UpstreamReset::ConnectFailure(format!("{when} connect error: {text}"))
}
