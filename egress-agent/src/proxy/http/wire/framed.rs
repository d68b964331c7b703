//! Finds the end of the running request's body.
//!
//! It keeps no bytes.

use egress_core::http::chunked::{ChunkError, ChunkScanner, Scanned};
use egress_core::http::request_head::Framing;

/// A body that has not ended.
pub(super) enum Framed {
    Length(u64),
    Chunked(ChunkScanner),
}

impl Framed {
    /// `None` where there is no body.
    pub(super) fn new(framing: Framing) -> Option<Self> {
        match framing {
            Framing::Length(0) => None,
            Framing::Length(length) => Some(Self::Length(length)),
            Framing::Chunked => Some(Self::Chunked(ChunkScanner::default())),
        }
    }

    /// How many of the next bytes belong to the body, and whether it ends with them.
    pub(super) fn scan(&mut self, fresh: &[u8]) -> Result<Scanned, ChunkError> {
        match self {
            Self::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX);
                let used = used.min(fresh.len());
                *left -= used as u64;
                let ended = *left == 0;
                Ok(Scanned { used, ended })
            }
            Self::Chunked(scanner) => scanner.scan(fresh),
        }
    }
}
