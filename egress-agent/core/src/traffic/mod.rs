//! The action and policy of a route and the policy of a cluster, as typed values. The registry builds them, and the
//! proxy carries them out.
//!
//! The code between the two passes them on without reading them: a new field of a rule is read here
//! and carried out in the proxy. Decides nothing about a flow.

mod client_tls;
mod cluster_id;
mod cluster_policy;
mod http_action;
mod retry_on;
mod retry_policy;
mod route_policy;

pub use client_tls::{CertificateFiles, ClientTls, Verify};
pub use cluster_id::ClusterId;
pub use cluster_policy::{ClusterPolicy, MergedPolicy};
pub use http_action::{HttpAction, NoAction};
pub use retry_on::{Condition, RetryOn};
pub use retry_policy::RetryPolicy;
pub use route_policy::RoutePolicy;
