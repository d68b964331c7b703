//! Envoy's side: one process with a listener for each case, configured as Istio configures a sidecar's outbound HTTP
//! listener.
//!
//! The defaults are those of istiod (pilot/pkg/networking/core: listener_builder.go, httproute.go, route/route.go,
//! cluster_traffic_policy.go).

use crate::case::Case;
use crate::log_line::Lines;
use serde_yaml::{Mapping, Value};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BOOTSTRAP: &str = include_str!("defaults/bootstrap.yaml");
const LISTENER: &str = include_str!("defaults/listener.yaml");
const ROUTE: &str = include_str!("defaults/route.yaml");
const CLUSTER: &str = include_str!("defaults/cluster.yaml");

/// A case with the addresses of its origins, and the port of its listener.
pub struct Site<'a> {
    pub case: &'a Case,
    pub origins: BTreeMap<String, Vec<SocketAddr>>,
    pub listener: SocketAddr,
}

/// The process. It ends with this value.
pub struct Envoy {
    child: Child,
    folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts it and waits until it serves.
    pub async fn start(sites: &[Site<'_>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.json");
        std::fs::write(&file, config(sites, folder.path())).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary())
            .arg("-c")
            .arg(&file)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "error"])
            .args(["--file-flush-interval-msec", "50"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self { child, folder };
        envoy.ready(sites).await;
        envoy
    }

    async fn ready(&mut self, sites: &[Site<'_>]) {
        let deadline = Instant::now() + Duration::from_mins(1);
        for site in sites {
            while tokio::net::TcpStream::connect(site.listener).await.is_err() {
                let ended = self.child.try_wait().unwrap();
                assert!(
                    ended.is_none() && Instant::now() < deadline,
                    "Envoy does not serve: {}",
                    std::fs::read_to_string(self.folder.path().join("log")).unwrap()
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// The lines of the access log about the requests of a case, in the order of their ends.
    pub fn lines(&self, number: usize) -> Vec<Lines> {
        let [text, json] = ["txt", "json"].map(|kind| {
            let path = access_log(self.folder.path(), number, kind);
            std::fs::read_to_string(path).unwrap_or_default()
        });
        assert_eq!(text.lines().count(), json.lines().count());
        text.lines()
            .zip(json.lines())
            .map(|(text, json)| Lines {
                text: text.to_owned(),
                json: json.to_owned(),
            })
            .collect()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `cargo xtask setup` links it there.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("EGRESS_ENVOY") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../envoy");
    assert!(path.exists(), "no Envoy: run cargo xtask setup");
    path
}

/// Where the listeners are: on an address of loopback that only this process uses, so that no other socket has one of
/// its ports.
pub fn listeners(count: usize) -> impl Iterator<Item = SocketAddr> {
    let [_, high, mid, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | high & 63, mid, low);
    (1..=count)
        .map(move |number| SocketAddr::from((address, 1000 + u16::try_from(number).unwrap())))
}

fn access_log(folder: &Path, number: usize, kind: &str) -> PathBuf {
    folder.join(format!("access-{number}.{kind}"))
}

fn config(sites: &[Site<'_>], folder: &Path) -> String {
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        listeners.push(listener(number, site, folder));
        clusters.extend(all_clusters(number, site));
    }
    let mut root = yaml(BOOTSTRAP);
    let resources = root["static_resources"].as_mapping_mut().unwrap();
    resources.insert("listeners".into(), listeners.into());
    let known = resources["clusters"].as_sequence_mut().unwrap();
    known.extend(clusters);
    serde_json::to_string(&root).unwrap()
}

fn listener(number: usize, site: &Site<'_>, folder: &Path) -> Value {
    let mut listener = yaml(LISTENER);
    listener["name"] = number.to_string().into();
    listener["address"] = address(site.listener);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    merge(manager, &site.case.manager.clone().into());
    for (at, kind) in ["txt", "json"].into_iter().enumerate() {
        let log = &mut manager["access_log"][at]["typed_config"];
        let path = access_log(folder, number, kind);
        log["path"] = path.display().to_string().into();
    }
    let hosts = &mut manager["route_config"]["virtual_hosts"];
    let others = hosts.as_sequence_mut().unwrap();
    for (at, name) in site.origins.keys().enumerate() {
        let routes = match (name.as_str(), &site.case.routes) {
            ("a", Value::Sequence(routes)) => routes.clone(),
            _ => vec![yaml(&format!(
                "{{name: default, match: {{prefix: /}}, route: {{cluster: {name}}}}}"
            ))],
        };
        let routes: Vec<Value> = routes.into_iter().map(|it| route(it, number)).collect();
        let mut host = yaml(&format!(
            "{{name: '{name}.example:80', domains: [{name}.example, {name}.example., 192.0.2.{}], \
             include_request_attempt_count: true}}",
            at + 1
        ));
        host["routes"] = routes.into();
        others.push(host);
    }
    listener
}

/// A route with Istio's defaults, and the clusters of its case.
fn route(mut route: Value, number: usize) -> Value {
    let operation = operation(&route);
    if let Some(action) = route.get_mut("route") {
        let mut whole = yaml(ROUTE);
        merge(&mut whole, action);
        let mirrors = whole.get_mut("request_mirror_policies");
        for mirror in mirrors
            .into_iter()
            .flat_map(|it| it.as_sequence_mut().unwrap())
        {
            mirror["trace_sampled"] = false.into();
        }
        // Istio bounds a client's grpc-timeout by the timeout of the route.
        whole["max_grpc_timeout"] = whole["timeout"].clone();
        *action = whole;
    }
    filters(&mut route);
    own(&mut route, number);
    route
        .as_mapping_mut()
        .unwrap()
        .entry("decorator".into())
        .or_insert_with(|| Mapping::from_iter([("operation".into(), operation.into())]).into());
    route
}

/// Moves `fault` and `cors` of a route to the filters that read them.
fn filters(route: &mut Value) {
    for (field, kind) in [
        ("fault", "fault.v3.HTTPFault"),
        ("cors", "cors.v3.CorsPolicy"),
    ] {
        let Some(mut config) = route.as_mapping_mut().unwrap().remove(field) else {
            continue;
        };
        config["@type"] =
            format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
        let mut own = yaml("typed_per_filter_config: {}");
        own["typed_per_filter_config"][format!("envoy.filters.http.{field}")] = config;
        merge(route, &own);
    }
}

/// Istio's name of a route for traces (`GetRouteOperation`).
fn operation(route: &Value) -> String {
    let found = &route["match"];
    let path = if let Some(prefix) = found["prefix"].as_str() {
        format!("{prefix}*")
    } else if let Some(path) = found["path"].as_str() {
        path.to_owned()
    } else if let Some(regex) = found["safe_regex"]["regex"].as_str() {
        regex.to_owned()
    } else {
        "/*".to_owned()
    };
    match route["route"]["cluster"].as_str() {
        Some(cluster) => {
            let host = cluster.split('|').next().unwrap();
            format!("{host}.example:80{path}")
        }
        None => format!("routes:80{path}"),
    }
}

/// Puts the number of the case before the names of clusters.
fn own(value: &mut Value, number: usize) {
    match value {
        Value::Mapping(map) => {
            let weighted = map.contains_key("weight");
            for (key, value) in map.iter_mut() {
                let names = key == "cluster" || weighted && key == "name";
                match value {
                    Value::String(name) if names => *name = format!("{number}/{name}"),
                    other => own(other, number),
                }
            }
        }
        Value::Sequence(list) => list.iter_mut().for_each(|value| own(value, number)),
        _ => {}
    }
}

fn all_clusters(number: usize, site: &Site<'_>) -> Vec<Value> {
    let plain = site.origins.iter().map(|(name, endpoints)| {
        let config = site.case.clusters.get(name).cloned().unwrap_or_default();
        cluster(number, name, endpoints, config)
    });
    let subsets = site.case.clusters.iter().filter_map(|(name, config)| {
        let mut config = config.clone();
        let of = config.remove("of")?;
        let picked = config.remove("endpoints").unwrap();
        let all = &site.origins[of.as_str().unwrap()];
        let endpoints: Vec<_> = picked
            .as_sequence()
            .unwrap()
            .iter()
            .map(|at| all[usize::try_from(at.as_u64().unwrap()).unwrap()])
            .collect();
        Some(cluster(number, name, &endpoints, config))
    });
    plain.chain(subsets).collect()
}

fn cluster(number: usize, name: &str, endpoints: &[SocketAddr], config: Mapping) -> Value {
    let name = format!("{number}/{name}");
    let mut whole = yaml(CLUSTER);
    merge(&mut whole, &config.into());
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|at| {
            let mut one = yaml("endpoint: {}");
            one["endpoint"]["address"] = address(*at);
            one
        })
        .collect();
    let mut group = yaml("{}");
    group["lb_endpoints"] = endpoints.into();
    whole["load_assignment"] = yaml(&format!("{{cluster_name: '{name}'}}"));
    whole["load_assignment"]["endpoints"] = vec![group].into();
    whole["name"] = name.into();
    whole
}

fn address(at: SocketAddr) -> Value {
    yaml(&format!(
        "socket_address: {{address: '{}', port_value: {}}}",
        at.ip(),
        at.port()
    ))
}

/// Puts the fields of `from` into `into`, map by map.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Mapping(into), Value::Mapping(from)) => {
            for (key, value) in from {
                match into.get_mut(key) {
                    Some(known) => merge(known, value),
                    None => {
                        into.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}
