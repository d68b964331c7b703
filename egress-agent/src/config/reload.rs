//! Reads the config file again when it changes and on SIGHUP. A file with a mistake changes nothing.
//! Logs the changed fields that need a restart.

use crate::access_log::AccessLog;
use crate::config::{Config, Dns, Settings};
use crate::dns::NameServers;
use crate::failure::Failure;
use egress_core::dns::settings::Below;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// Time between two looks at the file.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

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

/// Who takes a valid version.
pub struct Takers {
    /// The engine.
    pub engine: mpsc::Sender<Config>,
    /// The access log.
    pub access_log: Arc<AccessLog>,
    /// The name servers.
    pub servers: NameServers,
}

/// Follows the file and sends each valid version of it to `engine`, to the access log, whose file SIGHUP opens again in any
/// case, and to the name servers, whose authorities are read again each time. Returns when the engine has ended.
pub async fn follow(source: Source, mut current: Config, mut hangup: Signal, takers: Takers) {
    let Takers {
        engine,
        access_log,
        servers,
    } = takers;
    let file = source.file.as_deref();
    let mut seen = stamp(file);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(POLL_INTERVAL) => false,
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

/// Sets these fields of a config to the values of the bindings with their names.
macro_rules! take {
    ($running:ident from $($field:ident),+ $(,)?) => {
        $($running.$field.clone_from($field);)+
    };
}

/// The names of those fields of a config that differ from the bindings with their names.
macro_rules! fixed {
    ($($running:ident).+ from $($name:literal: $field:ident),+ $(,)?) => {
        fixed!(@($($running).+) $($name: $field),+)
    };
    (@$running:tt $($name:literal: $field:ident),+) => {{
        let mut names = Vec::new();
        $(if $running.$field != *$field {
            names.push($name);
        })+
        names
    }};
}

/// Takes the fields that a running agent can change from `new`. Returns the names of the other fields that
/// differ.
///
/// The pattern names every field, so that a field in neither list does not compile.
fn take_live(running: &mut Config, new: &Config) -> Vec<&'static str> {
    let Config {
        rules,
        cgroups,
        agent_cgroup,
        bpf_dir,
        dns,
        allow_private_answers,
        private_answers,
        internal,
        enter_namespaces,
        proxy_port,
        on_exit,
        drain_deadline,
        standby,
        log,
        access_log,
        outbound_traffic_policy,
        unlisted_address,
        mode,
        deny_errno,
        max_networks,
        proxy_memory,
        client_certificates,
        on_removal,
        canary_interval,
        admin_socket,
        monitoring_address,
        admission,
        workloads,
        kubernetes,
    } = new;
    take!(running from
        allow_private_answers,
        private_answers,
        internal,
        outbound_traffic_policy,
        unlisted_address,
        mode,
        deny_errno,
        workloads,
        access_log,
    );
    let mut fixed = fixed!(running from
        "rules": rules,
        "cgroups": cgroups,
        "agentCgroup": agent_cgroup,
        "bpfDir": bpf_dir,
    );
    fixed.extend(take_live_dns(&mut running.dns, dns));
    fixed.extend(fixed!(running from
        "enterNamespaces": enter_namespaces,
        "proxyPort": proxy_port,
        "onExit": on_exit,
        "drainDeadline": drain_deadline,
        "standby": standby,
        "log": log,
        "maxNetworks": max_networks,
        "proxyMemory": proxy_memory,
        "clientCertificates": client_certificates,
        "onRemoval": on_removal,
        "canaryInterval": canary_interval,
        "adminSocket": admin_socket,
        "kubernetes": kubernetes,
        "monitoring.address": monitoring_address,
        "admission": admission,
    ));
    fixed
}

/// The same for `dns`.
fn take_live_dns(running: &mut Dns, new: &Dns) -> Vec<&'static str> {
    let Dns {
        servers,
        ca_certificates,
        min_ttl,
        grace,
        intercept,
        denied,
        types,
        search,
        cluster_domain,
        below,
    } = new;
    let Below {
        length,
        labels,
        burst,
        per_minute,
    } = below;
    take!(running from ca_certificates, min_ttl, grace);
    let mut fixed = fixed!(running from
        "dns.servers": servers,
        "dns.intercept": intercept,
        "dns.denied": denied,
        "dns.types": types,
        "dns.search": search,
        "dns.clusterDomain": cluster_domain,
    );
    fixed.extend(fixed!(running.below from
        "dns.belowLength": length,
        "dns.belowLabels": labels,
        "dns.belowBurst": burst,
        "dns.belowPerMinute": per_minute,
    ));
    fixed
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
