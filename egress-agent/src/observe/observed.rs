//! What `status` shows of what was observed.

use super::denials::DenialCounts;
use super::flows::FlowLog;
use std::sync::Arc;

/// What was observed since the start, for `status`. Clones are one and the same.
#[derive(Clone, Default)]
pub struct Observed {
    /// Flows through the proxy.
    pub flows: Arc<FlowLog>,
    /// Denials of the kernel.
    pub denied: DenialCounts,
}
