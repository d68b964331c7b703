//! The composition root: what is made, in which order, and what ends it. No decision stands here.

use crate::config::{Config, OnExit, OnRemoval};
use crate::dns::Resolver;
use crate::engine::{Ending, Engine};
use crate::failure::Failure;
use crate::keeper::{Canaries, Keeper};
use crate::kernel::{self, Counters, Kernel, Live};
use crate::observe::flows::FlowLog;
use crate::observe::status::Board;
use crate::privilege::Needs;
use crate::proxy::{self, DrainSignal, Limits, Shared};
use crate::reporter::Reporter;
use crate::sockets::SocketFactory;
use crate::sources::{Feed, RuleSet, follow_rules};
use crate::wiring::FactoryDialer;
use crate::workloads::Spaces;
use crate::{admin, cgroup2, observe, privilege, stop};
use anyhow::Context as _;
use rustix::thread::CapabilitySet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Runs the agent until it is told to stop. Whatever is wrong with the input is found before
/// anything is loaded or attached.
pub fn run(config: &Config) -> anyhow::Result<()> {
    observe::log::init(&config.log)?;
    privilege::require()?;
    kernel::supported()?;
    privilege::no_new_privileges()?;
    cgroup2::join_first_namespace()?;
    let roots = cgroup2::enforced_roots(&config.cgroups)?;
    let kept = privilege::kept(Needs {
        foreign_cgroups: cgroup2::any_foreign(&roots),
        namespaces: config.enter_namespaces,
    });
    let runtime = runtime(kept)?;
    let _inside = runtime.enter();
    let (feed, follower) = with_less(kept, || {
        let _inside = runtime.enter();
        follow_rules(&config.rules)
    })??;
    // Before the first socket: a socket belongs to the cgroup that its process is in when it is made.
    let own = cgroup2::settle(config, &roots)?;
    let place = Place { own, roots, kept };
    runtime.block_on(async {
        let follower = tokio::spawn(follower);
        let result = serve(config, &place, feed).await;
        follower.abort();
        result
    })
}

/// Threads of the runtime never have more than the running agent needs. The calling thread, which
/// loads and attaches, gives the rest up when that is done.
fn runtime(kept: CapabilitySet) -> anyhow::Result<tokio::runtime::Runtime> {
    let less = move || {
        if let Err(error) = privilege::give_up(kept) {
            tracing::error!(%error, "a thread keeps capabilities that it does not need");
        }
    };
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(less)
        .build()
        .context("starting the runtime")
}

/// Does `work` in a thread whose own threads (a file watcher's) get no more than `kept`.
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

/// Opens the gate.
pub fn detach(bpf_dir: &Path) -> anyhow::Result<()> {
    privilege::require()?;
    let was_closed = kernel::detach(bpf_dir)?;
    if !was_closed {
        eprintln!("egress-agent: no gate is pinned at {}", bpf_dir.display());
    }
    Ok(())
}

/// Fails unless the gate is closed around this enforced root.
pub fn is_attached(bpf_dir: &Path, root: &Path) -> anyhow::Result<()> {
    if kernel::is_attached(bpf_dir, root)? {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "no gate at {} (pins at {}): start `egress-agent run` with --cgroup {} first",
        root.display(),
        bpf_dir.display(),
        root.display()
    ))
    .into())
}

/// Where the agent and the workloads are.
struct Place {
    own: PathBuf,
    roots: Vec<PathBuf>,
    /// Capabilities of the running agent.
    kept: CapabilitySet,
}

