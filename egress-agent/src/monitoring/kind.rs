//! The kinds of metrics.

/// What a metric is, in Prometheus' terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the agent runs.
    Counter,
    /// A current value.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// Its spelling in a TYPE line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
