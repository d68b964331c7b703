//! Notifies connections that the proxy is stopping, and of the deadline to finish: those that are open
//! first, while others are still accepted, or all at once.

use std::convert::Infallible;
use std::future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

/// How long a connection is kept in a drain on which nothing was asked yet: its first request may be on its
/// way.
const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// The side that starts a drain. Dropping it starts none.
#[derive(Debug)]
pub struct Drain {
    told: watch::Sender<Told>,
    /// Closed when the last connection that was accepted so far has ended.
    present: Mutex<mpsc::Receiver<Infallible>>,
}

/// What listeners and connections were told.
#[derive(Clone, Debug)]
struct Told {
    /// Connections that were there before [`Drain::retire`] are to end.
    retired: bool,
    /// All are to end by then, and nothing is accepted any more.
    deadline: Option<Instant>,
    /// Each connection that is accepted holds a copy.
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
    /// Tells the connections that are open to end with the request they are at; others are accepted
    /// and served as before. Returns when those that were told have ended. Called once.
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

    /// Listeners accept no more, HTTP connections end with the request they are at, and what is left
    /// at the deadline is ended.
    pub fn start(&self, deadline: Instant) {
        self.told.send_modify(|told| told.deadline = Some(deadline));
    }
}

impl DrainSignal {
    /// Waits for [`Drain::start`] and gives its deadline.
    pub async fn started(&mut self) -> Instant {
        let told = self.0.wait_for(|told| told.deadline.is_some()).await;
        match told.map(|told| told.deadline) {
            Ok(Some(deadline)) => deadline,
            Ok(None) | Err(_) => future::pending().await,
        }
    }

    /// What a connection that is accepted now watches.
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
    /// Waits until this connection is to end.
    pub async fn started(&mut self) {
        let late = self.late;
        let ends = |told: &Told| told.deadline.is_some() || (told.retired && !late);
        if self.told.wait_for(ends).await.is_err() {
            future::pending::<()>().await;
        }
    }

    /// The same for a connection on which nothing was asked yet.
    pub async fn started_unused(&mut self) {
        self.started().await;
        sleep(FIRST_REQUEST).await;
    }
}
