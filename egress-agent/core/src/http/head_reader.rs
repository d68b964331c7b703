//! Gathers the bytes of a client connection until there is a whole request head.
//!
//! `request_head` has the rules for a head.

use super::head_error::HeadError;
use super::looks::Looks;
use super::request_head::{Head, parse};

/// Bytes of memory for a head of usual size, which are kept between two heads.
const KEPT: usize = 2048;

/// The result of the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadOutcome {
    /// A valid beginning.
    NeedMore,
    /// A whole head.
    Head(Head),
    /// The proxy itself must answer.
    Rejected(HeadError),
}

/// Gathers the bytes of one head after the other.
#[derive(Debug)]
pub struct HeadReader {
    raw: Vec<u8>,
    limit: usize,
    http10: bool,
    looks: Looks,
}

impl HeadReader {
    /// A reader for heads of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            raw: Vec::new(),
            limit,
            http10: false,
            looks: Looks::default(),
        }
    }

    /// Takes HTTP/1.0 as well.
    #[must_use]
    pub fn accepting_http10(mut self) -> Self {
        self.http10 = true;
        self
    }

    /// Takes bytes of the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        // The buffer does not double: many connections may hold an unfinished head.
        if self.raw.capacity() - self.raw.len() < bytes.len() {
            self.raw.reserve_exact(bytes.len().max(KEPT));
        }
        self.raw.extend_from_slice(bytes);
    }

    /// Gives back the memory that no bytes are in.
    pub fn rest(&mut self) {
        self.raw.shrink_to_fit();
    }

    /// Puts bytes back in front. They follow the body of the last request.
    pub fn push_back(&mut self, bytes: &[u8]) {
        self.raw.splice(..0, bytes.iter().copied());
    }

    /// Bytes that were pushed and are not part of a returned head.
    pub fn pending(&self) -> &[u8] {
        &self.raw
    }

    /// Takes up to `most` of the pending bytes, which belong to a body.
    pub fn take(&mut self, most: usize) -> Vec<u8> {
        let rest = self.raw.split_off(most.min(self.raw.len()));
        std::mem::replace(&mut self.raw, rest)
    }

    /// Looks for a head at the beginning of the pending bytes, and takes it.
    pub fn next_head(&mut self) -> HeadOutcome {
        // Empty lines before a request line are to be ignored (RFC 9112 §2.2).
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        if self.looks.is_fresh() && self.raw.first().is_some_and(is_end) {
            let end = self.raw.iter().take_while(|byte| is_end(byte)).count();
            // A lone CR may be the first half of a line's end.
            let keep = usize::from(end == self.raw.len() && self.raw.last() == Some(&b'\r'));
            self.raw.drain(..end - keep);
            if self.raw.len() == keep {
                return HeadOutcome::NeedMore;
            }
        }
        if self.raw.is_empty() {
            return HeadOutcome::NeedMore;
        }
        if !self.looks.is_due(&self.raw, self.limit) {
            return HeadOutcome::NeedMore;
        }
        match parse(&self.raw, self.limit, self.http10) {
            Ok(None) => HeadOutcome::NeedMore,
            Ok(Some((head, used))) => {
                self.raw.drain(..used);
                // The next head of the same size needs no new memory. `rest` gives it back.
                if self.raw.capacity() > KEPT {
                    self.raw.shrink_to(self.raw.len());
                }
                self.looks = Looks::default();
                HeadOutcome::Head(head)
            }
            Err(error) => HeadOutcome::Rejected(error),
        }
    }
}
