//! The validating webhook: the API server asks it about each of Istio's objects that someone writes, and denies the write of
//! an invalid one with the words of `check`.
//!
//! `review` judges, `server` owns the listener and its limits, `certificate` the listener's certificate.

mod certificate;
mod review;
mod server;

pub use server::serve_reviews;
