//! The composition root: what is made, in which order, and what ends it. No decision stands here.

use crate::config::{Config, OnExit};
use crate::dns::Resolver;
use crate::engine::Engine;
use crate::failure::Failure;
use crate::kernel::{self, Kernel, canary};
use crate::proxy::{self, DrainSignal, Limits, Shared, TracingObserver};
use crate::sockets::SocketFactory;
use crate::sources::{Feed, RuleSet, follow_rules};
use crate::wiring::FactoryDialer;
use crate::{cgroup2, observe, privilege};
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Runs the agent until it is told to stop. Whatever is wrong with the input is found before
/// anything is loaded or attached.
pub fn run(config: &Config) -> anyhow::Result<()> {
    observe::log::init(&config.log)?;
    privilege::require()?;
    let roots = cgroup2::enforced_roots(&config.cgroups)?;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let _inside = runtime.enter();
    let (feed, follower) = follow_rules(&config.rules)?;
    // Before the first socket: a socket belongs to the cgroup that its process is in when it is made.
    let own = cgroup2::settle(config, &roots)?;
    let place = Place { own, roots };
    runtime.block_on(async {
        let follower = tokio::spawn(follower);
        let result = serve(config, &place, feed).await;
        follower.abort();
        result
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
}

async fn serve(config: &Config, place: &Place, feed: Feed<RuleSet>) -> anyhow::Result<()> {
    let sockets = Arc::new(SocketFactory::new().context("looking at the network namespace")?);
    // The port first: another agent that still runs is found before its gate is touched.
    let listeners = listen(config, &sockets)?;
    let mut kernel = Kernel::load(&config.bpf_dir)?;
    let events = kernel.events()?;
    let origins = Arc::new(kernel.origins()?);
    let program_log = tokio::spawn(kernel.program_log()?.pump());
    let resolver = Resolver::new(&config.dns.servers, &sockets)?;
    let mut engine = Engine::new(config, kernel.tables()?, resolver)?;

    let first = Arc::clone(&feed.current.borrow());
    engine.begin(&first).await?;
    for listener in &listeners {
        engine
            .tables()
            .admit(listener)
            .context("admitting the proxy's listeners")?;
    }
    let dialer = Arc::new(FactoryDialer(Arc::clone(&sockets)));
    let observer = Arc::new(TracingObserver);
    let shared = Arc::new(Shared::new(
        engine.routes(),
        origins,
        dialer,
        observer,
        Limits::default(),
    ));
    let (drain, signal) = proxy::drain_channel();
    let mut proxies = start(listeners, &shared, &signal);
    engine
        .tables()
        .set_proxy(sockets.own_netns().0, Some(config.proxy_port))?;
    kernel::attach(&mut kernel, &place.own, &place.roots)?;
    prove(&mut engine, place).await?;
    tracing::info!(
        roots = %shown(&place.roots),
        rules = first.objects.len(),
        adopted = kernel.adopted,
        "ready: gate closed"
    );

    let result = tokio::select! {
        ended = engine.run(feed.current, events) => ended,
        name = told_to_stop() => {
            tracing::info!(signal = name?, "stopping");
            Ok(())
        }
    };
    // What is still to come is refused with a reason instead of running into a closed port.
    engine.tables().set_proxy(sockets.own_netns().0, None)?;
    if result.is_ok() && config.on_exit == OnExit::Detach {
        kernel::detach(&config.bpf_dir)?;
        tracing::info!("detached: the gate is open");
    }
    drain.start(Instant::now() + config.drain_deadline);
    while proxies.join_next().await.is_some() {}
    program_log.abort();
    result
}

fn listen(config: &Config, sockets: &SocketFactory) -> anyhow::Result<Vec<TcpListener>> {
    let pair = sockets
        .listen_loopback(sockets.own_netns(), config.proxy_port)
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

/// Ready means that the kernel refused a connect of the agent's own below every enforced root.
async fn prove(engine: &mut Engine, place: &Place) -> anyhow::Result<()> {
    for root in place.roots.clone() {
        let cage = tokio::task::spawn_blocking(move || canary::check(&root)).await??;
        engine.ignore(cage);
    }
    Ok(())
}

async fn told_to_stop() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn shown(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|p| p.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
