//! `DestinationRule`: how connections to a chosen service are made.

use super::decode::macros::{enums, messages};
use super::duration::TimeSpan;
use super::fields::{MatchLabelsSelector, PortSelector};
use std::collections::BTreeMap;

enums! {
    /// Load balancing without state of the client.
    SimpleLb = "LoadBalancerSettings.SimpleLB" {
        /// Istio's default, as `LEAST_REQUEST`.
        Unspecified = "0" "UNSPECIFIED",
        /// Deprecated name of `LEAST_REQUEST`.
        LeastConn = "1" "LEAST_CONN",
        /// At random.
        Random = "2" "RANDOM",
        /// The address that the client dialled.
        Passthrough = "3" "PASSTHROUGH",
        /// In turn.
        RoundRobin = "4" "ROUND_ROBIN",
        /// The less busy of two at random.
        LeastRequest = "5" "LEAST_REQUEST",
    }

    /// Whether HTTP/1.1 is spoken as HTTP/2 upstream.
    H2UpgradePolicy = "ConnectionPoolSettings.HTTPSettings.H2UpgradePolicy" {
        /// As the mesh has it.
        Default = "0" "DEFAULT",
        /// No.
        DoNotUpgrade = "1" "DO_NOT_UPGRADE",
        /// Yes.
        Upgrade = "2" "UPGRADE",
    }

    /// TLS towards the upstream.
    ClientTlsMode = "ClientTLSSettings.TLSmode" {
        /// None.
        Disable = "0" "DISABLE",
        /// TLS.
        Simple = "1" "SIMPLE",
        /// TLS with a client certificate.
        Mutual = "2" "MUTUAL",
        /// TLS with the mesh's certificates.
        IstioMutual = "3" "ISTIO_MUTUAL",
    }

    /// Version of the PROXY protocol.
    ProxyProtocolVersion = "TrafficPolicy.ProxyProtocol.VERSION" {
        /// Text form.
        V1 = "0" "V1",
        /// Binary form.
        V2 = "1" "V2",
    }
}

