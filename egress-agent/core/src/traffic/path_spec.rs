//! What a route's match says of the path: the part of the path that a rewrite replaces, and the name of the route's
//! operation in a trace.
//!
//! It matches nothing.

use crate::istio::fields::StringMatch;
use std::fmt;
use std::sync::Arc;

/// The path of one match (Istio `TranslateRouteMatch`).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PathSpec {
    /// The match does not ask for a path, which is the prefix `/`.
    #[default]
    Any,
    /// A prefix.
    Prefix(Arc<str>),
    /// A whole path.
    Exact(Arc<str>),
    /// An expression for a whole path.
    Regex(Arc<str>),
}

impl PathSpec {
    /// From the `uri` of a match.
    pub fn new(uri: &StringMatch) -> Self {
        match uri {
            StringMatch::Present => Self::Any,
            StringMatch::Exact(path) => Self::Exact(path.as_str().into()),
            StringMatch::Prefix(prefix) => Self::Prefix(prefix.as_str().into()),
            StringMatch::Regex(expression) => Self::Regex(expression.as_str().into()),
        }
    }

    /// How many bytes of a path (without its query) that matches are replaced by a rewrite: the prefix, or all of it.
    pub(super) fn replaced(&self, path: &str) -> usize {
        let prefix = match self {
            Self::Any => 1,
            Self::Prefix(prefix) => prefix.len(),
            Self::Exact(_) | Self::Regex(_) => path.len(),
        };
        prefix.min(path.len())
    }
}

/// As the operation of a trace has it (Istio `GetRouteOperation`).
impl fmt::Display for PathSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("/*"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Exact(path) | Self::Regex(path) => f.write_str(path),
        }
    }
}
