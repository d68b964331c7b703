//! The leaving agent's side: it serves until the next agent takes over, or until it is clear that none
//! comes; then it drains and ends. It writes nothing to the kernel any more.

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

/// How long a next agent may take to appear that was started at the same moment.
const APPEARS: Duration = Duration::from_millis(500);
/// How long one that appeared may take until it takes over.
const TAKES_OVER: Duration = Duration::from_secs(15);
/// How long connections may take to end that were accepted while no next agent came: nobody serves
/// new ones meanwhile.
const LAST: Duration = Duration::from_millis(100);
/// How long one message may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What leaves.
pub struct Leaving<'a> {
    /// Whose listeners they are.
    pub engine: &'a mut Engine,
    /// Tells connections.
    pub drain: &'a Drain,
    /// Of the pins.
    pub lock: Lock,
}

/// Gives the lock away and serves on, as the module says. `taken` is called when a next agent has
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
            tracing::warn!(%error, "a next agent cannot take the listeners over");
            None
        }
    };
    // After there is something to connect to: the next agent looks for it once it has the lock.
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
    // A next agent that ended meanwhile left nothing to do.
    let _ = successor.send(Word::Done, &[]).await;
    tracing::info!("another agent took over; draining");
    drop(offer);
    engine.drained().await;
}

/// Ends without a next agent: takes no redirected flow any more, gives the lock away, and drains.
pub async fn end(leaving: Leaving<'_>, deadline: Duration) -> anyhow::Result<()> {
    leaving.engine.close()?;
    drop(leaving.lock);
    close(leaving.engine, leaving.drain, deadline).await;
    Ok(())
}

/// Accepts nothing more, and returns when every connection has ended.
async fn close(engine: &mut Engine, drain: &Drain, deadline: Duration) {
    drain.start(Instant::now() + deadline);
    engine.close_listeners().await;
    engine.drained().await;
}

/// A socket at which a next agent finds this one.
struct Offer {
    listener: AsyncFd<OwnedFd>,
    path: PathBuf,
    folder: File,
}

impl Drop for Offer {
    fn drop(&mut self) {
        // One that is not there is what is wanted.
        let _ = fs::remove_file(&self.path);
    }
}

impl Offer {
    /// In the place of one that a killed agent left. Called with the lock held.
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

    /// The next agent, once it has told this one to stop accepting. None if none has appeared by the
    /// first time, or none has taken over by the second.
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
                    tracing::warn!(%error, "the socket of the handover");
                    return None;
                }
                Err(_) => return None,
            };
            match timeout(PATIENCE, self.hand_over(&channel, listeners, taken)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "nothing was handed over");
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
            return Err(io::Error::other("it does not hold the gate's lock"));
        }
        taken();
        tracing::info!("handing over to another agent; serving until it is ready");
        for some in listeners.chunks(MOST) {
            channel.send(Word::Listeners, some).await?;
        }
        channel.send(Word::All, &[]).await
    }
}
