//! The composition root: creates and connects the parts of the agent, and ends them. Decides nothing else.

use crate::cluster::Cluster;
use crate::config::Config;
use crate::config::reload::{self, Source};
use crate::engine::News;
use crate::gate::roots::Roots;
use crate::gate::started::Started;
use crate::gate::{self, Gate, own, rootwatch};
use crate::handover::{self, Inheritance};
use crate::keeper::{Canaries, Keeper};
use crate::kernel;
use crate::namespaces::Services;
use crate::observe::counters::Registry;
use crate::observe::readiness::Board;
use crate::operate::manager;
use crate::operate::reporter::Providers;
use crate::privilege::Needs;
use crate::proxy;
use crate::sockets::SocketFactory;
use crate::sources::{Feed, RuleSet};
use crate::wiring;
use crate::workloads::{Identities, Missed};
use crate::{cgroup2, observe, privilege, standby, stop};
use anyhow::Context as _;
use rustix::thread::CapabilitySet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};

/// Runs the agent until a signal asks it to stop. It closes the gate first, so an error in any later step
/// leaves the gate closed.
pub fn run(config: &Config, source: Source) -> anyhow::Result<()> {
    observe::log::init(&config.log)?;
    stop::ignore_others();
    privilege::require()?;
    kernel::supported()?;
    privilege::no_new_privileges()?;
    cgroup2::join_first_namespace()?;
    let started = Started::now();
    let (audits, patience) = (config.audits_all(), standby::patience(config)?);
    let mut inheritance = Inheritance::default();
    let mut gate = gate::close(
        &config.bpf_dir,
        &config.cgroups,
        config.max_networks,
        audits,
        patience,
        |lock, roots| inheritance = Inheritance::take(config, lock, roots),
    )?;
    tracing::info!(
        roots = %gate::shown(&gate.roots.paths),
        adopted = gate.kernel.adopted,
        took_programs = gate.kernel.took_programs(),
        "attached to the enforced roots; reading the rules"
    );
    if let Some(wrong) = gate.roots.wrong.take() {
        return Err(wrong.into());
    }
    let roots = gate.roots.clone();
    let kept = privilege::kept(Needs {
        foreign_cgroups: cgroup2::any_foreign(&roots.paths),
        namespaces: config.enter_namespaces,
    });
    let runtime = runtime(kept)?;
    let _inside = runtime.enter();
    // The process moves before it creates a socket, because a socket belongs to the cgroup that its process
    // is in at that time.
    let own = own::settle(config, &roots.paths)?;
    kernel::attach_agent(&mut gate.kernel, &own)?;
    let (cluster, (feed, follower)) = with_less(kept, || {
        let _inside = runtime.enter();
        let cluster = runtime.block_on(Cluster::begin(config))?;
        let followed = cluster.follow_rules(config)?;
        anyhow::Ok((cluster, followed))
    })??;
    let place = Place {
        own,
        started,
        roots,
        kept,
        cluster,
    };
    runtime.block_on(async {
        let follower = tokio::spawn(follower);
        let result = serve(config, source, &place, gate, feed, inheritance).await;
        follower.abort();
        result
    })
}

/// Starts the runtime. Its threads have only the capabilities that the running agent needs. The calling
/// thread keeps more until it has loaded and attached the programs.
fn runtime(kept: CapabilitySet) -> anyhow::Result<tokio::runtime::Runtime> {
    let less = move || {
        if let Err(error) = privilege::give_up(kept) {
            tracing::error!(%error, "a thread could not drop capabilities that it does not need");
        }
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(less)
        .build()
        .context("starting the runtime")
}

/// Runs `work` in a thread with the capabilities `kept`; threads that it starts (a file watcher's)
/// inherit them.
fn with_less<T: Send>(kept: CapabilitySet, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            privilege::give_up(kept)?;
            anyhow::Ok(work())
        });
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the start panicked"))?
    })
}

/// What the start found: where the agent and the workloads are, and what the agent may do and use.
struct Place {
    own: PathBuf,
    started: Started,
    roots: Roots,
    /// Capabilities of the running agent.
    kept: CapabilitySet,
    cluster: Cluster,
}

