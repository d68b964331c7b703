//! Reads the config file again when it changes and on SIGHUP. A file with a mistake changes nothing.
//! Logs the changed fields that need a restart.

use crate::access_log::AccessLog;
use crate::config::{Config, Settings};
use crate::dns::NameServers;
use crate::failure::Failure;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Time between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Flags, which beat the file.
    pub flags: Settings,
    /// The config file, where there is one.
    pub file: Option<PathBuf>,
}

/// What distinguishes two versions of a file: device, inode, size, seconds and nanoseconds.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Handles SIGHUP from this call on.
pub fn hangup() -> std::io::Result<Signal> {
    signal(SignalKind::hangup())
}

/// Follows the file and sends each valid version of it to `engine`, to the access log, whose file SIGHUP opens again in any
/// case, and to the name servers, whose authorities are read again each time. Returns when the engine has ended.
pub async fn follow(
    source: Source,
    mut current: Config,
    mut hangup: Signal,
    (engine, access_log, servers): (mpsc::Sender<Config>, Arc<AccessLog>, NameServers),
) {
    let file = source.file.as_deref();
    let mut seen = stamp(file);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(LOOK) => false,
        };
        let now = stamp(file);
        if !asked && now == seen {
            continue;
        }
        seen = now;
        if asked {
            access_log.reopen();
        }
        let Some(file) = file else {
            tracing::info!(
                "SIGHUP ignored: the agent has no config file; it reloads rule files when they change"
            );
            continue;
        };
        let read = Config::load(source.flags.clone(), Some(file)).and_then(|new| {
            let trust = servers.trust_of(new.dns.ca_certificates.as_deref());
            Ok((new, trust.map_err(Failure::usage)?))
        });
        let (new, trust) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "config not applied; the previous config stays in force");
                continue;
            }
        };
        let fixed = take_live(&mut current, &new);
        if !fixed.is_empty() {
            let fields = fixed.join(", ");
            tracing::warn!(
                fields,
                "restart the agent to change these fields of the config"
            );
        }
        access_log.apply(current.access_log.as_ref());
        servers.apply(trust);
        if engine.send(current.clone()).await.is_err() {
            return;
        }
    }
}

/// Takes the fields that a running agent can change from `new`. Returns the names of the other fields that
/// differ.
fn take_live(running: &mut Config, new: &Config) -> Vec<&'static str> {
    macro_rules! take {
        ($($field:ident).+) => {
            running.$($field).+.clone_from(&new.$($field).+)
        };
    }
    take!(allow_private_answers);
    take!(private_answers);
    take!(internal);
    take!(outbound_traffic_policy);
    take!(unlisted_address);
    take!(mode);
    take!(deny_errno);
    take!(workloads);
    take!(access_log);
    take!(dns.ca_certificates);
    take!(dns.min_ttl);
    take!(dns.grace);
    let fixed = [
        ("rules", running.rules != new.rules),
        ("cgroups", running.cgroups != new.cgroups),
        ("agentCgroup", running.agent_cgroup != new.agent_cgroup),
        ("bpfDir", running.bpf_dir != new.bpf_dir),
        ("dns.servers", running.dns.servers != new.dns.servers),
        ("dns.intercept", running.dns.intercept != new.dns.intercept),
        ("dns.denied", running.dns.denied != new.dns.denied),
        ("dns.types", running.dns.types != new.dns.types),
        ("dns.search", running.dns.search != new.dns.search),
        (
            "dns.clusterDomain",
            running.dns.cluster_domain != new.dns.cluster_domain,
        ),
        (
            "dns.belowLength",
            running.dns.below.length != new.dns.below.length,
        ),
        (
            "dns.belowLabels",
            running.dns.below.labels != new.dns.below.labels,
        ),
        (
            "dns.belowBurst",
            running.dns.below.burst != new.dns.below.burst,
        ),
        (
            "dns.belowPerMinute",
            running.dns.below.per_minute != new.dns.below.per_minute,
        ),
        (
            "enterNamespaces",
            running.enter_namespaces != new.enter_namespaces,
        ),
        ("proxyPort", running.proxy_port != new.proxy_port),
        ("onExit", running.on_exit != new.on_exit),
        (
            "drainDeadline",
            running.drain_deadline != new.drain_deadline,
        ),
        ("standby", running.standby != new.standby),
        ("log", running.log != new.log),
        ("maxNetworks", running.max_networks != new.max_networks),
        ("proxyMemory", running.proxy_memory != new.proxy_memory),
        (
            "clientCertificates",
            running.client_certificates != new.client_certificates,
        ),
        ("onRemoval", running.on_removal != new.on_removal),
        (
            "canaryInterval",
            running.canary_interval != new.canary_interval,
        ),
        ("adminSocket", running.admin_socket != new.admin_socket),
        ("kubernetes", running.kubernetes != new.kubernetes),
        (
            "monitoring.address",
            running.monitoring_address != new.monitoring_address,
        ),
        ("admission", running.admission != new.admission),
    ];
    let differ = fixed.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(name, _)| name).collect()
}

