//! What the agent logs and counts about itself and about the flows that it judged. No verdict depends on it.

#[cfg(test)]
pub(crate) mod captured;
pub mod cgroups;
pub mod counters;
pub mod denials;
pub mod deny;
pub mod event;
pub mod families;
pub mod finished;
pub mod flows;
pub mod histogram;
pub mod limit;
pub mod log;
pub mod pod_denials;
pub mod readiness;
pub mod repeats;
pub mod sorting;
pub mod tally;
pub mod throttle;
pub mod trouble;