messages! {
    /// Policies for a host (`networking/v1alpha3/destination_rule.proto`).
    DestinationRule {
        /// The service.
        host: String = "host",
        /// Policy for all its ports and subsets.
        traffic_policy: Option<Box<TrafficPolicy>> = "trafficPolicy",
        /// Named parts of its endpoints.
        subsets: Vec<Subset> = "subsets",
        /// Namespaces that see it: `.`, `*` or names; empty means all.
        export_to: Vec<String> = "exportTo",
        /// Client workloads that it is for; unset means all.
        workload_selector: Option<MatchLabelsSelector> = "workloadSelector",
    }

    /// How connections are made.
    TrafficPolicy {
        /// Choice of endpoint.
        load_balancer: Option<LoadBalancerSettings> = "loadBalancer",
        /// Limits.
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool",
        /// When an endpoint is left alone.
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// TLS towards the endpoint.
        tls: Option<ClientTlsSettings> = "tls",
        /// Policies of single ports, which replace whole blocks.
        port_level_settings: Vec<PortTrafficPolicy> = "portLevelSettings",
        /// Through a forward proxy.
        tunnel: Option<TunnelSettings> = "tunnel",
        /// PROXY protocol towards the endpoint.
        proxy_protocol: Option<ProxyProtocol> = "proxyProtocol",
        /// Limit of retries at a time.
        retry_budget: Option<RetryBudget> = "retryBudget",
    }

    /// Policy of one port.
    PortTrafficPolicy {
        /// The port of the service.
        port: Option<PortSelector> = "port",
        /// Choice of endpoint.
        load_balancer: Option<LoadBalancerSettings> = "loadBalancer",
        /// Limits.
        connection_pool: Option<ConnectionPoolSettings> = "connectionPool",
        /// When an endpoint is left alone.
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// TLS towards the endpoint.
        tls: Option<ClientTlsSettings> = "tls",
    }

    /// A forward proxy that connections go through.
    TunnelSettings {
        /// `CONNECT` (the default when empty) or `POST`.
        protocol: String = "protocol",
        /// Host to ask the proxy for.
        target_host: String = "targetHost",
        /// Port to ask the proxy for.
        target_port: u32 = "targetPort",
    }

    /// PROXY protocol towards the endpoint.
    ProxyProtocol {
        /// Its version.
        version: ProxyProtocolVersion = "version",
    }

    /// Limit of retries at a time, as a share of active requests.
    RetryBudget {
        /// The share in percent; unset means 20.
        percent: Option<f64> = "percent",
        /// Retries that are always allowed; 0 means 3.
        min_retry_concurrency: u32 = "minRetryConcurrency",
        /// Time over which requests are counted.
        budget_interval: Option<TimeSpan> = "budgetInterval",
    }

    /// A named part of the endpoints.
    Subset {
        /// Its name.
        name: String = "name",
        /// Labels that its endpoints have.
        labels: BTreeMap<String, String> = "labels",
        /// Its policy, over the host's.
        traffic_policy: Option<Box<TrafficPolicy>> = "trafficPolicy",
    }

    /// Choice of endpoint.
    LoadBalancerSettings oneof("simple" | "consistentHash") {
        /// Without state of the client.
        simple: Option<SimpleLb> = "simple",
        /// By hash of something the client sends.
        consistent_hash: Option<ConsistentHashLb> = "consistentHash",
        /// Preference by locality.
        locality_lb_setting: Option<LocalityLoadBalancerSetting> = "localityLbSetting",
        /// Preference by zone.
        zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting> = "zoneAwareLbSetting",
        /// Deprecated form of `warmup`.
        warmup_duration_secs: Option<TimeSpan> = "warmupDurationSecs",
        /// Slow start of new endpoints.
        warmup: Option<WarmupConfiguration> = "warmup",
    }

    /// Load balancing by hash.
    ConsistentHashLb
        oneof("httpHeaderName" | "httpCookie" | "useSourceIp" | "httpQueryParameterName")
        oneof("ringHash" | "maglev")
    {
        /// Of a header.
        http_header_name: Option<String> = "httpHeaderName",
        /// Of a cookie.
        http_cookie: Option<HttpCookie> = "httpCookie",
        /// Of the source address.
        use_source_ip: Option<bool> = "useSourceIp",
        /// Of a query parameter.
        http_query_parameter_name: Option<String> = "httpQueryParameterName",
        /// On a ring.
        ring_hash: Option<RingHash> = "ringHash",
        /// In a Maglev table.
        maglev: Option<MagLev> = "maglev",
        /// Deprecated form of `ring_hash`.
        minimum_ring_size: u64 = "minimumRingSize",
    }

    /// A ring.
    RingHash {
        /// Least number of points on it; 0 means 1024.
        minimum_ring_size: u64 = "minimumRingSize",
    }

    /// A Maglev table.
    MagLev {
        /// Its size, a prime; 0 means 65537.
        table_size: u64 = "tableSize",
    }

    /// A cookie to hash.
    HttpCookie {
        /// Its name.
        name: String = "name",
        /// Its path, if it is to be made.
        path: String = "path",
        /// Its life; zero for a session's.
        ttl: Option<TimeSpan> = "ttl",
        /// More attributes.
        attributes: Vec<CookieAttribute> = "attributes",
    }

    /// An attribute of a cookie.
    CookieAttribute {
        /// Its name.
        name: String = "name",
        /// Its value.
        value: String = "value",
    }

    /// Slow start of new endpoints.
    WarmupConfiguration {
        /// How long it takes; required.
        duration: Option<TimeSpan> = "duration",
        /// Share of traffic at the start; unset means 10 percent.
        minimum_percent: Option<f64> = "minimumPercent",
        /// Speed of the increase; unset means 1.
        aggression: Option<f64> = "aggression",
    }

    /// Limits of connections and requests.
    ConnectionPoolSettings {
        /// Of connections.
        tcp: Option<TcpSettings> = "tcp",
        /// Of requests.
        http: Option<HttpSettings> = "http",
    }

    /// Limits of connections.
    TcpSettings {
        /// At a time; 0 means no limit.
        max_connections: i32 = "maxConnections",
        /// Of the handshake; unset means 10 s.
        connect_timeout: Option<TimeSpan> = "connectTimeout",
        /// Keepalive probes of the kernel.
        tcp_keepalive: Option<TcpKeepalive> = "tcpKeepalive",
        /// Life of a connection; unset means no limit.
        max_connection_duration: Option<TimeSpan> = "maxConnectionDuration",
        /// Without bytes; unset means 1 h.
        idle_timeout: Option<TimeSpan> = "idleTimeout",
    }

    /// Keepalive probes of the kernel.
    TcpKeepalive {
        /// Unanswered probes until the connection is dead; 0 means the kernel's.
        probes: u32 = "probes",
        /// Idle time before the first.
        time: Option<TimeSpan> = "time",
        /// Time between two.
        interval: Option<TimeSpan> = "interval",
    }

    /// Limits of requests. 0 means the default everywhere.
    HttpSettings {
        /// Requests that wait for a connection.
        http1_max_pending_requests: i32 = "http1MaxPendingRequests",
        /// Requests at a time.
        http2_max_requests: i32 = "http2MaxRequests",
        /// Requests over one connection; 0 means no limit.
        max_requests_per_connection: i32 = "maxRequestsPerConnection",
        /// Retries at a time.
        max_retries: i32 = "maxRetries",
        /// Without requests; unset means 1 h.
        idle_timeout: Option<TimeSpan> = "idleTimeout",
        /// HTTP/1.1 as HTTP/2 upstream.
        h2_upgrade_policy: H2UpgradePolicy = "h2UpgradePolicy",
        /// Speak upstream what the client spoke.
        use_client_protocol: bool = "useClientProtocol",
        /// Streams of one HTTP/2 connection.
        max_concurrent_streams: i32 = "maxConcurrentStreams",
        /// Pings over HTTP/2.
        http2_keep_alive: Option<ConnectionKeepalive> = "http2KeepAlive",
    }

    /// Pings over HTTP/2.
    ConnectionKeepalive {
        /// Time between two.
        interval: Option<TimeSpan> = "interval",
        /// Wait for the answer.
        timeout: Option<TimeSpan> = "timeout",
    }

    /// When an endpoint is left alone.
    OutlierDetection {
        /// Deprecated form of `consecutive_5xx_errors`.
        consecutive_errors: i32 = "consecutiveErrors",
        /// Count local failures apart.
        split_external_local_origin_errors: bool = "splitExternalLocalOriginErrors",
        /// Local failures in a row, if counted apart; unset means 5.
        consecutive_local_origin_failures: Option<u32> = "consecutiveLocalOriginFailures",
        /// 502, 503 and 504 in a row; unset or 0 means off.
        consecutive_gateway_errors: Option<u32> = "consecutiveGatewayErrors",
        /// 5xx in a row; unset means 5, 0 means off.
        consecutive_5xx_errors: Option<u32> = "consecutive5xxErrors",
        /// Time between two sweeps; unset means 10 s.
        interval: Option<TimeSpan> = "interval",
        /// Time out of use, times the number of ejections; unset means 30 s.
        base_ejection_time: Option<TimeSpan> = "baseEjectionTime",
        /// Share of endpoints that may be out; 0 means 10.
        max_ejection_percent: i32 = "maxEjectionPercent",
        /// Share of healthy endpoints below which all are used.
        min_health_percent: i32 = "minHealthPercent",
        /// Status codes that count as errors.
        outlier_detection_http_error_codes: Vec<u32> = "outlierDetectionHttpErrorCodes",
    }

    /// TLS towards the endpoint.
    ClientTlsSettings {
        /// Kind of TLS.
        mode: ClientTlsMode = "mode",
        /// File of the client's certificate.
        client_certificate: String = "clientCertificate",
        /// File of its key.
        private_key: String = "privateKey",
        /// File of authorities; empty means the system's.
        ca_certificates: String = "caCertificates",
        /// Secret that holds the certificates.
        credential_name: String = "credentialName",
        /// Names that the server's certificate must have one of.
        subject_alt_names: Vec<String> = "subjectAltNames",
        /// Server name to send; empty means the request's host.
        sni: String = "sni",
        /// Do not verify the server.
        insecure_skip_verify: Option<bool> = "insecureSkipVerify",
        /// File of revoked certificates.
        ca_crl: String = "caCrl",
    }

    /// Preference by locality.
    LocalityLoadBalancerSetting {
        /// Shares by locality of the client.
        distribute: Vec<Distribute> = "distribute",
        /// Where to go when a region fails.
        failover: Vec<Failover> = "failover",
        /// Labels by whose agreement endpoints are ordered.
        failover_priority: Vec<String> = "failoverPriority",
        /// Switches it on or off.
        enabled: Option<bool> = "enabled",
    }

    /// Shares for clients of one locality.
    Distribute {
        /// Locality of the client.
        from: String = "from",
        /// Locality of endpoints to percent.
        to: BTreeMap<String, u32> = "to",
    }

    /// Where to go when a region fails.
    Failover {
        /// Region that fails.
        from: String = "from",
        /// Region instead.
        to: String = "to",
    }

    /// Preference by zone.
    ZoneAwareLoadBalancerSetting {
        /// Switches it on or off.
        enabled: Option<bool> = "enabled",
        /// Where to go when a region fails.
        failover: Vec<Failover> = "failover",
        /// Labels by whose agreement endpoints are ordered.
        failover_priority: Vec<String> = "failoverPriority",
        /// Endpoints below which zones do not count.
        min_cluster_size: Option<u64> = "minClusterSize",
    }
}

impl DestinationRule {
    /// All `credentialName`s of its settings for TLS.
    pub fn credential_names(&self) -> impl Iterator<Item = &str> {
        let own = self.traffic_policy.iter().map(AsRef::as_ref);
        let subsets = self
            .subsets
            .iter()
            .filter_map(|s| s.traffic_policy.as_deref());
        let all = own.chain(subsets).flat_map(|policy| {
            let ports = policy.port_level_settings.iter();
            let ports = ports.filter_map(|port| port.tls.as_ref());
            policy.tls.iter().chain(ports)
        });
        let used = all.filter(|tls| tls.mode != ClientTlsMode::Disable);
        used.map(|tls| tls.credential_name.as_str())
            .filter(|name| !name.is_empty())
    }
}
