//! What names and answers can do to the gate: carry data out, lead to addresses that nobody serves, fill its memory, or
//! reach another workload.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bounds;
mod forged;
mod leaks;
mod setting;
mod unusual;
mod workloads;