fn stamp(file: Option<&Path>) -> Stamp {
    let meta = fs::metadata(file?).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::config::settings::FULL;
    use serde_yaml::{Mapping, Value};
    use std::collections::BTreeSet;

    fn minimal() -> Settings {
        Settings {
            rules: vec!["r.yaml".into()],
            cgroups: vec!["/c".into()],
            ..Settings::default()
        }
    }

    fn complete(settings: Settings) -> Config {
        Config::load(settings, None).unwrap()
    }

    #[test]
    fn a_reload_takes_what_can_change_and_names_the_rest() {
        let mut running = complete(minimal());
        let new = complete(Settings {
            mode: Some(Mode::Audit),
            proxy_port: Some(15002),
            workloads: vec!["cgroup: shop".parse().unwrap()],
            ..minimal()
        });
        assert_eq!(take_live(&mut running, &new), ["proxyPort"]);
        assert_eq!(running.mode, Mode::Audit);
        assert_eq!(running.workloads, new.workloads);
        assert_eq!(running.proxy_port, crate::config::DEFAULT_PROXY_PORT);
    }

    /// Some fields need a node of the Kubernetes API, or each other.
    fn node() -> Settings {
        const TEXT: &str = "{kubernetes: {node: a}, admission: {address: ':1', certificate: /a}}";
        let node: Settings = serde_yaml::from_str(TEXT).unwrap();
        node.over(minimal())
    }

    /// Every field of the file, those of `dns` and `log` with their path, and a config that sets only this one.
    fn single_fields() -> Vec<(String, Settings)> {
        let full: Mapping = serde_yaml::from_str(FULL).unwrap();
        let mut fields = Vec::new();
        for (name, value) in full {
            let name = name.as_str().unwrap().to_owned();
            match value {
                Value::Mapping(inner) => fields.extend(inner.into_iter().map(|(key, value)| {
                    let path = format!("{name}.{}", key.as_str().unwrap());
                    let inner = Value::Mapping(Mapping::from_iter([(key, value)]));
                    (path, name.clone(), inner)
                })),
                value => fields.push((name.clone(), name, value)),
            }
        }
        let read = |name: String, value| {
            let one = Mapping::from_iter([(Value::String(name), value)]);
            let one: Settings = serde_yaml::from_value(Value::Mapping(one)).unwrap();
            one.over(node())
        };
        let fields = fields.into_iter();
        fields
            .map(|(path, name, value)| (path, read(name, value)))
            .collect()
    }

    #[test]
    fn the_chart_accepts_each_field_and_replaces_pods_for_those_that_need_it() {
        const SCHEMA: &str = include_str!("../../../deploy/chart/egress-agent/values.schema.json");
        const TEMPLATE: &str =
            include_str!("../../../deploy/chart/egress-agent/templates/_helpers.tpl");
        // The manifests fix these.
        const FIXED: [&str; 8] = [
            "adminSocket",
            "admission.address",
            "admission.certificate",
            "bpfDir",
            "kubernetes.kubeconfig",
            "kubernetes.node",
            "rules",
            "standby",
        ];
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        let config = &schema["properties"]["config"]["properties"];
        let accepted: BTreeSet<String> = config
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(name, field)| match field["properties"].as_object() {
                Some(inner) => inner.keys().map(|key| format!("{name}.{key}")).collect(),
                None => vec![name.clone()],
            })
            .collect();
        let all = single_fields();
        let names = all.iter().map(|(path, _)| path.clone());
        let expected = names.filter(|path| !FIXED.contains(&path.as_str()));
        assert_eq!(
            accepted,
            expected.collect(),
            "`config` of deploy/chart/egress-agent/values.schema.json"
        );
        let begin = "define \"egress-agent.live\" -}}";
        let (_, list) = TEMPLATE.split_once(begin).unwrap();
        let (list, _) = list.split_once("{{-").unwrap();
        let listed: BTreeSet<String> = list.split_whitespace().map(str::to_owned).collect();
        let running = complete(node());
        // All fields of `kubernetes` are one to `take_live`, and some have their default here. So it is with `admission`.
        let whole = |path: &str| {
            ["kubernetes.", "admission."]
                .iter()
                .any(|p| path.starts_with(p))
        };
        let (wholes, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|(path, _)| whole(path));
        let other = wholes
            .into_iter()
            .map(|(_, settings)| take_live(&mut running.clone(), &complete(settings)));
        let mut other = other.flatten();
        assert!(other.all(|field| ["kubernetes", "admission"].contains(&field)));
        let live = all.into_iter().filter_map(|(path, settings)| {
            take_live(&mut running.clone(), &complete(settings))
                .is_empty()
                .then_some(path)
        });
        assert_eq!(
            live.collect::<BTreeSet<_>>(),
            listed,
            "egress-agent.live of the chart"
        );
    }
}