async fn serve(
    config: &Config,
    source: Source,
    place: &Place,
    gate: Gate,
    mut feed: Feed<RuleSet>,
    inheritance: Inheritance,
) -> anyhow::Result<()> {
    let (mut kernel, lock) = (gate.kernel, gate.lock);
    // The handlers are set up before the start is announced. The default action of an earlier signal ends
    // the process without a drain.
    let (mut stop, hangup) = (pin!(stop::asked()?), reload::hangup()?);
    let sockets = Arc::new(SocketFactory::new().context("looking at the network namespace")?);
    let previous = inheritance.settle(&sockets).await;
    let (events, origins) = (kernel.events()?, kernel.origins()?);
    let program_log = tokio::spawn(kernel.program_log()?.pump());
    let (board, canaries, came) = (Board::default(), Canaries::default(), Arc::default());
    let ((ask, asks), (reloaded, configs)) = (mpsc::channel(4), mpsc::channel(1));
    let (learn, learned) = mpsc::channel(wiring::LEASES);
    canaries.expect_config(config);
    let registry = Registry::new(kernel::Counters::open(&kernel.pins)?);
    let (missed, identities) = (Missed::default(), Identities::default());
    let owners = wiring::owners(config, &identities)?;
    let (followed, mut helpers) = wiring::kubernetes(config, &place.cluster, &board);
    let news = News {
        asks,
        configs,
        pods: followed.pods,
        learned,
        came: Arc::clone(&came),
        missed: missed.clone(),
        board: board.clone(),
        canaries: canaries.clone(),
        counters: registry.own.clone(),
        identities,
        cluster: place.cluster.ranges(),
    };
    let (proof, sides) = (wiring::proof()?, (&kernel, &sockets));
    let (mut engine, names) = wiring::engine(config, &place.roots, sides, news, &owners)?;
    let (access_log, flows) = wiring::flows(&registry.own, &owners, &followed.denials);
    let dns = wiring::dns_server(config, &kernel, &engine, &names, &flows, learn)?;
    let own = (&proof, &place.cluster.secrets, dns.as_ref());
    let shared = wiring::shared(config, &engine, origins, &names, &flows, own)?;
    let providers = Providers {
        board: board.clone(),
        registry: registry.clone(),
        problem: feed.problem.clone(),
        engine: ask,
        applied: engine.applied(),
        proxy: Arc::clone(&shared),
        dns: (dns.clone(), names.clone()),
        kubernetes: followed.standings,
        cluster: place.cluster.ranges.clone(),
    };
    let providers = (&place.cluster, providers);
    wiring::report(config, &kernel, &place.roots.paths, providers, &mut helpers);

    wiring::background(&mut helpers, flows);
    let ((drain, signal), (accept, accepts)) = (proxy::drain_channel(), watch::channel(false));
    let services = Services::new(config.proxy_port, (shared, dns), signal, accepts);
    let (first, applied) = (feed.first(), engine.applied());
    helpers.spawn(place.cluster.first_rules(&first, applied, board.clone()));
    // It writes no table before its last wait is over. A previous agent goes on until then.
    let begin = engine.begin(&first, &sockets, services, previous);
    if stop::until_asked(&mut stop, begin).await?.is_none() {
        return wiring::end_early(config, lock).await;
    }
    // Later rules replace these in `feed`, and then nothing needs their objects.
    drop(first);
    accept.send_replace(true);
    handover::forget_unused(&sockets);
    let kernel = Arc::new(Mutex::new(kernel));
    privilege::give_up(place.kept)?;
    access_log.apply(config.access_log.as_ref());
    rootwatch::start(&kernel, &place.roots.paths, board.clone(), came)?;
    let keeper = Keeper {
        counters: Arc::clone(&registry.kernel),
        counted: registry.own.clone(),
        proof,
        kernel,
        own: place.own.clone(),
        roots: place.roots.clone(),
        started: place.started.clone(),
        board,
        canaries: canaries.clone(),
    };
    keeper.check().await;
    // For the service manager, the agent has started when the gate is closed. The agent is ready later: that
    // needs workloads, which the service manager may start only after this.
    manager::notify_ready();
    helpers.spawn(keeper.keep(config.canary_interval));
    let to = (reloaded, Arc::clone(&access_log), names);
    helpers.spawn(reload::follow(source, config.clone(), hangup, to));

    let denials = wiring::denials(&engine, missed, canaries, registry.own, owners);
    let mut denials = tokio::spawn(denials.noting(followed.denials).follow(events));
    let work = async {
        tokio::select! {
            ended = engine.run((feed.current, feed.taken)) => ended,
            ended = &mut denials => ended.unwrap_or_else(|panic| Err(panic.into())),
        }
    };
    let result = stop::until_asked(stop, work).await.map(|_| ());
    engine.keep_state();
    // From here on no task attaches a removed link or writes to the kernel.
    helpers.shutdown().await;
    let leaving = (&mut engine, &drain, lock);
    let ended = wiring::end(config, leaving, result.is_ok(), || denials.abort());
    let (ended, ()) = tokio::join!(ended, place.cluster.resign());
    denials.abort();
    program_log.abort();
    access_log.finish();
    result.and(ended)
}
