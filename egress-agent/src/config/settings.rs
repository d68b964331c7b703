//! Every setting, defined once: one struct describes the config file and the command line, so each field
//! has its flag. Fills in no defaults and reads nothing from the machine.

use super::admission::AdmissionSettings;
use super::choices::{
    AccessLogEncoding, DenyErrno, LogFormat, Mode, OnExit, OnRemoval, TrafficPolicy,
    UnlistedAddress,
};
use super::dns::DnsSettings;
use super::kubernetes::KubernetesSettings;
use super::values::{Cidr, ListenAddress, PrivateAnswer, Span, list};
use super::workloads::WorkloadEntry;
use crate::failure::Failure;
use clap::Args;
use serde::Deserialize;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A larger config file is not read.
const MAX_FILE: u64 = 4 << 20;

/// Settings as given; `None` and empty lists mean "not set".
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Istio rules, YAML or JSON: a file, or a folder with *.yaml, *.yml and *.json files
    #[arg(long, value_name = "PATH")]
    pub rules: Vec<PathBuf>,
    /// Enforced root: a cgroup v2 folder, or `auto` for the cgroup in which the kubelet creates pods. The gate governs
    /// all processes below it
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<PathBuf>,
    /// Cgroup of the agent itself, outside every enforced root [default: the one it is started in]
    #[arg(long, value_name = "PATH")]
    pub agent_cgroup: Option<PathBuf>,
    /// Where programs, links and maps are pinned [default: /sys/fs/bpf/egress-agent]
    #[arg(long, value_name = "PATH")]
    pub bpf_dir: Option<PathBuf>,
    /// The agent's own queries
    #[command(flatten)]
    pub dns: DnsSettings,
    /// Accept private, loopback and link-local addresses in DNS answers for listed hosts
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub allow_private_answers: Option<bool>,
    /// Accept addresses of this network in DNS answers although it is not public, for one host or
    /// for all
    #[arg(long = "private-answer", value_name = "[HOST=]CIDR")]
    pub private_answers: Vec<PrivateAnswer>,
    /// Network that is allowed without a rule, such as the cluster's pod and service ranges
    #[arg(long, value_name = "CIDR")]
    pub internal: Vec<Cidr>,
    /// Serve workloads in other network namespaces than the agent's [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub enter_namespaces: Option<bool>,
    /// Port of the proxy on both loopback addresses [default: 15001]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub proxy_port: Option<u16>,
    /// What happens to the gate on SIGTERM and Ctrl-C [default: keep]
    #[arg(long, value_name = "MODE")]
    pub on_exit: Option<OnExit>,
    /// How long running flows may take to end after SIGTERM [default: 5s]
    #[arg(long, value_name = "DURATION")]
    pub drain_deadline: Option<Span>,
    /// If another agent holds the gate, wait until it is stopped and take over from it. Without this, a
    /// second agent exits with 75 [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub standby: Option<bool>,
    /// What is written to stderr
    #[command(flatten)]
    pub log: LogSettings,
    /// File for a line about each request and connection through the proxy, or /dev/stdout; empty: none [default: none]
    #[arg(long, value_name = "PATH")]
    pub access_log_file: Option<PathBuf>,
    /// Encoding of these lines [default: TEXT]
    #[arg(long, value_name = "ENCODING")]
    pub access_log_encoding: Option<AccessLogEncoding>,
    /// Format of these lines, with Envoy's commands; for JSON an object [default: Istio's]
    #[arg(long, value_name = "FORMAT")]
    pub access_log_format: Option<String>,
    /// What happens to destinations that no rule lists [default: REGISTRY_ONLY]
    #[arg(long, value_name = "MODE")]
    pub outbound_traffic_policy: Option<TrafficPolicy>,
    /// What happens to a connection to an address that does not belong to a listed host, on ports
    /// whose name is checked
    /// [default: refuse]
    #[arg(long, value_name = "MODE")]
    pub unlisted_address: Option<UnlistedAddress>,
    /// Whether unlisted destinations are denied, or allowed and logged [default: enforce]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Error that a denied call returns [default: EPERM]
    #[arg(long, value_name = "ERRNO")]
    pub deny_errno: Option<DenyErrno>,
    /// Maximum number of networks (CIDRs) of all policies together; used when the gate is created
    /// [default: 1048576]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_networks: Option<u32>,
    /// Memory for the proxy's requests and buffers, MiB; one workload gets a quarter. A request takes
    /// 48 KiB [default: 160]
    #[arg(long, value_name = "MIB")]
    pub proxy_memory: Option<u16>,
    /// Folder whose files rules may name as a client certificate and its private key (`tls` mode MUTUAL) [default:
    /// none]
    #[arg(long, value_name = "PATH")]
    pub client_certificates: Vec<PathBuf>,
    /// What happens to running flows whose rule was removed [default: close]
    #[arg(long, value_name = "MODE")]
    pub on_removal: Option<OnRemoval>,
    /// How often the agent proves that the gate is closed [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub canary_interval: Option<Span>,
    /// Unix socket for `status`, `wait` and `explain` [default: /run/egress-agent.sock]
    #[arg(long, value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Metrics and health over HTTP
    #[command(flatten)]
    pub monitoring: MonitoringSettings,
    /// The validating webhook
    #[command(flatten)]
    pub admission: AdmissionSettings,
    /// Identity of the workload in a cgroup: '{cgroup: GLOB, namespace: NS, labels: {...}, serviceAccount: NAME,
    /// mode: MODE}'; or the mode of pods of the Kubernetes API: '{pods: {namespace: NS, labels: {...}}, mode: MODE}'
    #[arg(long = "workload", value_name = "ENTRY")]
    pub workloads: Vec<WorkloadEntry>,
    /// The Kubernetes API; not used unless one of these is set
    #[command(flatten)]
    pub kubernetes: Option<KubernetesSettings>,
}

