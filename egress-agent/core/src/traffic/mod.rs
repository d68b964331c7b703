//! The action and policy of a route and the policy of a cluster, as typed values. The registry builds them, and the
//! proxy carries them out.
//!
//! The code between the two passes them on without reading them: a new field of a rule is read here
//! and carried out in the proxy. Decides nothing about a flow.

pub mod balance;
mod client_tls;
mod cluster_id;
mod cluster_policy;
mod connection_pool;
mod cors;
mod fault;
mod header_changes;
mod http_action;
mod merged_policy;
pub mod mirror;
mod outlier_detection;
#[cfg(test)]
mod outlier_detection_tests;
mod path_spec;
mod proxy_protocol;
mod redirect;
mod retry_on;
mod retry_policy;
mod rewrite;
mod route_policy;
mod string_test;
mod tunnel;
mod upstream_protocol;

pub use balance::{Balance, Cookie, HashOn};
pub use client_tls::{Authorities, CertificateFiles, ClientCertificate, ClientTls, Verify};
pub use cluster_id::ClusterId;
pub use cluster_policy::ClusterPolicy;
pub use connection_pool::{ConnectionPool, Keepalive, RetryLimit};
pub use cors::{Cors, CorsStep};
pub use fault::{AbortWith, Fault, Fraction};
pub use header_changes::{HeaderChanges, HeaderOps};
pub use http_action::{DirectResponse, HttpAction, NoAction};
pub use merged_policy::MergedPolicy;
pub use outlier_detection::{Outcome, OutlierDetection, Outliers};
pub use path_spec::PathSpec;
pub use proxy_protocol::ProxyProtocol;
pub use redirect::{Redirect, RedirectedFrom};
pub use retry_on::{Condition, RetryOn};
pub use retry_policy::RetryPolicy;
pub use rewrite::Rewrite;
pub use route_policy::{RouteName, RoutePolicy};
pub use string_test::StringTest;
pub use tunnel::{Framing, Tunnel};
pub use upstream_protocol::UpstreamProtocol;

pub(crate) use header_changes::missing as missing_headers;
pub(crate) use redirect::has_status as has_redirect_status;
pub(crate) use rewrite::has_regex as has_rewrite_regex;
pub(crate) use string_test::is_broken as is_broken_match;
