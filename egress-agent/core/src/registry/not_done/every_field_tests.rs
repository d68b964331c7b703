//! Every field of the API is carried out, in the table, or known to have no effect on egress.

use super::table::{self, Field};
use crate::istio::{
    destination_rule, fields, service_entry, sidecar, virtual_service, workload_entry,
};
use std::collections::BTreeSet;

/// Fields that are carried out, of those types that the tables do not cover as a whole.
const CARRIED_OUT: &str = "
    ServiceEntry: hosts addresses ports resolution endpoints workloadSelector exportTo subjectAltNames
    ServicePort: number protocol name targetPort
    VirtualService: hosts gateways http tls tcp exportTo
    HttpRoute: name match route redirect directResponse delegate rewrite timeout retries fault mirror mirrors mirrorPercent mirrorPercentage corsPolicy headers
    Delegate: name namespace
    Headers: request response
    HeaderOperations: set add remove
    TlsRoute: match route
    TcpRoute: match route
    HttpMatchRequest: name uri scheme method authority headers port sourceLabels gateways queryParams ignoreUriCase withoutHeaders sourceNamespace
    HttpRouteDestination: destination weight headers
    RouteDestination: destination weight
    L4MatchAttributes: destinationSubnets port sourceLabels gateways sourceNamespace
    TlsMatchAttributes: sniHosts destinationSubnets port sourceLabels gateways sourceNamespace
    HttpRedirect: uri authority port derivePort scheme redirectCode prefixRewrite
    HttpDirectResponse: status body
    HttpBody: string bytes
    HttpRewrite: uri authority uriRegexRewrite
    RegexRewrite: match rewrite
    HttpRetry: attempts perTryTimeout retryOn retryIgnorePreviousHosts backoff
    CorsPolicy: allowOrigin allowOrigins allowMethods allowHeaders exposeHeaders maxAge allowCredentials unmatchedPreflights
    HttpFaultInjection: delay abort
    Delay: percent fixedDelay percentage
    Abort: httpStatus grpcStatus percentage
    HttpMirrorPolicy: destination percentage
    DestinationRule: host trafficPolicy subsets exportTo workloadSelector
    TrafficPolicy: loadBalancer connectionPool outlierDetection tls portLevelSettings tunnel proxyProtocol retryBudget
    PortTrafficPolicy: port loadBalancer connectionPool outlierDetection tls
    TunnelSettings: protocol targetHost targetPort
    ProxyProtocol: version
    RetryBudget: percent minRetryConcurrency
    Subset: name labels trafficPolicy
    LoadBalancerSettings: simple consistentHash
    ConsistentHashLb: httpHeaderName httpCookie useSourceIp httpQueryParameterName ringHash maglev
    HttpCookie: name path ttl attributes
    CookieAttribute: name value
    ConnectionPoolSettings: tcp http
    TcpSettings: maxConnections connectTimeout tcpKeepalive maxConnectionDuration idleTimeout
    TcpKeepalive: probes time interval
    HttpSettings: http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries idleTimeout h2UpgradePolicy useClientProtocol maxConcurrentStreams
    OutlierDetection: splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent minHealthPercent outlierDetectionHttpErrorCodes
    ClientTlsSettings: mode clientCertificate privateKey caCertificates credentialName subjectAltNames sni insecureSkipVerify caCrl
    Sidecar: workloadSelector egress outboundTrafficPolicy
    IstioEgressListener: port hosts
    SidecarPort: number protocol
    OutboundTrafficPolicy: mode egressProxy
    WorkloadEntry: address ports labels weight
    RawStringMatch: exact prefix regex
    WorkloadSelector: labels
    MatchLabelsSelector: matchLabels
    PortSelector: number
    Destination: host subset port
    Percent: value
";

