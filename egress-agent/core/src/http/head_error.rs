//! Why a request head is rejected: the answer to the client, and the reason in the log.
//!
//! It reads no head.

use super::local_reply::LocalReply;
use super::target::{DEL, TargetError};
use crate::routing::DenialReason;
use thiserror::Error;

/// Why a head is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeadError {
    /// It is not an HTTP head.
    #[error("{0}")]
    Malformed(httparse::Error),
    /// The head is larger than the limit.
    #[error("the request head is over the size limit")]
    TooLarge,
    /// Requests of this workload, or of all workloads, take all the memory.
    #[error("no memory left for the request")]
    NoRoom,
    /// More than [`MAX_HEADERS`](super::request_head::MAX_HEADERS) fields.
    #[error("the request has more than 100 headers")]
    TooManyHeaders,
    /// Not one of Envoy's methods.
    #[error("unknown method")]
    Method,
    /// HTTP, but not 1.1.
    #[error("not HTTP/1.1")]
    Version,
    /// See [`TargetError`].
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A `transfer-encoding` other than one `chunked`.
    #[error("a transfer-encoding other than chunked")]
    TransferEncoding,
    /// A `content-length` that is not a number, or more than one.
    #[error("a content-length that is not one number")]
    ContentLength,
    /// The classic request smuggling (RFC 9112 §6.3).
    #[error("both content-length and transfer-encoding")]
    FramedTwice,
    /// `connection` names `x-forwarded-for`, `-host` or `-proto`, a pseudo-header field, or over nine fields (Envoy
    /// `sanitizeConnectionHeader`).
    #[error("connection names fields that may not be removed, or too many")]
    Connection,
    /// QUERY without a `content-type` (draft-ietf-httpbis-safe-method-w-body §2).
    #[error("QUERY without a content-type")]
    QueryType,
    /// No Host line.
    #[error("no Host")]
    NoHost,
    /// A Host with a byte that no authority has.
    #[error("the Host has a byte that no host has")]
    BadHost,
    /// CONNECT: no route of Istio has a connect matcher.
    #[error("CONNECT")]
    Connect,
}

impl HeadError {
    /// Envoy's answer. The connection is then closed.
    pub fn reply(&self) -> LocalReply {
        match self {
            Self::TooLarge => LocalReply::head_too_large(),
            Self::TooManyHeaders => LocalReply::head_too_large().detailed("http1.too_many_headers"),
            Self::NoRoom => LocalReply::overloaded(),
            Self::TransferEncoding => LocalReply::not_implemented(),
            Self::Version => LocalReply::upgrade_required(),
            Self::NoHost | Self::Target(TargetError::Nul) => LocalReply::bad_request(),
            Self::QueryType => LocalReply::bad_request().detailed("query_missing_content_type"),
            Self::Connect => LocalReply::no_route(),
            Self::Malformed(httparse::Error::HeaderValue)
            | Self::Target(TargetError::BadByte(DEL)) => {
                LocalReply::malformed().detailed("http1.invalid_characters")
            }
            Self::FramedTwice => {
                LocalReply::malformed().detailed("http1.content_length_and_chunked_not_allowed")
            }
            Self::BadHost => LocalReply::malformed().detailed("http.invalid_authority"),
            Self::Connection => {
                LocalReply::malformed().detailed("http1.connection_header_rejected")
            }
            Self::Target(TargetError::Asterisk | TargetError::Url) => {
                LocalReply::malformed().detailed("http1.invalid_url")
            }
            Self::Target(TargetError::Scheme) => {
                LocalReply::malformed().detailed("http1.invalid_scheme")
            }
            Self::Malformed(_) | Self::Method | Self::Target(_) | Self::ContentLength => {
                LocalReply::malformed()
            }
        }
    }

    /// What the log says.
    pub fn reason(&self) -> DenialReason {
        match self {
            Self::Version => DenialReason::Http10,
            Self::NoHost => DenialReason::AmbiguousHost,
            Self::Connect => DenialReason::Connect,
            Self::NoRoom => DenialReason::MemoryLimit,
            Self::Malformed(_)
            | Self::TooLarge
            | Self::TooManyHeaders
            | Self::Method
            | Self::Target(_)
            | Self::TransferEncoding
            | Self::ContentLength
            | Self::FramedTwice
            | Self::QueryType
            | Self::Connection
            | Self::BadHost => DenialReason::MalformedHttp(self.to_string()),
        }
    }
}
