//! Connects folders that must not know each other: gives the engine its parts of the kernel side and of
//! the socket factory, and gives the proxy its parts of these and of the engine.

mod assembled;
mod cluster;
mod dns;
mod exit;
mod kubernetes;

pub(crate) use assembled::{Base, Doors, Parts, WatchParts, assemble};
pub use cluster::Cluster;
pub use exit::{end, end_early};

use crate::access_log::AccessLog;
use crate::admission::serve_reviews;
use crate::config::{Config, LogFormat, OnRemoval};
use crate::dns::{NameServers, Resolver, Server};
use crate::engine::{Ending, Engine, News};
use crate::gate::roots::Roots;
use crate::kernel::{Kernel, Live, Origins};
use crate::monitoring;
use crate::observe::counters::Counters;
use crate::observe::event::Owners;
use crate::observe::flows::FlowLog;
use crate::observe::pod_denials::PodDenials;
use crate::operate::reporter::{Providers, Reporter};
use crate::privilege;
use crate::proxy::{
    BoxFuture, Dialer, DnsStreams, Limits, NameResolver, Origin, OriginLookup, Shared,
};
use crate::secret_store::SecretStore;
use crate::sockets::SocketFactory;
use crate::workloads::{Identities, Sharers};
use crate::{memory, observe};
use arc_swap::ArcSwap;
use dns::{DnsConnections, LEASES, dns_server};
use egress_core::policy::leases::{Answer, Failure, InForce, LeaseSettings};
use egress_ebpf::ids::NetnsCookie;
use kubernetes::publish;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Looks up the origin of a flow in the kernel and adds the workload that the agent knows.
struct FlowOrigins {
    kernel: Origins,
    sharers: Sharers,
}

impl OriginLookup for FlowOrigins {
    fn origin(&self, accepted: BorrowedFd<'_>) -> Option<Origin> {
        let flow = self.kernel.get(accepted)?;
        let owners = self.kernel.owners(&flow);
        Some(Origin {
            destination: SocketAddr::new(IpAddr::from(flow.addr), flow.port),
            policy: flow.policy,
            cgroup: flow.cgroup,
            sharer: self.sharers.of(&owners),
            owners,
            pid: flow.pid,
            comm: flow.comm.to_string(),
            netns: flow.netns,
        })
    }
}

/// The socket factory as a dialer.
pub struct FactoryDialer(pub Arc<SocketFactory>);

impl Dialer for FactoryDialer {
    fn connect(&self, netns: NetnsCookie, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(self.0.connect(netns, to, UPSTREAM_CONNECT))
    }
}

/// The agent's own questions, without the answers that the config does not accept.
struct PublicNames {
    resolver: Resolver,
    answers: Arc<ArcSwap<LeaseSettings>>,
    in_force: Arc<ArcSwap<InForce>>,
}

impl NameResolver for PublicNames {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Answer, Failure>> {
        let name = name.to_owned();
        Box::pin(async move {
            let answer = self.resolver.resolve(&name).await?;
            let (addresses, others) = self.answers.load().accepted(&name, answer.addresses);
            match others.first().filter(|_| addresses.is_empty()) {
                Some(ip) => Err(Failure::NotPublic(*ip)),
                None => Ok(Answer {
                    addresses,
                    ttl: answer.ttl,
                }),
            }
        })
    }

    fn leases(&self, name: &str, address: IpAddr) -> bool {
        self.in_force.load().has(name, address)
    }
}

/// The limit of one connect. The proxy's own limit is shorter.
const UPSTREAM_CONNECT: Duration = Duration::from_secs(30);

/// An engine over the kernel's tables, and the name servers that it asks.
fn engine(
    config: &Config,
    roots: &Roots,
    (kernel, sockets): (&Kernel, &Arc<SocketFactory>),
    news: News,
    owners: &Owners,
) -> anyhow::Result<(Engine, NameServers)> {
    let (list, authorities) = (&config.dns.servers, config.dns.ca_certificates.as_deref());
    let servers = NameServers::new(list, authorities, sockets)?;
    let resolver = Resolver::new(&servers);
    let tables = kernel.tables()?;
    let live = Live::open(&kernel.pins, tables.view())?;
    let counters = news.counters.clone();
    let ending = Ending::new(
        config.on_removal,
        live,
        Arc::clone(sockets),
        counters,
        owners.clone(),
    );
    let engine = Engine::new(config, &roots.paths, tables, resolver, ending, news)?;
    Ok((engine, servers))
}