/// Fields with a row of their own, and the rows.
const IN_TABLE: &[(&str, &str)] = &[
    ("HttpMatchRequest.statPrefix", "statPrefix"),
    (
        "HttpRetry.retryRemoteLocalities",
        "retries.retryRemoteLocalities",
    ),
    ("L4MatchAttributes.sourceSubnet", "sourceSubnet"),
    ("RetryBudget.budgetInterval", "retryBudget.budgetInterval"),
    (
        "LoadBalancerSettings.localityLbSetting",
        "loadBalancer.localityLbSetting",
    ),
    (
        "LoadBalancerSettings.zoneAwareLbSetting",
        "loadBalancer.zoneAwareLbSetting",
    ),
    ("LoadBalancerSettings.warmup", "loadBalancer.warmup"),
    (
        "LoadBalancerSettings.warmupDurationSecs",
        "loadBalancer.warmup",
    ),
    (
        "ConsistentHashLb.minimumRingSize",
        "loadBalancer.consistentHash.minimumRingSize",
    ),
    (
        "RingHash.minimumRingSize",
        "loadBalancer.consistentHash.ringHash.minimumRingSize",
    ),
    (
        "MagLev.tableSize",
        "loadBalancer.consistentHash.maglev.tableSize",
    ),
    (
        "HttpSettings.http2KeepAlive",
        "connectionPool.http.http2KeepAlive",
    ),
    ("WorkloadEntry.network", "network"),
    ("WorkloadEntry.locality", "locality"),
    ("Sidecar.ingress", "ingress"),
    ("Sidecar.inboundConnectionPool", "inboundConnectionPool"),
    ("IstioEgressListener.bind", "bind"),
    ("IstioEgressListener.captureMode", "captureMode"),
];

/// Types that occur below fields of the table only.
const BELOW_TABLE: &[&str] = &[
    "WarmupConfiguration",
    "ConnectionKeepalive",
    "LocalityLoadBalancerSetting",
    "Distribute",
    "Failover",
    "ZoneAwareLoadBalancerSetting",
    "IstioIngressListener",
    "ServerTlsSettings",
    "TlsCertificate",
];

/// Fields without an effect on egress, and why.
const NO_EFFECT: &[(&str, &str)] = &[
    (
        "ServiceEntry.location",
        "says whether the mesh's certificates are used",
    ),
    (
        "WorkloadEntry.serviceAccount",
        "is for the mesh's certificates",
    ),
    ("SidecarPort.name", "is a name"),
    ("SidecarPort.targetPort", "has none in Istio"),
    (
        "OutlierDetection.consecutiveErrors",
        "has none in Istio, and validation warns",
    ),
    ("Delay.exponentialDelay", "is invalid"),
    ("Abort.http2Error", "is invalid"),
];

fn names<T>(table: &[Field<T>]) -> impl Iterator<Item = &'static str> {
    table.iter().map(|field| field.name)
}

#[test]
fn every_field_is_carried_out_or_in_the_table_or_has_no_effect_on_egress() {
    let files = [
        service_entry::MESSAGES,
        virtual_service::MESSAGES,
        destination_rule::MESSAGES,
        sidecar::MESSAGES,
        workload_entry::MESSAGES,
        fields::MESSAGES,
    ];
    let all = files.into_iter().flatten();
    let all = all.filter(|(name, _)| !BELOW_TABLE.contains(name));
    let all: BTreeSet<String> = all
        .flat_map(|(name, fields)| fields.iter().map(move |field| format!("{name}.{field}")))
        .collect();
    let lines = CARRIED_OUT
        .lines()
        .filter_map(|line| line.trim().split_once(": "));
    let carried_out = lines.flat_map(|(name, fields)| {
        fields
            .split(' ')
            .map(move |field| format!("{name}.{field}"))
    });
    let others = IN_TABLE.iter().chain(NO_EFFECT);
    let others = others.map(|(field, _)| (*field).to_owned());
    let mut known = BTreeSet::new();
    for field in carried_out.chain(others) {
        assert!(known.insert(field.clone()), "{field} is listed twice");
    }
    let unknown: Vec<_> = all.difference(&known).collect();
    assert!(unknown.is_empty(), "in no list: {unknown:?}");
    let gone: Vec<_> = known.difference(&all).collect();
    assert!(gone.is_empty(), "no fields of the API: {gone:?}");

    let rows: BTreeSet<_> = names(table::HTTP_MATCH)
        .chain(names(table::HTTP_ROUTE))
        .chain(names(table::TCP_MATCH))
        .chain(names(&table::traffic_policy()))
        .chain(names(table::ENDPOINT))
        .chain(names(table::LISTENER))
        .chain(names(table::SIDECAR))
        .collect();
    for (field, row) in IN_TABLE {
        assert!(rows.contains(row), "{field}: the table has no row {row}");
    }
}
