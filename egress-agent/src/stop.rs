//! The signals that end the agent.

use tokio::signal::unix::{SignalKind, signal};

/// From this call on, the first SIGTERM or SIGINT, by its name.
pub fn told() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
