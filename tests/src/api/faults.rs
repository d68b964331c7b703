//! What a server may do instead of answering.

use super::asked::Asked;
use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub enum Fault {
    /// No answer, while the connection stays.
    Hang,
    /// The answer, later.
    Slow(Duration),
    /// An error status with this reason.
    Status(u16, &'static str),
    /// Overloaded: 429 with `Retry-After` in seconds.
    RetryAfter(u64),
    /// 200 with this body.
    Body(String),
    /// The connection breaks without an answer.
    Cut,
}

/// Decides about each request.
pub(super) type Decide = Box<dyn Fn(&Asked) -> Option<Fault> + Send + Sync>;
