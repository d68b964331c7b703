//! `VirtualService`: what is done with a request or connection whose host is known.

use super::decode::macros::{enums, messages};
use super::decode::values::Bytes;
use super::duration::TimeSpan;
use super::fields::{Destination, Percent, StringMatch};
use std::collections::BTreeMap;

enums! {
    /// Which port a redirect without an explicit one names.
    RedirectPortSelection = "HTTPRedirect.RedirectPortSelection" {
        /// 80 or 443.
        FromProtocolDefault = "0" "FROM_PROTOCOL_DEFAULT",
        /// The one that was dialled.
        FromRequestPort = "1" "FROM_REQUEST_PORT",
    }

    /// What happens to CORS preflights of other origins.
    UnmatchedPreflights = "CorsPolicy.UnmatchedPreflights" {
        /// As `FORWARD`.
        Unspecified = "0" "UNSPECIFIED",
        /// Sent upstream.
        Forward = "1" "FORWARD",
        /// Answered without CORS headers.
        Ignore = "2" "IGNORE",
    }
}

messages! {
    /// Routes for hosts (`networking/v1alpha3/virtual_service.proto`).
    VirtualService {
        /// Hosts that it is for; empty only in a delegate.
        hosts: Vec<String> = "hosts",
        /// Gateways that it is for; empty means `mesh`, all workloads.
        gateways: Vec<String> = "gateways",
        /// Routes for HTTP ports, in order.
        http: Vec<HttpRoute> = "http",
        /// Routes for TLS ports, in order.
        tls: Vec<TlsRoute> = "tls",
        /// Routes for TCP ports, in order.
        tcp: Vec<TcpRoute> = "tcp",
        /// Namespaces that see it: `.`, `*` or names; empty means all.
        export_to: Vec<String> = "exportTo",
    }

    /// One rule for HTTP requests.
    HttpRoute {
        /// Name, for logs.
        name: String = "name",
        /// Requests that it is for, any of them; empty means all.
        r#match: Vec<HttpMatchRequest> = "match",
        /// Where requests go, by weight.
        route: Vec<HttpRouteDestination> = "route",
        /// Answer with a redirect.
        redirect: Option<HttpRedirect> = "redirect",
        /// Answer with a fixed response.
        direct_response: Option<HttpDirectResponse> = "directResponse",
        /// Take the routes from another `VirtualService`.
        delegate: Option<Delegate> = "delegate",
        /// Changes of path and authority.
        rewrite: Option<HttpRewrite> = "rewrite",
        /// From the end of the request to the end of the response; unset means no limit.
        timeout: Option<TimeSpan> = "timeout",
        /// Retries; unset means Istio's default policy.
        retries: Option<HttpRetry> = "retries",
        /// Faults to inject.
        fault: Option<HttpFaultInjection> = "fault",
        /// Where a copy goes.
        mirror: Option<Destination> = "mirror",
        /// Where copies go; excludes `mirror`.
        mirrors: Vec<HttpMirrorPolicy> = "mirrors",
        /// Deprecated form of `mirror_percentage`.
        mirror_percent: Option<u32> = "mirrorPercent",
        /// Share of requests that `mirror` copies; unset means all.
        mirror_percentage: Option<Percent> = "mirrorPercentage",
        /// Cross-origin rules.
        cors_policy: Option<CorsPolicy> = "corsPolicy",
        /// Changes of headers.
        headers: Option<Headers> = "headers",
    }

    /// Another `VirtualService` that holds the routes.
    Delegate {
        /// Its name.
        name: String = "name",
        /// Its namespace; empty means the same.
        namespace: String = "namespace",
    }

    /// Changes of headers on the way there and back.
    Headers {
        /// Of the request.
        request: Option<HeaderOperations> = "request",
        /// Of the response.
        response: Option<HeaderOperations> = "response",
    }

    /// Changes of headers.
    HeaderOperations {
        /// Headers to replace.
        set: BTreeMap<String, String> = "set",
        /// Headers to append.
        add: BTreeMap<String, String> = "add",
        /// Headers to remove.
        remove: Vec<String> = "remove",
    }

    /// One rule for TLS connections that are not decrypted.
    TlsRoute {
        /// Connections that it is for, any of them.
        r#match: Vec<TlsMatchAttributes> = "match",
        /// Where they go, by weight.
        route: Vec<RouteDestination> = "route",
    }

    /// One rule for TCP connections.
    TcpRoute {
        /// Connections that it is for, any of them; empty means all.
        r#match: Vec<L4MatchAttributes> = "match",
        /// Where they go, by weight.
        route: Vec<RouteDestination> = "route",
    }

    /// What a request must be like, all of it.
    HttpMatchRequest {
        /// Name, for logs.
        name: String = "name",
        /// The path without its query.
        uri: Option<StringMatch> = "uri",
        /// `http` or `https`.
        scheme: Option<StringMatch> = "scheme",
        /// The method.
        method: Option<StringMatch> = "method",
        /// The authority as the client sent it.
        authority: Option<StringMatch> = "authority",
        /// Headers by name.
        headers: BTreeMap<String, StringMatch> = "headers",
        /// The port that was dialled; 0 means any.
        port: u32 = "port",
        /// Labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// Gateways, instead of the `VirtualService`'s own.
        gateways: Vec<String> = "gateways",
        /// Query parameters by name.
        query_params: BTreeMap<String, StringMatch> = "queryParams",
        /// Compare an exact or prefix `uri` without case.
        ignore_uri_case: bool = "ignoreUriCase",
        /// Headers that must not match.
        without_headers: BTreeMap<String, StringMatch> = "withoutHeaders",
        /// Namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
        /// Prefix of statistics.
        stat_prefix: String = "statPrefix",
    }

    /// A weighted destination of requests.
    HttpRouteDestination {
        /// Where to.
        destination: Option<Destination> = "destination",
        /// Share among the destinations, relative to their sum.
        weight: i32 = "weight",
        /// Changes of headers.
        headers: Option<Headers> = "headers",
    }

    /// A weighted destination of connections.
    RouteDestination {
        /// Where to.
        destination: Option<Destination> = "destination",
        /// Share among the destinations, relative to their sum.
        weight: i32 = "weight",
    }

    /// What a connection must be like, all of it.
    L4MatchAttributes {
        /// Addresses or CIDRs that were dialled.
        destination_subnets: Vec<String> = "destinationSubnets",
        /// The port that was dialled; 0 means any.
        port: u32 = "port",
        /// Deprecated; no effect.
        source_subnet: String = "sourceSubnet",
        /// Labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// Gateways, instead of the `VirtualService`'s own.
        gateways: Vec<String> = "gateways",
        /// Namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
    }

    /// What a TLS connection must be like, all of it.
    TlsMatchAttributes {
        /// Server names, each within one of the `VirtualService`'s hosts.
        sni_hosts: Vec<String> = "sniHosts",
        /// Addresses or CIDRs that were dialled.
        destination_subnets: Vec<String> = "destinationSubnets",
        /// The port that was dialled; 0 means any.
        port: u32 = "port",
        /// Labels of the client's workload.
        source_labels: BTreeMap<String, String> = "sourceLabels",
        /// Gateways, instead of the `VirtualService`'s own.
        gateways: Vec<String> = "gateways",
        /// Namespace of the client's workload.
        source_namespace: String = "sourceNamespace",
    }

    /// A redirect as the answer.
    HttpRedirect oneof("port" | "derivePort") {
        /// New path.
        uri: String = "uri",
        /// New authority.
        authority: String = "authority",
        /// New port.
        port: Option<u32> = "port",
        /// New port by rule.
        derive_port: Option<RedirectPortSelection> = "derivePort",
        /// New scheme.
        scheme: String = "scheme",
        /// Status; 0 means 301.
        redirect_code: u32 = "redirectCode",
        /// What replaces the matched prefix.
        prefix_rewrite: String = "prefixRewrite",
    }

    /// A fixed answer.
    HttpDirectResponse {
        /// Status.
        status: u32 = "status",
        /// Body; unset means empty.
        body: Option<HttpBody> = "body",
    }

    /// A body, as text or bytes.
    HttpBody oneof("string" | "bytes") {
        /// As text.
        string: Option<String> = "string",
        /// As bytes.
        bytes: Option<Bytes> = "bytes",
    }

    /// Changes of path and authority.
    HttpRewrite {
        /// Replaces the matched prefix, or the whole path after an exact or regex match.
        uri: String = "uri",
        /// Replaces the authority.
        authority: String = "authority",
        /// Replaces by regular expression.
        uri_regex_rewrite: Option<RegexRewrite> = "uriRegexRewrite",
    }

    /// A replacement by regular expression.
    RegexRewrite {
        /// RE2 expression.
        r#match: String = "match",
        /// Replacement with `\1` for groups.
        rewrite: String = "rewrite",
    }

    /// How often and when to try again.
    HttpRetry {
        /// Retries after the first try; 0 means none.
        attempts: i32 = "attempts",
        /// Limit of each try; unset means the route's timeout.
        per_try_timeout: Option<TimeSpan> = "perTryTimeout",
        /// Conditions and status codes, with commas; empty means the default ones.
        retry_on: String = "retryOn",
        /// Go to other localities.
        retry_remote_localities: Option<bool> = "retryRemoteLocalities",
        /// Avoid hosts that were tried.
        retry_ignore_previous_hosts: Option<bool> = "retryIgnorePreviousHosts",
        /// Base of the waits; unset means 25 ms.
        backoff: Option<TimeSpan> = "backoff",
    }

    /// Cross-origin rules.
    CorsPolicy {
        /// Deprecated form of `allow_origins`.
        allow_origin: Vec<String> = "allowOrigin",
        /// Origins that may.
        allow_origins: Vec<StringMatch> = "allowOrigins",
        /// Methods that they may use.
        allow_methods: Vec<String> = "allowMethods",
        /// Headers that they may send.
        allow_headers: Vec<String> = "allowHeaders",
        /// Headers that they may see.
        expose_headers: Vec<String> = "exposeHeaders",
        /// How long a preflight's answer lasts.
        max_age: Option<TimeSpan> = "maxAge",
        /// Whether credentials may be sent.
        allow_credentials: Option<bool> = "allowCredentials",
        /// What happens to preflights of other origins.
        unmatched_preflights: UnmatchedPreflights = "unmatchedPreflights",
    }

    /// Faults to inject: first the delay, then the abort.
    HttpFaultInjection {
        /// Wait before going on.
        delay: Option<Delay> = "delay",
        /// Answer with an error.
        abort: Option<Abort> = "abort",
    }

    /// A delay to inject.
    Delay oneof("fixedDelay" | "exponentialDelay") {
        /// Deprecated form of `percentage`.
        percent: i32 = "percent",
        /// How long.
        fixed_delay: Option<TimeSpan> = "fixedDelay",
        /// Refused by validation.
        exponential_delay: Option<TimeSpan> = "exponentialDelay",
        /// Share of requests; unset means none.
        percentage: Option<Percent> = "percentage",
    }

    /// An error to inject.
    Abort oneof("httpStatus" | "grpcStatus" | "http2Error") {
        /// HTTP status.
        http_status: Option<i32> = "httpStatus",
        /// gRPC status by name.
        grpc_status: Option<String> = "grpcStatus",
        /// Refused by validation.
        http2_error: Option<String> = "http2Error",
        /// Share of requests; unset means none.
        percentage: Option<Percent> = "percentage",
    }

    /// Where a copy goes, and of how many requests.
    HttpMirrorPolicy {
        /// Where to.
        destination: Option<Destination> = "destination",
        /// Share of requests; unset means all.
        percentage: Option<Percent> = "percentage",
    }
}
