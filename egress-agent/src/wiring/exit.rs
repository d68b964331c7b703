//! What happens to the gate when a signal ends the agent: it goes to another agent, stays closed or is opened.

use crate::config::{Config, OnExit};
use crate::failure::{BUSY, Failure};
use crate::gate::lock::{Lock, Patience};
use crate::handover::{self, Leaving};
use crate::kernel;
use std::time::Duration;
use tokio::time::sleep;

/// Ends the agent. If a signal asked it to stop (`asked`), it hands over to a next agent; if none comes, it opens the
/// gate if the config says so. If it failed, it only drains. `taken` is called when a next agent has appeared.
pub async fn end(
    config: &Config,
    leaving: Leaving<'_>,
    asked: bool,
    taken: impl FnMut(),
) -> anyhow::Result<()> {
    if !asked {
        return handover::end(leaving, config.drain_deadline).await;
    }
    let mut opened = Ok(());
    handover::leave(leaving, config, taken, || opened = open_if_alone(config)).await;
    opened
}

/// Ends an agent that has no listeners to hand over, because a signal asked it to stop before it served.
pub async fn end_early(config: &Config, lock: Lock) -> anyhow::Result<()> {
    drop(lock);
    if config.on_exit == OnExit::Keep {
        return Ok(());
    }
    // An agent that waits for the lock takes it in this time.
    sleep(handover::APPEARS).await;
    open_if_alone(config)
}

/// Opens the gate if the config says so and no other agent has it. The caller has released the lock.
fn open_if_alone(config: &Config) -> anyhow::Result<()> {
    if config.on_exit == OnExit::Keep {
        return Ok(());
    }
    // Held until the gate is open: an agent that takes it then closes the gate again.
    let _lock = match Lock::take(&config.bpf_dir, Patience::UpTo(Duration::ZERO)) {
        Err(error) if Failure::code_of(&error) == BUSY => {
            tracing::info!("another agent holds the gate, which stays closed");
            return Ok(());
        }
        lock => lock?,
    };
    kernel::detach(&config.bpf_dir)?;
    tracing::info!("detached: the gate is open");
    Ok(())
}
