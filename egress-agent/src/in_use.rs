//! How much of a limited thing is in use: table entries, policies, what the proxy holds.

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InUse {
    /// In use.
    pub used: usize,
    /// The most that can be.
    pub limit: usize,
}
