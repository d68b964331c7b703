//! The leaving agent's side. It serves until the next agent takes over or none has appeared in time. Then
//! it drains and ends. It does not write to the kernel.

use super::channel::{Channel, MAX_DESCRIPTORS, Word, accept, listener};
use super::socket_beside;
use crate::config::Config;
use crate::engine::Engine;
use crate::gate::lock::{self, Lock};
use crate::proxy::Drain;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How long to wait for a next agent to appear: one that was started at the same moment needs this.
pub const APPEARS: Duration = Duration::from_millis(500);
/// How long to wait until a next agent that appeared takes over.
const TAKES_OVER: Duration = Duration::from_secs(15);
/// How long the last connections get to end if no next agent came. It is short, because nobody accepts
/// connections until this agent has ended.
const LAST: Duration = Duration::from_millis(100);
/// How long the hand-over of the listeners may take.
const TIMEOUT: Duration = Duration::from_secs(2);

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
/// appeared, which reads the kernel's events from then on. `alone` is called if no next agent took over in time, while
/// this one still listens.
pub async fn leave(
    leaving: Leaving<'_>,
    config: &Config,
    mut taken: impl FnMut(),
    alone: impl FnOnce(),
) {
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
    let Some(mut offer) = offer else {
        // A next agent takes the lock, if not the listeners.
        sleep(LAST).await;
        alone();
        return close(engine, drain, deadline).await;
    };
    if !offer
        .serve_on(&engine.listeners(), drain, deadline, &mut taken)
        .await
    {
        alone();
        // The offer ends after that: a next agent that asks to stop accepting learns it then.
        return close(engine, drain, LAST).await;
    }
    drain.start(Instant::now() + deadline);
    engine.close_listeners().await;
    offer.say_done().await;
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
    /// The next agent that appeared. For it, a closed channel means that this agent does not accept any more.
    successor: Option<Channel>,
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
            successor: None,
        })
    }

    /// Returns true once a next agent has asked this one to stop accepting. If none appears or is ready in time, the
    /// open connections are asked to end meanwhile; returns false when they have.
    async fn serve_on(
        &mut self,
        listeners: &[BorrowedFd<'_>],
        drain: &Drain,
        deadline: Duration,
        taken: &mut impl FnMut(),
    ) -> bool {
        let now = Instant::now();
        let appeared = Cell::new(false);
        let mut asked = pin!(self.asked_to_stop(listeners, || {
            appeared.set(true);
            taken();
        }));
        let patience = async {
            sleep_until(now + APPEARS).await;
            if appeared.get() {
                sleep_until(now + TAKES_OVER).await;
                tracing::warn!(
                    "the next agent is not ready yet; open connections are asked to end"
                );
            }
        };
        tokio::select! {
            asked = &mut asked => return asked,
            () = patience => {}
        }
        let over = Instant::now() + deadline;
        tokio::select! {
            asked = asked => asked,
            _ = timeout_at(over, drain.retire()) => false,
        }
    }

    /// Tells the next agent that this one has stopped accepting. It may have ended since.
    async fn say_done(&self) {
        if let Some(successor) = &self.successor {
            let _ = successor.send(Word::Done, &[]).await;
        }
    }

    /// Hands the listeners over to each agent that appears. Returns true once one of them asks this agent to stop
    /// accepting, and false if none can appear any more.
    async fn asked_to_stop(
        &mut self,
        listeners: &[BorrowedFd<'_>],
        mut taken: impl FnMut(),
    ) -> bool {
        loop {
            let channel = match accept(&self.listener).await {
                Ok(channel) => self.successor.insert(channel),
                Err(error) => {
                    tracing::warn!(%error, "the handover socket failed");
                    return false;
                }
            };
            let handed = hand_over(&self.folder, channel, listeners, &mut taken);
            match timeout(TIMEOUT, handed).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "handing over to another agent failed; serving on");
                    continue;
                }
                Err(_) => continue,
            }
            if let Ok((Word::Stop, _)) = channel.receive().await {
                return true;
            }
            tracing::warn!("the next agent ended before it took over; serving on");
        }
    }
}

/// Gives the listeners to an agent that shows the lock of the pins' folder, and notifies `taken` of it.
async fn hand_over(
    folder: &File,
    channel: &Channel,
    listeners: &[BorrowedFd<'_>],
    taken: &mut impl FnMut(),
) -> io::Result<()> {
    let (word, with) = channel.receive().await?;
    let [shown] = <[OwnedFd; 1]>::try_from(with).map_err(|_| ErrorKind::InvalidData)?;
    if word != Word::Here || !lock::is_held_by(folder, shown)? {
        return Err(io::Error::other("the client does not hold the gate's lock"));
    }
    taken();
    tracing::info!("handing over to another agent; serving until it is ready");
    for some in listeners.chunks(MAX_DESCRIPTORS) {
        channel.send(Word::Listeners, some).await?;
    }
    channel.send(Word::All, &[]).await
}