/// `log` of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogSettings {
    /// Log format [default: text]
    #[arg(id = "log_format", long = "log-format", value_name = "FORMAT")]
    pub format: Option<LogFormat>,
    /// Log filter: a level, or module=level,... [default: info, and error for libraries]
    #[arg(id = "log_filter", long = "log-filter", value_name = "FILTER")]
    pub filter: Option<String>,
}

/// `monitoring` of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MonitoringSettings {
    /// Address for /metrics, /livez and /readyz; `:PORT` for every address [default: none]
    #[arg(
        id = "monitoring_address",
        long = "monitoring-address",
        value_name = "[IP]:PORT"
    )]
    pub address: Option<ListenAddress>,
}

impl Settings {
    /// Reads a config file; an empty one sets nothing and is not an error.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = read(path)
            .map_err(|e| Failure::usage(format_args!("config file {}: {e}", path.display())))?;
        Self::from_yaml(&text)
            .map_err(|e| Failure::usage(format_args!("config file {}: {e}", path.display())))
    }

    /// Reads settings from the text of a config file.
    pub(super) fn from_yaml(text: &str) -> Result<Self, serde_yaml::Error> {
        let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if text.lines().all(blank) {
            return Ok(Self::default());
        }
        serde_yaml::from_str(text)
    }

    /// These settings, and those of `below` for fields that are not set here. Lists are not merged.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self {
            rules: list(self.rules, below.rules),
            cgroups: list(self.cgroups, below.cgroups),
            agent_cgroup: self.agent_cgroup.or(below.agent_cgroup),
            bpf_dir: self.bpf_dir.or(below.bpf_dir),
            dns: self.dns.over(below.dns),
            allow_private_answers: self.allow_private_answers.or(below.allow_private_answers),
            private_answers: list(self.private_answers, below.private_answers),
            internal: list(self.internal, below.internal),
            enter_namespaces: self.enter_namespaces.or(below.enter_namespaces),
            proxy_port: self.proxy_port.or(below.proxy_port),
            on_exit: self.on_exit.or(below.on_exit),
            drain_deadline: self.drain_deadline.or(below.drain_deadline),
            standby: self.standby.or(below.standby),
            log: LogSettings {
                format: self.log.format.or(below.log.format),
                filter: self.log.filter.or(below.log.filter),
            },
            access_log_file: self.access_log_file.or(below.access_log_file),
            access_log_encoding: self.access_log_encoding.or(below.access_log_encoding),
            access_log_format: self.access_log_format.or(below.access_log_format),
            outbound_traffic_policy: self
                .outbound_traffic_policy
                .or(below.outbound_traffic_policy),
            unlisted_address: self.unlisted_address.or(below.unlisted_address),
            mode: self.mode.or(below.mode),
            deny_errno: self.deny_errno.or(below.deny_errno),
            max_networks: self.max_networks.or(below.max_networks),
            proxy_memory: self.proxy_memory.or(below.proxy_memory),
            client_certificates: list(self.client_certificates, below.client_certificates),
            on_removal: self.on_removal.or(below.on_removal),
            canary_interval: self.canary_interval.or(below.canary_interval),
            admin_socket: self.admin_socket.or(below.admin_socket),
            monitoring: MonitoringSettings {
                address: self.monitoring.address.or(below.monitoring.address),
            },
            admission: self.admission.over(below.admission),
            workloads: list(self.workloads, below.workloads),
            kubernetes: match (self.kubernetes, below.kubernetes) {
                (Some(above), Some(below)) => Some(above.over(below)),
                (above, below) => above.or(below),
            },
        }
    }
}

