//! Makes the parts of the agent for a closed gate, and connects them. Nothing is served and no table is written yet.

use super::cluster::Cluster;
use super::kubernetes::kubernetes;
use super::{
    LEASES, ProxyParts, background, dns_server, engine, flows, owners, proof, report, shared,
};
use crate::access_log::AccessLog;
use crate::config::Config;
use crate::dns::NameServers;
use crate::engine::{Engine, News};
use crate::gate::roots::Roots;
use crate::keeper::Canaries;
use crate::kernel::{self, Events, Kernel};
use crate::namespaces::Services;
use crate::observe::counters::Registry;
use crate::observe::denials::Denials;
use crate::observe::readiness::Board;
use crate::operate::reporter::Providers;
use crate::proxy::{Drain, drain_channel};
use crate::sockets::SocketFactory;
use crate::workloads::{Identities, Missed};
use std::sync::Arc;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What the parts are made of.
pub(crate) struct Base<'a> {
    pub kernel: Kernel,
    pub sockets: &'a Arc<SocketFactory>,
    pub cluster: &'a Cluster,
    pub roots: &'a Roots,
    /// The problem of the rule files, if there is one.
    pub problem: watch::Receiver<Option<String>>,
}

/// The parts of an agent that does not run yet.
pub(crate) struct Parts {
    pub kernel: Kernel,
    pub engine: Engine,
    pub names: NameServers,
    pub access_log: Arc<AccessLog>,
    pub denials: Denials,
    /// The kernel's denials, for `denials`.
    pub events: Events,
    pub watch: WatchParts,
    pub doors: Doors,
    /// Takes each version of the config for the engine.
    pub reloaded: mpsc::Sender<Config>,
    /// Writes the log of the programs.
    pub program_log: JoinHandle<anyhow::Result<()>>,
    /// Tasks that end before the engine's state is final.
    pub helpers: JoinSet<()>,
}

/// What watches over the gate once it is in force.
pub(crate) struct WatchParts {
    pub board: Board,
    pub canaries: Canaries,
    pub registry: Registry,
    /// Notified when a root was closed.
    pub came: Arc<Notify>,
    /// What the proxy answers a canary that was redirected to it.
    pub proof: Arc<str>,
}

/// How the proxy's listeners begin and end to accept.
pub(crate) struct Doors {
    /// True once connections may be accepted.
    pub accept: watch::Sender<bool>,
    pub drain: Drain,
}

/// Makes the parts, and the services for the engine to serve.
pub(crate) fn assemble(config: &Config, base: Base<'_>) -> anyhow::Result<(Parts, Services)> {
    let Base {
        mut kernel,
        sockets,
        cluster,
        roots,
        problem,
    } = base;
    let (events, origins) = (kernel.events()?, kernel.origins()?);
    let program_log = tokio::spawn(kernel.program_log()?.pump());
    let watch = WatchParts {
        board: Board::default(),
        canaries: Canaries::default(),
        registry: Registry::new(kernel::Counters::open(&kernel.pins)?),
        came: Arc::default(),
        proof: proof()?,
    };
    watch.canaries.expect_config(config);
    let counters = &watch.registry.own;
    let (ask, asks) = mpsc::channel(4);
    let (reloaded, configs) = mpsc::channel(1);
    let (learn, learned) = mpsc::channel(LEASES);
    let (missed, identities) = (Missed::default(), Identities::default());
    let owners = owners(config, &identities)?;
    let (followed, mut helpers) = kubernetes(config, cluster, &watch.board);
    let news = News {
        asks,
        configs,
        pods: followed.pods,
        learned,
        came: Arc::clone(&watch.came),
        missed: missed.clone(),
        board: watch.board.clone(),
        canaries: watch.canaries.clone(),
        counters: counters.clone(),
        identities,
        cluster: cluster.ranges(),
    };
    let (engine, names) = engine(config, roots, (&kernel, sockets), news, &owners)?;
    let (access_log, flows) = flows(counters, &owners, &followed.denials);
    let dns = dns_server(config, &kernel, &engine, &names, &flows, learn)?;
    let proxy = ProxyParts {
        origins,
        servers: &names,
        flows: &flows,
        proof: &watch.proof,
        secrets: &cluster.secrets,
        dns: dns.as_ref(),
    };
    let shared = shared(config, &engine, proxy);
    let providers = Providers {
        board: watch.board.clone(),
        registry: watch.registry.clone(),
        problem,
        engine: ask,
        applied: engine.applied(),
        proxy: Arc::clone(&shared),
        dns: (dns.clone(), names.clone()),
        kubernetes: followed.standings,
        cluster: cluster.ranges.clone(),
    };
    report(
        config,
        &kernel,
        &roots.paths,
        cluster,
        providers,
        &mut helpers,
    );
    background(&mut helpers, flows);
    let (canaries, of_names) = (watch.canaries.clone(), engine.published().names);
    let denials = Denials::new(of_names, missed, canaries, counters.clone(), owners);
    let (drain, signal) = drain_channel();
    let (accept, accepts) = watch::channel(false);
    let services = Services::new(config.proxy_port, (shared, dns), signal, accepts);
    let parts = Parts {
        kernel,
        engine,
        names,
        access_log,
        denials: denials.noting(followed.denials),
        events,
        watch,
        doors: Doors { accept, drain },
        reloaded,
        program_log,
        helpers,
    };
    Ok((parts, services))
}
