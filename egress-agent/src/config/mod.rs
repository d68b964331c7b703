//! The agent's own configuration: merges the command line with the config file, fills in defaults and
//! rejects contradictions. Reads no cgroup and no kernel.

mod access_log;
mod admission;
mod choices;
mod dns;
mod essentials;
mod glob;
mod kubernetes;
pub mod reload;
mod resolv_conf;
mod settings;
mod values;
mod workloads;

pub use access_log::AccessLog;
pub use admission::{Admission, AdmissionSettings};
pub use choices::{
    AccessLogEncoding, DeniedAnswer, DenyErrno, Intercept, LogFormat, Mode, OnExit, OnRemoval,
    TrafficPolicy, UnlistedAddress,
};
pub use dns::{Dns, DnsSettings};
pub use essentials::Essentials;
pub use glob::CgroupGlob;
pub use kubernetes::{DEFAULT_ROOT_NAMESPACE, Kubernetes, KubernetesSettings, OwnPod};
pub use settings::{LogSettings, MonitoringSettings, Settings};
pub use values::{Cidr, DnsServer, ListenAddress, Span};
pub use workloads::{PodsEntry, WorkloadEntry, audits_all};

use crate::failure::Failure;
use crate::gate::pods::AUTO;
use crate::kernel::canary;
use egress_core::dns::name_server::NameServer;
use egress_core::policy::leases::PrivateAnswers;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Folder of the pins, which outlive the agent.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/egress-agent";
/// Where a running agent answers `status`, `wait` and `explain`.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/egress-agent.sock";
/// The default log filter. Libraries log errors only: their warnings concern single datagrams and
/// files, and do not help a reader of the agent's log.
pub const DEFAULT_LOG_FILTER: &str =
    "info,hickory_net=error,hickory_proto=error,hickory_resolver=error,notify=error";
/// The port that Istio's sidecars redirect outbound TCP to.
pub const DEFAULT_PROXY_PORT: u16 = 15001;
/// Networks that the kernel's tables have room for: as many as single addresses. Unused room takes no
/// memory.
pub const DEFAULT_MAX_NETWORKS: u32 = 1 << 20;
/// In MiB: a workload's quarter has room for 853 requests at one time.
const DEFAULT_PROXY_MEMORY: u16 = 160;
/// In MiB: with less, a workload's quarter has room for a few dozen requests only.
const LEAST_PROXY_MEMORY: u16 = 16;

/// The agent's configuration, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Rule files and folders; at least one, unless rules come from the Kubernetes API.
    pub rules: Vec<PathBuf>,
    /// Enforced roots as given, at least one; [`crate::gate::roots::Roots::look`] checks them.
    pub cgroups: Vec<PathBuf>,
    /// The agent's own cgroup, if the user chose one.
    pub agent_cgroup: Option<PathBuf>,
    /// Folder on bpffs for pins.
    pub bpf_dir: PathBuf,
    /// The agent's own queries.
    pub dns: Dns,
    /// Whether private, loopback and link-local addresses in answers are taken.
    pub allow_private_answers: bool,
    /// Private networks whose addresses are accepted in answers although `allow_private_answers` is not
    /// set.
    pub private_answers: Vec<PrivateAnswers>,
    /// Networks that are allowed without a rule.
    pub internal: Vec<IpNet>,
    /// Whether workloads may be in network namespaces other than the agent's own. If so, the proxy
    /// listens and dials there, and the agent keeps the capabilities that it needs for that.
    pub enter_namespaces: bool,
    /// Port of the proxy on both loopback addresses, host byte order.
    pub proxy_port: u16,
    /// What happens to the gate on SIGTERM.
    pub on_exit: OnExit,
    /// How long running flows get on SIGTERM.
    pub drain_deadline: Duration,
    /// Whether to wait, without a limit, until another agent that holds the gate stops.
    pub standby: bool,
    /// The log, which goes to stderr.
    pub log: Log,
    /// The access log; `None`: it is off.
    pub access_log: Option<AccessLog>,
    /// What happens to destinations that no rule lists.
    pub outbound_traffic_policy: TrafficPolicy,
    /// What happens to a connection to an address that belongs to no listed host, on ports whose name is
    /// checked.
    pub unlisted_address: UnlistedAddress,
    /// Whether unlisted destinations are denied, or allowed and logged.
    pub mode: Mode,
    /// Error that a denied call returns.
    pub deny_errno: DenyErrno,
    /// Networks that the kernel's tables have room for.
    pub max_networks: u32,
    /// Memory of the proxy for requests and buffers, in MiB.
    pub proxy_memory: u16,
    /// Folders whose files rules may name as client certificates and keys.
    pub client_certificates: Vec<PathBuf>,
    /// What happens to running flows whose rule was removed.
    pub on_removal: OnRemoval,
    /// Time between two canaries.
    pub canary_interval: Duration,
    /// Unix socket for `status`, `wait` and `explain`.
    pub admin_socket: PathBuf,
    /// Where metrics and health are served; `None`: nowhere.
    pub monitoring_address: Option<ListenAddress>,
    /// The validating webhook; `None`: it is not served.
    pub admission: Option<Admission>,
    /// Identities of workloads by cgroup. The first entry that matches applies.
    pub workloads: Vec<WorkloadEntry>,
    /// The Kubernetes API; `None`: it is not used.
    pub kubernetes: Option<Kubernetes>,
}

