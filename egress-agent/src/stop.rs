//! Signals: those that end the agent, and those that must not.

use tokio::signal::unix::{SignalKind, signal};

/// Ignores signals that the agent does not use and whose default action would end the process. [`asked`] and
/// the reload of the config replace this. Call it before anything takes time.
pub fn ignore_others() {
    for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: SIG_IGN is a valid disposition of these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Does `work` until it ends or the signal comes. `None` if that comes first; the work is dropped then.
pub async fn until_asked<T>(
    asked: impl Future<Output = &'static str>,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        done = work => done.map(Some),
        signal = asked => {
            tracing::info!(signal, "stopping");
            Ok(None)
        }
    }
}

/// Handles signals from this call on. The future returns the name of the first SIGTERM or SIGINT. SIGUSR1 and
/// SIGUSR2 are only logged.
pub fn asked() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut first = signal(SignalKind::user_defined1())?;
    let mut second = signal(SignalKind::user_defined2())?;
    Ok(async move {
        loop {
            let unused = tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                _ = first.recv() => "SIGUSR1",
                _ = second.recv() => "SIGUSR2",
            };
            tracing::info!(signal = unused, "signal ignored: the agent does not use it");
        }
    })
}
