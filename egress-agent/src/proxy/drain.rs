//! Notifies connections that the proxy is stopping, and of their deadline. It can notify open connections first,
//! while new ones are still accepted, or all at once.

use std::convert::Infallible;
use std::future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// How long a drain keeps a connection without a request: its first one may be on the way.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// The side that starts a drain. Dropping it starts none.
#[derive(Debug)]
pub struct Drain {
    told: watch::Sender<Told>,
    /// Closed when all connections that were accepted so far have ended.
    present: Mutex<mpsc::Receiver<Infallible>>,
}

/// The state of a drain, which listeners and connections watch.
#[derive(Clone, Debug)]
struct Told {
    /// Connections that were accepted before [`Drain::retire`] must end.
    retired: bool,
    /// All connections must end by this time, and listeners stop accepting.
    deadline: Option<Instant>,
    /// Each accepted connection holds a copy.
    present: mpsc::Sender<Infallible>,
}

/// The end that a listener watches.
#[derive(Clone, Debug)]
pub struct DrainSignal(watch::Receiver<Told>);

/// The end that a connection watches.
#[derive(Clone, Debug)]
pub struct ConnectionDrain {
    told: watch::Receiver<Told>,
    /// Accepted after [`Drain::retire`].
    late: bool,
    _present: mpsc::Sender<Infallible>,
}

/// A drain that has not started.
pub fn drain_channel() -> (Drain, DrainSignal) {
    let (present, ended) = mpsc::channel(1);
    let (told, heard) = watch::channel(Told {
        retired: false,
        deadline: None,
        present,
    });
    let present = Mutex::new(ended);
    (Drain { told, present }, DrainSignal(heard))
}

impl Drain {
    /// Asks the open connections to end after their present request. New ones are accepted and served as before.
    /// Returns when the open ones have ended. Call it once.
    pub async fn retire(&self) {
        let (present, ended) = mpsc::channel(1);
        self.told.send_modify(|told| {
            told.retired = true;
            told.present = present;
        });
        let mut early = {
            let mut held = self.present.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, ended)
        };
        early.recv().await;
    }

    /// Stops the listeners, and asks HTTP connections to end after their present request. Connections that are
    /// still open at the deadline are closed.
    pub fn start(&self, deadline: Instant) {
        self.told.send_modify(|told| told.deadline = Some(deadline));
    }
}

impl DrainSignal {
    /// Waits for [`Drain::start`] and returns its deadline.
    pub async fn started(&mut self) -> Instant {
        let told = self.0.wait_for(|told| told.deadline.is_some()).await;
        match told.map(|told| told.deadline) {
            Ok(Some(deadline)) => deadline,
            Ok(None) | Err(_) => future::pending().await,
        }
    }

    /// The signal for a connection that is accepted now.
    pub fn connection(&self) -> ConnectionDrain {
        let told = self.0.borrow();
        ConnectionDrain {
            late: told.retired,
            _present: told.present.clone(),
            told: self.0.clone(),
        }
    }
}

impl ConnectionDrain {
    /// Waits until this connection must end.
    pub async fn started(&mut self) {
        let late = self.late;
        let ends = |told: &Told| told.deadline.is_some() || (told.retired && !late);
        if self.told.wait_for(ends).await.is_err() {
            future::pending::<()>().await;
        }
    }

    /// The same for a connection without a request so far.
    pub async fn started_unused(&mut self) {
        self.started().await;
        sleep(FIRST_REQUEST).await;
    }
}