/// Reads a config file. Checks first that it is a regular file, because opening a FIFO waits for its
/// writer.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if meta.len() > MAX_FILE {
        let limit = MAX_FILE >> 20;
        return Err(io::Error::other(format!("is larger than {limit} MiB")));
    }
    let mut text = String::new();
    fs::File::open(path)?
        .take(MAX_FILE)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Every field of the file.
#[cfg(test)]
pub(super) const FULL: &str = "
rules: [/etc/egress/rules]
cgroups: [/sys/fs/cgroup/workloads]
agentCgroup: /sys/fs/cgroup/egress-agent
bpfDir: /sys/fs/bpf/x
dns: {servers: [192.0.2.1, '[2001:db8::1]:5353', 'tls://192.0.2.2#dns.example'], caCertificates: /etc/ssl/dns.pem, minTTL: 5s, grace: 10m, intercept: auto, denied: nxdomain, types: [TXT, MX], search: [corp.example], clusterDomain: k8s.example, belowLength: 64, belowLabels: 2, belowBurst: 10, belowPerMinute: 5}
allowPrivateAnswers: true
privateAnswers: [172.16.0.0/12, '*.rds.example=10.0.0.0/8']
internal: [10.0.0.0/8]
enterNamespaces: false
proxyPort: 15002
onExit: detach
drainDeadline: 1m30s
standby: true
log: {format: json, filter: debug}
accessLogFile: /var/log/egress/access.log
accessLogEncoding: TEXT
accessLogFormat: '%DURATION%'
outboundTrafficPolicy: ALLOW_ANY
unlistedAddress: byName
mode: audit
denyErrno: ECONNREFUSED
maxNetworks: 65536
proxyMemory: 640
clientCertificates: [/etc/egress/certificates]
onRemoval: keep
canaryInterval: 30s
adminSocket: /run/x.sock
monitoring: {address: '127.0.0.1:15020'}
admission: {address: ':9443', certificate: /etc/egress/admission}
workloads: [{cgroup: 'shop.slice/*', namespace: shop, labels: {app: web}}, {pods: {namespace: shop}, mode: audit}]
kubernetes: {node: node-1, kubeconfig: /etc/egress/kubeconfig, identity: true, rules: true, clusterRanges: true, rootNamespace: mesh, startupTaint: true, publishRules: true, publishWithin: 2s, conditions: true, events: true}
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_field_of_the_file_is_read() {
        let s = Settings::from_yaml(FULL).unwrap();
        assert_eq!(s.dns.servers[1].0.address.port(), 5353);
        assert_eq!(s.dns.min_ttl, Some(Span(Duration::from_secs(5))));
        assert_eq!(s.on_exit, Some(OnExit::Detach));
        assert_eq!(s.proxy_memory, Some(640));
        let address = s.monitoring.address.map(|at| at.to_string());
        assert_eq!(address.as_deref(), Some("127.0.0.1:15020"));
        let hosts: Vec<_> = s
            .private_answers
            .iter()
            .map(|a| a.0.host.as_deref())
            .collect();
        assert_eq!(hosts, [None, Some("*.rds.example")]);
        assert_eq!(s.outbound_traffic_policy, Some(TrafficPolicy::AllowAny));
        assert_eq!(s.unlisted_address, Some(UnlistedAddress::ByName));
        assert_eq!(s.deny_errno.map(DenyErrno::number), Some(111));
        assert_eq!(
            (s.mode, s.on_removal),
            (Some(Mode::Audit), Some(OnRemoval::Keep))
        );
        let WorkloadEntry::Cgroup(entry) = &s.workloads[0] else {
            panic!("{:?}", s.workloads)
        };
        assert!(entry.cgroup.fits("shop.slice/web.service"));
        let kubernetes = s.kubernetes.as_ref().unwrap();
        assert_eq!(kubernetes.node.as_deref(), Some("node-1"));
        let none = Settings::default();
        assert_eq!(
            none.clone().over(s.clone()),
            s,
            "nothing said above: all from below"
        );
        assert_eq!(
            s.clone().over(none),
            s,
            "nothing said below: all from above"
        );
    }

    #[test]
    fn an_unknown_field_and_a_bad_value_name_field_and_line() {
        for (text, parts) in [
            ("rules: []\nproxyport: 1\n", vec!["proxyport", "line 2"]),
            ("dns:\n  ttl: 3s\n", vec!["dns", "ttl", "line 2"]),
            ("dns:\n  minTTL: 3\n", vec!["dns.minTTL", "line 2"]),
            (
                "dns:\n  grace: soon\n",
                vec!["dns.grace", "`soon`", "line 2"],
            ),
            ("onExit: open\n", vec!["onExit", "open", "keep", "line 1"]),
            (
                "privateAnswers: [a=10.1.0.0/8]\n",
                vec!["privateAnswers[0]", "10.0.0.0/8"],
            ),
            (
                "privateAnswers: ['*=10.0.0.0/8']\n",
                vec!["privateAnswers[0]", "`*`"],
            ),
            (
                "internal: [10.1.0.0/8]\n",
                vec!["internal[0]", "10.0.0.0/8"],
            ),
            ("proxyPort: 70000\n", vec!["proxyPort", "70000"]),
            (
                "monitoring: {address: localhost:9090}\n",
                vec!["monitoring.address", "`localhost:9090`", "line 1"],
            ),
            (
                "monitoring: {address: ':0'}\n",
                vec!["monitoring.address", "`:0`"],
            ),
            ("monitoring: {port: 1}\n", vec!["monitoring", "port"]),
            ("rules: [a\n", vec!["line"]),
            (
                "kubernetes:\n  nodeName: a\n",
                vec!["kubernetes", "nodeName", "line 2"],
            ),
            (
                "workloads: [{cgroup: /a}]\n",
                vec!["workloads[0].cgroup", "`/a`", "line 1"],
            ),
            (
                "workloads:\n- namespace: a\n",
                vec!["workloads[0]", "cgroup", "line 2"],
            ),
        ] {
            let error = Settings::from_yaml(text).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{text:?}: {error:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "\n", "# nothing yet\n"] {
            assert_eq!(
                Settings::from_yaml(text).unwrap(),
                Settings::default(),
                "{text:?}"
            );
        }
    }
}