/// Finds the workloads of cgroups, as the config's log format shows them.
fn owners(config: &Config, identities: &Identities) -> anyhow::Result<Owners> {
    let people = config.log.format == LogFormat::Text;
    Ok(Owners::new(identities.clone())?.for_people(people))
}

/// The access log, which is off, and what the proxy reports to.
fn flows(
    counters: &Counters,
    owners: &Owners,
    pods: &PodDenials,
) -> (Arc<AccessLog>, Arc<FlowLog>) {
    let access_log = Arc::new(AccessLog::new(counters.clone()));
    let flows = FlowLog::new(counters.clone(), owners.clone(), Arc::clone(&access_log));
    (access_log, Arc::new(flows.noting(pods.clone())))
}

/// Starts the tasks that give memory back and report lines that were not logged.
fn background(helpers: &mut JoinSet<()>, flows: Arc<FlowLog>) {
    helpers.spawn(memory::give_back());
    helpers.spawn(async move { flows.log_repeats().await });
    helpers.spawn(observe::log::report_suppressed());
}

/// What the proxy uses besides the engine.
struct ProxyParts<'a> {
    origins: Origins,
    servers: &'a NameServers,
    flows: &'a Arc<FlowLog>,
    /// What it answers the agent's own canaries.
    proof: &'a Arc<str>,
    secrets: &'a Arc<SecretStore>,
    dns: Option<&'a Arc<Server>>,
}

/// The shared state of the proxy's connections.
fn shared(config: &Config, engine: &Engine, parts: ProxyParts<'_>) -> Arc<Shared> {
    let ProxyParts {
        origins,
        servers,
        flows,
        proof,
        secrets,
        dns,
    } = parts;
    let origins = Arc::new(FlowOrigins {
        kernel: origins,
        sharers: engine.sharers(),
    });
    let dialer = Arc::new(FactoryDialer(Arc::clone(servers.sockets())));
    let limits = Limits {
        memory: usize::from(config.proxy_memory) << 20,
        ..privilege::proxy_limits()
    };
    let published = engine.published();
    let (routes, observer) = (Arc::clone(&published.routes), Arc::clone(flows));
    let shared = Shared::new(routes, origins, dialer, observer, limits)
        .proven_by(Arc::clone(proof))
        .with_dns(
            dns.map(|server| Arc::new(DnsConnections(Arc::clone(server))) as Arc<dyn DnsStreams>),
        )
        .presenting(&config.client_certificates, secrets)
        // Not the engine's: names that clients choose must not hold up the names in the rules.
        .resolving(Arc::new(PublicNames {
            resolver: Resolver::new(servers),
            answers: Arc::clone(&published.answers),
            in_force: Arc::clone(&published.in_force),
        }));
    Arc::new(match config.on_removal {
        OnRemoval::Close => shared.ending_removed(published.changes()),
        OnRemoval::Keep => shared,
    })
}

/// Serves the status on the admin socket and, if the config says so, metrics and health over HTTP and the validating webhook.
/// Publishes in the Kubernetes API what the config says.
fn report(
    config: &Config,
    kernel: &Kernel,
    roots: &[PathBuf],
    cluster: &Cluster,
    providers: Providers,
    tasks: &mut JoinSet<()>,
) {
    publish(config, cluster, &providers.applied, tasks);
    let status = Arc::new(Reporter::new(config, kernel, roots, providers));
    if let Some(address) = config.monitoring_address {
        tasks.spawn(monitoring::serve(address, Arc::clone(&status)));
    }
    if let Some(admission) = config.admission.clone() {
        tasks.spawn(serve_reviews(admission));
    }
    tasks.spawn(status.serve(config.admin_socket.clone()));
}

/// A line that no other process knows. The proxy answers the agent's own canaries with it.
fn proof() -> io::Result<Arc<str>> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("egress-agent {:032x}\n", u128::from_ne_bytes(random)).into())
}
