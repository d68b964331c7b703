//! HTTP facts: host matching, local replies, the headers that a sidecar adds.
