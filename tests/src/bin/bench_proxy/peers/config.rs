//! The configuration of agents, peers and origins: one HTTP/1.1 port, one HTTP/2 port, and TLS by its server name.
//!
//! Envoy's listeners are as Istio configures a sidecar's: request ids, tracing headers (nothing is sampled), retries,
//! fault and CORS filters. nginx and haproxy add no headers. All have the same timeout of 3 s, which in nginx and haproxy
//! is one of silence.

use anyhow::Result;
use egress_core::access_log::{ISTIO_JSON, ISTIO_TEXT};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

/// The host of every request and server name.
pub(super) const NAME: &str = "bench.example";
/// The node's address, at which the peers listen.
pub(super) const NODE: &str = "203.0.113.1";
/// The path of requests that are never answered, and their timeout.
pub(super) const LATE: &str = "/late";
pub(super) const LATE_AFTER_MS: u64 = 250;

/// What is served at a port.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port {
    Tls,
    Http1,
    Http2,
    /// Accepts connections and answers nothing.
    Silent,
}

impl Port {
    /// At the origin.
    pub(super) fn number(self) -> u16 {
        match self {
            Self::Tls => 8443,
            Self::Http1 => 8080,
            Self::Http2 => 8082,
            Self::Silent => 8090,
        }
    }

    /// At a peer, added to the first of its ports.
    pub(super) fn offset(self) -> u16 {
        match self {
            Self::Tls => 1,
            Self::Http1 => 2,
            Self::Http2 => 3,
            Self::Silent => 4,
        }
    }
}

/// The agent's rules.
pub(super) fn rules(origin: IpAddr) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: bench}}
spec:
  hosts: [{NAME}]
  addresses: [{origin}]
  ports:
  - {{number: 8443, name: tls, protocol: TLS}}
  - {{number: 8080, name: http, protocol: HTTP}}
  - {{number: 8082, name: http2, protocol: HTTP2}}
  resolution: STATIC
  endpoints: [{{address: {origin}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: late}}
spec:
  hosts: [late.example]
  addresses: [{origin}]
  ports: [{{number: 8090, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {origin}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: bench}}
spec:
  hosts: [{NAME}]
  http:
  - match: [{{uri: {{prefix: {LATE}}}}}]
    timeout: {LATE_AFTER_MS}ms
    route: [{{destination: {{host: late.example, port: {{number: 8090}}}}}}]
  - match: [{{port: 8082}}]
    timeout: 3s
    route: [{{destination: {{host: {NAME}, port: {{number: 8082}}}}}}]
  - timeout: 3s
    route: [{{destination: {{host: {NAME}, port: {{number: 8080}}}}}}]
"
    )
}

/// The HTTP origins, in one process.
pub(super) fn origin(folder: &Path, at: IpAddr) -> Result<Vec<OsString>> {
    let body = "0123456789abcdef".repeat(8);
    let http = format!(
        "server {{ listen {at}:8080; location / {{ return 200 {body}; }} }}
  server {{ listen {at}:8082 http2; http2_max_concurrent_streams 1000; location / {{ return 200 {body}; }} }}"
    );
    nginx_of(folder, &http, "")
}

/// nginx in one process.
pub(super) fn nginx(folder: &Path, origin: IpAddr) -> Result<Vec<OsString>> {
    let http = format!(
        "upstream origin {{ server {origin}:8080; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen {NODE}:9002;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection '';
      proxy_set_header Host $host;
      proxy_read_timeout 3s;
    }}
  }}"
    );
    let stream = format!(
        "stream {{
  map $ssl_preread_server_name $to {{ {NAME} {origin}:8443; }}
  server {{
    listen {NODE}:9001 backlog=4096;
    ssl_preread on;
    tcp_nodelay on;
    proxy_timeout 1h;
    proxy_pass $to;
  }}
}}"
    );
    let folder = folder.join("nginx");
    std::fs::create_dir(&folder)?;
    nginx_of(&folder, &http, &stream)
}

fn nginx_of(folder: &Path, http: &str, stream: &str) -> Result<Vec<OsString>> {
    let file = folder.join("nginx.conf");
    let folder = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
        .join("\n  ");
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  {temporary}
  {http}
}}
{stream}
"
    );
    std::fs::write(&file, text)?;
    let log = format!("{folder}/nginx.log");
    Ok(vec!["-c".into(), file.into(), "-e".into(), log.into()])
}

/// haproxy in one process and one thread, with splice where it decides to.
pub(super) fn haproxy(folder: &Path, origin: IpAddr) -> Result<Vec<OsString>> {
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global
  maxconn 9000
  nbthread 1
  maxpipes 256
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  option splice-auto
  option splice-request
  option splice-response
frontend tls
  bind {NODE}:9101 backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_sni -i {NAME} }}
  tcp-request content reject
  default_backend passed
