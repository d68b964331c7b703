//! The composition root: creates and connects the parts of the agent, and ends them. Decides nothing else.

use crate::access_log::AccessLog;
use crate::config::Config;
use crate::config::reload::{self, Source, Takers};
use crate::engine::Engine;
use crate::gate::roots::Roots;
use crate::gate::started::Started;
use crate::gate::{self, Gate, own, rootwatch};
use crate::handover::{self, Inheritance, Leaving, standby};
use crate::keeper::Keeper;
use crate::kernel;
use crate::operate::manager;
use crate::privilege::Needs;
use crate::sockets::SocketFactory;
use crate::sources::{Feed, RuleSet};
use crate::wiring::{self, Base, Cluster, Doors, Parts, WatchParts};
use crate::{cgroup2, observe, privilege, stop};
use anyhow::Context as _;
use rustix::thread::CapabilitySet;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use tokio::task::{JoinHandle, JoinSet};

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
    let runtime = privilege::runtime(kept)?;
    let _inside = runtime.enter();
    // The process moves before it creates a socket, because a socket belongs to the cgroup that its process
    // is in at that time.
    let own = own::settle(config, &roots.paths)?;
    kernel::attach_agent(&mut gate.kernel, &own)?;
    let (cluster, (feed, follower)) = privilege::with_less(kept, || {
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
        let serving = serve(config, source, &place, gate, feed, inheritance);
        let result = Box::pin(serving).await;
        follower.abort();
        result
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
    // The handlers are set up before the start is announced. The default action of an earlier signal ends
    // the process without a drain.
    let (mut stop, hangup) = (pin!(stop::asked()?), reload::hangup()?);
    let sockets = Arc::new(SocketFactory::new().context("looking at the network namespace")?);
    let previous = inheritance.settle(&sockets).await;
    let base = Base {
        kernel: gate.kernel,
        sockets: &sockets,
        cluster: &place.cluster,
        roots: &place.roots,
        problem: feed.problem.clone(),
    };
    let (mut parts, services) = wiring::assemble(config, base)?;

    let (first, applied) = (feed.first(), parts.engine.applied());
    let board = parts.watch.board.clone();
    let known = place.cluster.first_rules(&first, applied, board);
    parts.helpers.spawn(known);
    // It writes no table before its last wait is over. A previous agent goes on until then.
    let begin = parts.engine.begin(&first, &sockets, services, previous);
    if stop::until_asked(&mut stop, begin).await?.is_none() {
        return wiring::end_early(config, gate.lock).await;
    }
    // Later rules replace these in `feed`, and then nothing needs their objects.
    drop(first);
    parts.doors.accept.send_replace(true);
    handover::forget_unused(&sockets);
    let mut running = begin_keeping(config, place, parts, |takers| {
        reload::follow(source, config.clone(), hangup, takers)
    })
    .await?;

    let result = running.work(stop, feed).await;
    running.engine.keep_state();
    // From here on no task attaches a removed link or writes to the kernel.
    running.helpers.shutdown().await;
    let leaving = Leaving {
        engine: &mut running.engine,
        drain: &running.doors.drain,
        lock: gate.lock,
    };
    let denials = &running.denials;
    let ended = wiring::end(config, leaving, result.is_ok(), || denials.abort());
    let (ended, ()) = tokio::join!(ended, place.cluster.resign());
    running.denials.abort();
    running.program_log.abort();
    running.access_log.finish();
    result.and(ended)
}

/// An agent whose gate is in force and kept.
struct Running {
    engine: Engine,
    denials: JoinHandle<anyhow::Result<()>>,
    access_log: Arc<AccessLog>,
    doors: Doors,
    program_log: JoinHandle<anyhow::Result<()>>,
    helpers: JoinSet<()>,
}

impl Running {
    /// Runs until a signal asks the agent to stop.
    async fn work(
        &mut self,
        stop: impl Future<Output = &'static str>,
        feed: Feed<RuleSet>,
    ) -> anyhow::Result<()> {
        let work = async {
            tokio::select! {
                ended = self.engine.run((feed.current, feed.taken)) => ended,
                ended = &mut self.denials => ended.unwrap_or_else(|panic| Err(panic.into())),
            }
        };
        stop::until_asked(stop, work).await.map(|_| ())
    }
}

/// Begins to watch over the gate, which is in force, and to follow the config with `follow`.
async fn begin_keeping<F>(
    config: &Config,
    place: &Place,
    parts: Parts,
    follow: impl FnOnce(Takers) -> F,
) -> anyhow::Result<Running>
where
    F: Future<Output = ()> + Send + 'static,
{
    let WatchParts {
        board,
        canaries,
        registry,
        came,
        proof,
    } = parts.watch;
    let mut helpers = parts.helpers;
    let kernel = Arc::new(Mutex::new(parts.kernel));
    privilege::give_up(place.kept)?;
    parts.access_log.apply(config.access_log.as_ref());
    rootwatch::start(&kernel, &place.roots.paths, board.clone(), came)?;
    let keeper = Keeper {
        counters: Arc::clone(&registry.kernel),
        counted: registry.own,
        proof,
        kernel,
        own: place.own.clone(),
        roots: place.roots.clone(),
        started: place.started.clone(),
        board,
        canaries,
    };
    keeper.check().await;
    // For the service manager, the agent has started when the gate is closed. The agent is ready later: that
    // needs workloads, which the service manager may start only after this.
    manager::notify_ready();
    helpers.spawn(keeper.keep(config.canary_interval));
    helpers.spawn(follow(Takers {
        engine: parts.reloaded,
        access_log: Arc::clone(&parts.access_log),
        servers: parts.names,
    }));
    Ok(Running {
        engine: parts.engine,
        denials: tokio::spawn(parts.denials.follow(parts.events)),
        access_log: parts.access_log,
        doors: parts.doors,
        program_log: parts.program_log,
        helpers,
    })
}