/// `log` of [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

impl Config {
    /// Loads the config: a flag wins over the file, if one is named, and the file over the default.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, Failure> {
        let settings = match file {
            Some(path) => flags.over(Settings::from_file(path)?),
            None => flags,
        };
        let servers = settings.dns.servers.iter().map(|s| s.0.clone()).collect();
        Self::complete(settings, servers, resolv_conf::system_servers)
    }

    /// Whether the agent finds the pods' root itself.
    pub fn finds_pods(&self) -> bool {
        self.cgroups == [PathBuf::from(AUTO)]
    }

    /// Whether nothing is denied to any workload.
    pub fn audits_all(&self) -> bool {
        audits_all(self.mode, &self.workloads)
    }

    /// The namespace whose Sidecars and DestinationRules apply in all namespaces.
    pub fn root_namespace(&self) -> &str {
        let kubernetes = self.kubernetes.as_ref();
        kubernetes.map_or(DEFAULT_ROOT_NAMESPACE, |k| &k.root_namespace)
    }

    fn complete(
        s: Settings,
        servers: Vec<NameServer>,
        system_servers: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Result<Self, Failure> {
        let of_api = s.kubernetes.as_ref().and_then(|k| k.rules);
        if s.rules.is_empty() && of_api != Some(true) {
            return Err(Failure::usage(
                "no rules: name a file or a folder with --rules PATH or `rules` in the config file, or take them from \
                 the Kubernetes API with --kubernetes-rules or `kubernetes: {rules: true}`",
            ));
        }
        if s.cgroups.is_empty() {
            return Err(Failure::usage(
                "no enforced root: name a cgroup with --cgroup PATH or `cgroups` in the config file",
            ));
        }
        if s.cgroups.len() > 1 && s.cgroups.contains(&PathBuf::from(AUTO)) {
            return Err(Failure::usage(
                "cgroups: `auto` finds the pods' root and stands alone; name every root instead",
            ));
        }
        let internal: Vec<IpNet> = s.internal.iter().map(|c| c.0).collect();
        for target in canary::TARGETS {
            if let Some(net) = internal.iter().find(|net| net.contains(&target.ip())) {
                return Err(Failure::usage(format_args!(
                    "internal: {net} contains {}, a documentation address (RFC 5737, RFC 3849) that the agent connects to in order to prove that unlisted destinations are denied; name smaller networks, or set `outboundTrafficPolicy: ALLOW_ANY` to allow everything",
                    target.ip()
                )));
            }
        }
        if s.proxy_port == Some(0) {
            return Err(Failure::usage(
                "proxyPort: 0 is not a port; want 1 to 65535",
            ));
        }
        if s.proxy_memory.is_some_and(|mib| mib < LEAST_PROXY_MEMORY) {
            return Err(Failure::usage(format_args!(
                "proxyMemory: want at least {LEAST_PROXY_MEMORY} (MiB)"
            )));
        }
        if s.canary_interval
            .is_some_and(|d| d.0 < Duration::from_secs(1))
        {
            return Err(Failure::usage("canaryInterval: want at least 1s"));
        }
        let proxy_port = s.proxy_port.unwrap_or(DEFAULT_PROXY_PORT);
        if s.monitoring.address.is_some_and(|at| at.port == proxy_port) {
            return Err(Failure::usage(format_args!(
                "monitoring.address: port {proxy_port} is the proxy's (proxyPort); choose another"
            )));
        }
        let admission = Admission::of(&s.admission, proxy_port)?;
        let access_log = AccessLog::of(&s)?;
        let environment = |name: &str| std::env::var(name).ok();
        let kubernetes = s.kubernetes.map(|k| Kubernetes::of(k, environment));
        let kubernetes = kubernetes.transpose()?;
        kubernetes::fits(kubernetes.as_ref(), &s.workloads)?;
        Ok(Self {
            access_log,
            kubernetes,
            rules: s.rules,
            cgroups: s.cgroups,
            agent_cgroup: s.agent_cgroup,
            bpf_dir: s.bpf_dir.unwrap_or_else(|| DEFAULT_BPF_DIR.into()),
            dns: Dns::of(&s.dns, servers, system_servers)?,
            allow_private_answers: s.allow_private_answers.unwrap_or(false),
            private_answers: s.private_answers.into_iter().map(|a| a.0).collect(),
            internal,
            enter_namespaces: s.enter_namespaces.unwrap_or(true),
            proxy_port,
            on_exit: s.on_exit.unwrap_or_default(),
            // Istio's default terminationDrainDuration.
            drain_deadline: s.drain_deadline.map_or(Duration::from_secs(5), |d| d.0),
            standby: s.standby.unwrap_or(false),
            log: Log {
                format: s.log.format.unwrap_or_default(),
                filter: s
                    .log
                    .filter
                    .unwrap_or_else(|| DEFAULT_LOG_FILTER.to_owned()),
            },
            outbound_traffic_policy: s.outbound_traffic_policy.unwrap_or_default(),
            unlisted_address: s.unlisted_address.unwrap_or_default(),
            mode: s.mode.unwrap_or_default(),
            deny_errno: s.deny_errno.unwrap_or_default(),
            max_networks: s.max_networks.unwrap_or(DEFAULT_MAX_NETWORKS),
            proxy_memory: s.proxy_memory.unwrap_or(DEFAULT_PROXY_MEMORY),
            client_certificates: s.client_certificates,
            on_removal: s.on_removal.unwrap_or_default(),
            canary_interval: s.canary_interval.map_or(Duration::from_secs(10), |d| d.0),
            admin_socket: s
                .admin_socket
                .unwrap_or_else(|| DEFAULT_ADMIN_SOCKET.into()),
            monitoring_address: s.monitoring.address,
            admission,
            workloads: s.workloads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Settings {
        Settings {
            rules: vec!["r.yaml".into()],
            cgroups: vec!["/c".into()],
            ..Settings::default()
        }
    }

    fn complete(s: Settings) -> Result<Config, Failure> {
        let servers = s.dns.servers.iter().map(|s| s.0.clone()).collect();
        Config::complete(s, servers, || vec![([127, 0, 0, 1], 53).into()])
    }

    #[test]
    fn the_defaults_keep_the_gate_closed() {
        let c = complete(minimal()).unwrap();
        assert_eq!(c.outbound_traffic_policy, TrafficPolicy::RegistryOnly);
        assert_eq!(c.unlisted_address, UnlistedAddress::Refuse);
        assert_eq!(c.on_exit, OnExit::Keep);
        assert!(!c.allow_private_answers && c.internal.is_empty());
        assert_eq!(c.bpf_dir, Path::new("/sys/fs/bpf/egress-agent"));
        assert_eq!(c.proxy_port, 15001);
        assert_eq!(
            c.dns.servers,
            [SocketAddr::from(([127, 0, 0, 1], 53)).into()]
        );
    }

    #[test]
    fn a_flag_beats_the_file_and_named_servers_beat_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(
            &file,
            "rules: [f.yaml]\ncgroups: [/f]\nproxyPort: 1\ndns: {servers: [192.0.2.9]}\n",
        )
        .unwrap();
        let flags = Settings {
            proxy_port: Some(2),
            rules: vec!["flag.yaml".into()],
            ..Settings::default()
        };
        let c = Config::load(flags, Some(&file)).unwrap();
        assert_eq!(
            (c.proxy_port, c.rules[0].to_str().unwrap()),
            (2, "flag.yaml")
        );
        assert_eq!(c.cgroups, [PathBuf::from("/f")]);
        assert_eq!(
            c.dns.servers,
            [SocketAddr::from(([192, 0, 2, 9], 53)).into()]
        );
    }

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        for (settings, part) in [
            (
                Settings {
                    rules: vec![],
                    ..minimal()
                },
                "--rules",
            ),
            (
                Settings {
                    cgroups: vec![],
                    ..minimal()
                },
                "--cgroup",
            ),
            (
                Settings {
                    proxy_port: Some(0),
                    ..minimal()
                },
                "proxyPort",
            ),
            (
                Settings {
                    monitoring: MonitoringSettings {
                        address: Some(":15001".parse().unwrap()),
                    },
                    ..minimal()
                },
                "monitoring.address",
            ),
            (
                Settings {
                    admission: AdmissionSettings {
                        address: Some(":9443".parse().unwrap()),
                        certificate: None,
                    },
                    ..minimal()
                },
                "admission.certificate",
            ),
            (
                Settings {
                    cgroups: vec!["auto".into(), "/c".into()],
                    ..minimal()
                },
                "`auto`",
            ),
            (
                Settings {
                    internal: vec![
                        "10.0.0.0/8".parse().unwrap(),
                        "192.0.2.0/24".parse().unwrap(),
                    ],
                    ..minimal()
                },
                "internal: 192.0.2.0/24 contains 192.0.2.1",
            ),
            (
                Settings {
                    internal: vec!["::/0".parse().unwrap()],
                    ..minimal()
                },
                "internal: ::/0 contains 2001:db8:",
            ),
        ] {
            let failure = complete(settings).unwrap_err();
            assert_eq!(failure.code, crate::failure::USAGE);
            assert!(failure.message.contains(part), "{failure}");
        }
        let missing =
            Config::load(minimal(), Some(Path::new("/nonexistent/agent.yaml"))).unwrap_err();
        assert!(
            missing.message.contains("/nonexistent/agent.yaml"),
            "{missing}"
        );
    }
}
