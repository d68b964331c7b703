//! The memory of an HTTP/2 connection and of each of its streams, within the share of its workload.
//!
//! It allocates nothing itself. A stream without room waits, and is denied after a time limit.

use crate::proxy::client::Client;
use crate::proxy::http2_memory::{CONNECTION, WINDOW, wide};
use crate::proxy::places::{BLOCK, Place};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The window of a connection if its workload has memory to spare. With it, one stream whose origin does not read does
/// not stop the others.
const WIDE_WINDOW: u32 = 256 * 1024;

/// Blocks of a stream: its send buffer, a frame on its way, the buffers of an HTTP/1.1 connection upstream (8 KiB each to
/// read and to write), and the proxy's tasks.
const STREAM: usize = 12;

/// The memory of a connection.
pub(super) struct ConnectionRoom {
    _own: Place,
    wide: Option<Place>,
}

impl ConnectionRoom {
    /// Waits for it. `None` if there was none within the time limit.
    pub(super) async fn take(client: &Client) -> Option<Self> {
        let memory = &client.shared.memory;
        let own = memory.none(client.share()).grown(CONNECTION);
        let own = timeout(client.shared.limits.room, own).await.ok()?;
        Some(Self {
            _own: own,
            wide: memory.spare(client.share(), wide(WIDE_WINDOW)),
        })
    }

    pub(super) fn window(&self) -> u32 {
        self.wide.as_ref().map_or(WINDOW, |_| WIDE_WINDOW)
    }
}

/// The memory of a stream, or the wait for it.
pub(super) struct StreamRoom {
    client: Client,
    place: Option<Place>,
    blocks: usize,
    patience: Duration,
    /// Counts the streams that wait.
    waits: Option<Arc<()>>,
}

impl StreamRoom {
    /// Takes memory for a stream whose head has this many bytes. It may have to wait for it.
    pub(super) fn ask(client: &Client, head: usize) -> Self {
        let blocks = STREAM + 2 * (head / BLOCK);
        Self {
            client: client.clone(),
            place: client.shared.memory.take_many(client.share(), blocks),
            blocks,
            patience: client.shared.limits.room,
            waits: None,
        }
    }

    /// Waits for it, and holds `counted` until then.
    pub(super) fn waits(&mut self, counted: Arc<()>) {
        self.waits = Some(counted);
    }

    /// Does not wait for it.
    pub(super) fn give_up(&mut self) {
        self.patience = Duration::ZERO;
    }

    pub(super) fn is_taken(&self) -> bool {
        self.place.is_some()
    }

    /// Waits for it. `None` if there was none within the time limit.
    pub(super) async fn taken(self) -> Option<Place> {
        if self.place.is_some() {
            return self.place;
        }
        let shared = &self.client.shared;
        let place = shared.memory.none(self.client.share());
        let grown = timeout(self.patience, place.grown(self.blocks)).await;
        grown.ok()
    }
}