backend passed
  server origin {origin}:8443
frontend http
  mode http
  bind {NODE}:9102
  default_backend requests
backend requests
  mode http
  timeout server 3s
  http-reuse always
  server origin {origin}:8080
"
    );
    std::fs::write(&file, text)?;
    Ok(vec!["-db".into(), "-f".into(), file.into()])
}

/// Envoy with one worker.
pub(super) fn envoy(folder: &Path, origin: IpAddr) -> Result<Vec<OsString>> {
    let file = folder.join("envoy.json");
    let mut listeners = vec![tls_listener()];
    let log = |name: &str, format: Value| {
        let path = folder.join(name);
        json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": format,
            },
        }])
    };
    let text = json!({"text_format_source": {"inline_string": format!("{ISTIO_TEXT}\n")}});
    let fields: Value = serde_json::from_str(ISTIO_JSON)?;
    let logs = [
        (9200, json!([])),
        (9210, log("envoy.log", text)),
        (9220, log("envoy.json.log", json!({"json_format": fields}))),
    ];
    for (base, log) in &logs {
        for (port, cluster) in [(Port::Http1, "http1"), (Port::Http2, "http2")] {
            listeners.push(http_listener(base + port.offset(), cluster, log));
        }
    }
    let cluster = |name: &str, port: Port| {
        json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "10s",
            "lb_policy": "LEAST_REQUEST",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": address(&origin.to_string(), port.number())},
            }]}]},
        })
    };
    let mut http2 = cluster("http2", Port::Http2);
    http2["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        },
    });
    let zipkin = json!({
        "name": "zipkin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "zipkin", "endpoints": []},
    });
    let root = json!({"static_resources": {
        "listeners": listeners,
        "clusters": [
            cluster("tls", Port::Tls),
            cluster("http1", Port::Http1),
            cluster("late", Port::Silent),
            http2,
            zipkin,
        ],
    }});
    std::fs::write(&file, root.to_string())?;
    let mut arguments = vec!["-c".into(), file.into()];
    arguments
        .extend(["--use-dynamic-base-id", "--concurrency", "1", "-l", "error"].map(OsString::from));
    Ok(arguments)
}

fn address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn tls_listener() -> Value {
    json!({
        "name": "tls",
        "address": address(NODE, 9201),
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }],
        "filter_chains": [{
            "filter_chain_match": {"server_names": [NAME]},
            "filters": [{
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": "tls",
                    "cluster": "tls",
                },
            }],
        }],
    })
}

fn http_listener(port: u16, cluster: &str, access_log: &Value) -> Value {
    let filter = |name: &str, kind: &str| {
        json!({
            "name": format!("envoy.filters.http.{name}"),
            "typed_config": {
                "@type": format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.{kind}"),
            },
        })
    };
    let route = |prefix: &str, cluster: &str, timeout: &str| {
        json!({
            "match": {"prefix": prefix},
            "decorator": {"operation": format!("{NAME}:{port}/*")},
            "route": {
                "cluster": cluster,
                "timeout": timeout,
                "max_grpc_timeout": timeout,
                "retry_policy": {
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                    "num_retries": 2,
                    "retry_host_predicate": [{
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                        },
                    }],
                    "host_selection_retry_max_attempts": 5,
                },
            },
        })
    };
    let late = format!("0.{LATE_AFTER_MS}s");
    json!({
        "name": port.to_string(),
        "address": address(NODE, port),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": port.to_string(),
                "server_name": "envoy",
                "generate_request_id": true,
                "normalize_path": true,
                "stream_idle_timeout": "0s",
                "upgrade_configs": [{"upgrade_type": "websocket"}],
                "access_log": access_log,
                "tracing": {
                    "client_sampling": {"value": 100},
                    "random_sampling": {"value": 0},
                    "overall_sampling": {"value": 100},
                    "provider": {
                        "name": "envoy.tracers.zipkin",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig",
                            "collector_cluster": "zipkin",
                            "collector_endpoint": "/api/v2/spans",
                            "collector_endpoint_version": "HTTP_JSON",
                            "trace_id_128bit": true,
                            "shared_span_context": false,
                        },
                    },
                },
                "http_filters": [
                    filter("fault", "HTTPFault"),
                    filter("cors", "Cors"),
                    filter("router", "Router"),
                ],
                "route_config": {
                    "name": "80",
                    "ignore_port_in_host_matching": true,
                    "virtual_hosts": [
                        {
                            "name": "bench",
                            "domains": [NAME],
                            "include_request_attempt_count": true,
                            "routes": [route(LATE, "late", &late), route("/", cluster, "3s")],
                        },
                        {
                            "name": "block_all",
                            "domains": ["*"],
                            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 502}}],
                        },
                    ],
                },
            },
        }]}],
    })
}
