//! The leaving agent's side. It serves until the next agent takes over or none has appeared in time. Then
//! it drains and ends. It does not write to the kernel.

use super::channel::{Channel, MOST, Word, accept, listener};
use super::socket_beside;
use crate::config::Config;
use crate::engine::Engine;
use crate::gate::lock::{self, Lock};
use crate::proxy::Drain;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout, timeout_at};

/// How long to wait for a next agent to appear: one that was started at the same moment needs this.
const APPEARS: Duration = Duration::from_millis(500);
/// How long to wait until a next agent that appeared takes over.
const TAKES_OVER: Duration = Duration::from_secs(15);
/// How long the last connections get to end if no next agent came. It is short, because nobody accepts
/// connections until this agent has ended.
const LAST: Duration = Duration::from_millis(100);
/// How long the hand-over of the listeners may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The parts of an agent that ends.
pub struct Leaving<'a> {
    /// Owns the listeners.
    pub engine: &'a mut Engine,
    /// Ends the connections.
    pub drain: &'a Drain,
    /// The lock of the pins' folder.
    pub lock: Lock,
}

/// Releases the lock and goes on serving, as the module says. `taken` is called when a next agent has
/// appeared, which reads the kernel's events from then on.
pub async fn leave(leaving: Leaving<'_>, config: &Config, mut taken: impl FnMut()) {
    let Leaving {
        engine,
        drain,
        lock,
    } = leaving;
    let deadline = config.drain_deadline;
    let path = socket_beside(&config.admin_socket);
    let offer = match Offer::new(path, &config.bpf_dir) {
        Ok(offer) => Some(offer),
        Err(error) => {
            tracing::warn!(%error, "cannot offer the listeners to a next agent");
            None
        }
    };
    // The offer must exist by now: the next agent looks for it as soon as it has the lock.
    drop(lock);
    let Some(offer) = offer else {
        return close(engine, drain, deadline).await;
    };
    let now = Instant::now();
    let until = [now + APPEARS, now + TAKES_OVER];
    let mut successor = offer.next(&engine.listeners(), until, &mut taken).await;
    if successor.is_none() {
        let over = Instant::now() + deadline;
        let listeners = engine.listeners();
        let next = offer.next(&listeners, [over, over], &mut taken);
        tokio::select! {
            _ = timeout_at(over, drain.retire()) => {}
            next = next => successor = next,
        }
    }
    let Some(successor) = successor else {
        return close(engine, drain, LAST).await;
    };
    drain.start(Instant::now() + deadline);
    engine.close_listeners().await;
    // If the next agent has ended since, nobody waits for this message.
    let _ = successor.send(Word::Done, &[]).await;
    tracing::info!("another agent took over; draining");
    drop(offer);
    engine.drained().await;
}

/// Ends without a next agent: stops the redirects, releases the lock, and drains.
pub async fn end(leaving: Leaving<'_>, deadline: Duration) -> anyhow::Result<()> {
    leaving.engine.close()?;
    drop(leaving.lock);
    close(leaving.engine, leaving.drain, deadline).await;
    Ok(())
}

/// Stops accepting, and returns when every connection has ended.
async fn close(engine: &mut Engine, drain: &Drain, deadline: Duration) {
    drain.start(Instant::now() + deadline);
    engine.close_listeners().await;
    engine.drained().await;
}

/// The socket at which a next agent finds this one.
struct Offer {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
    folder: File,
}

impl Drop for Offer {
    fn drop(&mut self) {
        // If the removal fails, the next agent finds a socket that nobody answers and removes it.
        let _ = fs::remove_file(&self.path);
    }
}

impl Offer {
    /// Replaces a socket that a killed agent left. Call it with the lock held.
    fn new(path: PathBuf, bpf_dir: &Path) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        Ok(Self {
            folder: File::open(bpf_dir)?,
            listener: listener(&path)?,
            path,
        })
    }

    /// Returns the next agent once it has asked this one to stop accepting. `None` if no agent has
    /// appeared by the first time, or none has taken over by the second.
    async fn next(
        &self,
        listeners: &[BorrowedFd<'_>],
        [appears, takes_over]: [Instant; 2],
        taken: &mut impl FnMut(),
    ) -> Option<Channel> {
        loop {
            let channel = match timeout_at(appears, accept(&self.listener)).await {
                Ok(Ok(channel)) => channel,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the handover socket failed");
                    return None;
                }
                Err(_) => return None,
            };
            match timeout(PATIENCE, self.hand_over(&channel, listeners, taken)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "handing over to another agent failed; serving on");
                    continue;
                }
                Err(_) => continue,
            }
            match timeout_at(takes_over, channel.receive()).await {
                Ok(Ok((Word::Stop, _))) => return Some(channel),
                Ok(_) => tracing::warn!("the next agent ended before it took over; serving on"),
                Err(_) => return None,
            }
        }
    }

    async fn hand_over(
        &self,
        channel: &Channel,
        listeners: &[BorrowedFd<'_>],
        taken: &mut impl FnMut(),
    ) -> io::Result<()> {
        let (word, with) = channel.receive().await?;
        let [shown] = <[OwnedFd; 1]>::try_from(with).map_err(|_| ErrorKind::InvalidData)?;
        if word != Word::Here || !lock::is_held_by(&self.folder, shown)? {
            return Err(io::Error::other("the client does not hold the gate's lock"));
        }
        taken();
        tracing::info!("handing over to another agent; serving until it is ready");
        for some in listeners.chunks(MOST) {
            channel.send(Word::Listeners, some).await?;
        }
        channel.send(Word::All, &[]).await
    }
}
