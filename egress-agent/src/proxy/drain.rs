//! Notifies all connections that the proxy is stopping, and of the deadline to finish.

use std::future;
use tokio::sync::watch;
use tokio::time::Instant;

/// The end that starts a drain. Dropping it starts none.
#[derive(Debug)]
pub struct Drain(watch::Sender<Option<Instant>>);

/// The end that connections watch.
#[derive(Clone, Debug)]
pub struct DrainSignal(watch::Receiver<Option<Instant>>);

/// A drain that has not begun.
pub fn drain_channel() -> (Drain, DrainSignal) {
    let (sender, receiver) = watch::channel(None);
    (Drain(sender), DrainSignal(receiver))
}

impl Drain {
    /// Listeners close, HTTP connections end with the request they are at, and what is left at the
    /// deadline is ended.
    pub fn start(&self, deadline: Instant) {
        self.0.send_replace(Some(deadline));
    }
}

impl DrainSignal {
    /// Waits for the drain and gives its deadline.
    pub async fn started(&mut self) -> Instant {
        match self
            .0
            .wait_for(Option::is_some)
            .await
            .map(|deadline| *deadline)
        {
            Ok(Some(deadline)) => deadline,
            Ok(None) | Err(_) => future::pending().await,
        }
    }
}
