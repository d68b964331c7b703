//! Ends running flows that a rules change no longer lists, in every network namespace where the
//! agent makes sockets, off the async threads. Which flows these are, the kernel's tables say.

use crate::config::OnRemoval;
use crate::kernel::{Ended, Live};
use crate::sockets::{NetnsId, SocketFactory};
use anyhow::Context as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub struct Ending {
    /// None where running flows outlive their rule.
    live: Option<Arc<Live>>,
    sockets: Arc<SocketFactory>,
    ended: Arc<AtomicU64>,
}

impl Ending {
    /// Ends none yet.
    pub fn new(on_removal: OnRemoval, live: Live, sockets: Arc<SocketFactory>) -> Self {
        Self {
            live: (on_removal == OnRemoval::Close).then(|| Arc::new(live)),
            sockets,
            ended: Arc::default(),
        }
    }

    /// Flows that were ended since the start.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends what the tables no longer list, a moment from now.
    pub(super) fn end_unlisted(&self) {
        let Some(live) = self.live.clone() else {
            return;
        };
        let (sockets, ended) = (Arc::clone(&self.sockets), Arc::clone(&self.ended));
        tokio::spawn(async move {
            for netns in sockets.namespaces() {
                match end_in(&live, &sockets, netns).await {
                    Ok(flows) => {
                        flows.iter().for_each(tell);
                        ended.fetch_add(flows.len() as u64, Ordering::Relaxed);
                    }
                    // Their packets are refused all the same.
                    Err(error) => tracing::error!(
                        netns = netns.0,
                        error = format!("{error:#}"),
                        "flows of removed rules could not be ended; they stall"
                    ),
                }
            }
        });
    }
}

async fn end_in(
    live: &Arc<Live>,
    sockets: &SocketFactory,
    netns: NetnsId,
) -> anyhow::Result<Vec<Ended>> {
    let diag = match sockets.diag(netns).await {
        // Gone since it was named, and its flows with it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        diag => diag.context("opening sock_diag")?,
    };
    let live = Arc::clone(live);
    tokio::task::spawn_blocking(move || live.end_unlisted(diag)).await?
}

fn tell(flow: &Ended) {
    tracing::info!(
        destination = %flow.destination,
        pid = flow.pid,
        cgroup = flow.cgroup,
        proxied = flow.proxied,
        "ended: the rule that listed it was removed"
    );
}
