//! Tables for the kernel: leases, desired tables, diff and the state machine that holds them.