async fn serve(config: &Config, place: &Place, feed: Feed<RuleSet>) -> anyhow::Result<()> {
    let sockets = Arc::new(SocketFactory::new().context("looking at the network namespace")?);
    // The port first: another agent that still runs is found before its gate is touched.
    let listeners = listen(config, &sockets).await?;
    let mut kernel = Kernel::load(&config.bpf_dir, config.max_networks)?;
    let events = kernel.events()?;
    let origins = Arc::new(kernel.origins()?);
    let program_log = tokio::spawn(kernel.program_log()?.pump());
    let resolver = Resolver::new(&config.dns.servers, &sockets)?;
    let (board, canaries) = (Board::default(), Canaries::default());
    let (ask, asks) = mpsc::channel(4);
    let tables = kernel.tables()?;
    let live = Live::open(&kernel.pins, tables.view())?;
    let ending = Ending::new(config.on_removal, live, Arc::clone(&sockets));
    let mut engine = Engine::new(
        config,
        &place.roots,
        tables,
        resolver,
        ending,
        canaries.clone(),
        asks,
    )?;

    let first = Arc::clone(&feed.current.borrow());
    engine.begin(&first).await?;
    engine.admit(&listeners)?;
    let dialer = Arc::new(FactoryDialer(Arc::clone(&sockets)));
    let flows = Arc::new(FlowLog::default());
    let (routes, observer) = (engine.routes(), Arc::clone(&flows));
    let mut shared = Shared::new(routes, origins, dialer, observer, Limits::default());
    if config.on_removal == OnRemoval::Close {
        shared = shared.ending_removed(engine.changes());
    }
    let shared = Arc::new(shared);
    let (drain, signal) = proxy::drain_channel();
    let mut proxies = start(listeners, &shared, &signal);
    let (own, port) = (sockets.own_netns(), config.proxy_port);
    let spaces = Spaces::new(sockets, shared, signal, port);
    engine.open(own, port, spaces).await?;
    let status = Reporter::new(
        config,
        &kernel,
        &place.roots,
        &board,
        feed.problem,
        ask,
        Arc::clone(&flows),
    )?;
    let adopted = kernel.adopted;
    let mut keeper = Keeper {
        counters: Counters::open(&kernel.pins)?,
        errno: config.deny_errno,
        kernel,
        own: place.own.clone(),
        roots: place.roots.clone(),
        board,
        canaries,
    };
    keeper.close()?;
    privilege::give_up(place.kept)?;
    keeper.prove().await?;
    // Before anyone is told of the start: a signal that comes while its handler is set up is lost.
    let stop = stop::told()?;
    tracing::info!(
        roots = %shown(&place.roots),
        rules = first.objects.len(),
        adopted,
        "ready: the gate is closed"
    );
    admin::notify_ready();
    let mut helpers = JoinSet::new();
    helpers.spawn(keeper.keep(config.canary_interval));
    helpers.spawn(status.serve(config.admin_socket.clone()));
    helpers.spawn(async move { flows.tell_of_repeats().await });
    helpers.spawn(observe::log::report_suppressed());

    let result = tokio::select! {
        ended = engine.run(feed.current, events) => ended,
        name = stop => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
    };
    engine.keep_leases();
    engine.close(own)?;
    if result.is_ok() && config.on_exit == OnExit::Detach {
        kernel::detach(&config.bpf_dir)?;
        tracing::info!("detached: the gate is open");
    }
    drain.start(Instant::now() + config.drain_deadline);
    while proxies.join_next().await.is_some() {}
    engine.drained().await;
    program_log.abort();
    helpers.shutdown().await;
    result
}

async fn listen(config: &Config, sockets: &SocketFactory) -> anyhow::Result<Vec<TcpListener>> {
    let pair = sockets
        .listen_loopback(sockets.own_netns(), config.proxy_port)
        .await
        .map_err(|e| {
            Failure::usage(format_args!(
                "proxy port {}: {e}; another agent runs here, or choose one with --proxy-port",
                config.proxy_port
            ))
        })?;
    Ok([Some(pair.v4), pair.v6].into_iter().flatten().collect())
}

fn start(listeners: Vec<TcpListener>, shared: &Arc<Shared>, signal: &DrainSignal) -> JoinSet<()> {
    listeners
        .into_iter()
        .map(|l| proxy::serve(l, Arc::clone(shared), signal.clone()))
        .collect()
}

fn shown(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
