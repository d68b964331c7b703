//! One HTTP/2 connection to an endpoint: how many streams it has, and whether it takes more.
//!
//! It sends no request.

use crate::proxy::field_room::{KeptLists, StreamLists};
use crate::proxy::places::Place;
use crate::proxy::ticket::OwnedTask;
use crate::proxy::upstream::held::Held;
use crate::proxy::upstream::usage::{Evict, Queued};
use bytes::Bytes;
use egress_core::traffic::ConnectionPool;
use h2::StreamId;
use h2::client::SendRequest;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;
use tokio::time::sleep;

/// See the module. Dropping it closes the connection.
pub(super) struct Connection {
    pub(super) send: SendRequest<Bytes>,
    task: OwnedTask,
    pool: ConnectionPool,
    streams: Mutex<Streams>,
    /// Notified when a stream is over.
    freed: Arc<Notify>,
    room: Room,
}

/// What a connection takes of its workload's share.
pub(super) struct Room {
    pub(super) lists: Arc<KeptLists>,
    pub(super) _descriptor: Place,
    pub(super) _memory: Place,
    pub(super) _wide: Option<Place>,
}

#[derive(Default)]
struct Streams {
    /// At the moment.
    active: usize,
    /// It takes no further ones.
    closing: bool,
    held: Held,
    /// Closes the connection when it was idle for too long.
    timer: Option<OwnedTask>,
    /// It may have to give way, because it is idle.
    queued: Option<Queued>,
}

impl Connection {
    /// Drives a connection until it ends.
    pub(super) fn new(
        send: SendRequest<Bytes>,
        driver: impl Future<Output = Result<(), h2::Error>> + Send + 'static,
        (pool, held): (&ConnectionPool, Held),
        room: Room,
        freed: Arc<Notify>,
    ) -> Arc<Self> {
        let streams = Streams {
            held,
            ..Streams::default()
        };
        Arc::new_cyclic(|own: &Weak<Self>| {
            let own = Weak::clone(own);
            let driving = async move {
                if let Err(error) = driver.await {
                    tracing::debug!(target: "egress::proxy", %error, "upstream connection ended");
                }
                if let Some(own) = own.upgrade() {
                    own.close();
                }
            };
            Self {
                send,
                task: OwnedTask(tokio::spawn(driving)),
                pool: pool.clone(),
                streams: Mutex::new(streams),
                freed,
                room,
            }
        })
    }

    /// Whether it may get further streams, now or later.
    pub(super) fn is_open(&self) -> bool {
        let streams = self.streams();
        let serves = !streams.closing && streams.held.may_serve(&self.pool);
        serves || streams.active > 0
    }

    pub(super) fn is_used(&self) -> bool {
        self.streams().active > 0
    }

    /// The proxy's address, if it is known.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.streams().held.local
    }

    /// The memory of the lists of fields of a stream's response.
    pub(super) fn lists(&self, stream: StreamId) -> StreamLists {
        self.room.lists.of(stream.as_u32())
    }

    /// Begins a stream. False if it takes none.
    pub(super) fn begin(&self) -> bool {
        let mut streams = self.streams();
        let takes = !streams.closing
            && streams.held.may_serve(&self.pool)
            && streams.active < self.send.current_max_send_streams()
            && self
                .pool
                .streams
                .is_none_or(|most| streams.active < most as usize);
        if takes {
            streams.active += 1;
            streams.held.request(None, None);
            (streams.timer, streams.queued) = (None, None);
        }
        takes
    }

    /// A stream is over. True if the connection is idle from here on.
    pub(super) fn end(self: &Arc<Self>) -> bool {
        let mut streams = self.streams();
        streams.active -= 1;
        self.freed.notify_waiters();
        if streams.active > 0 {
            return false;
        }
        self.room.lists.clear();
        // One that takes no further request would only hold its place.
        if streams.closing || !streams.held.may_serve(&self.pool) {
            streams.closing = true;
            self.finish(streams);
            return false;
        }
        let limit = streams.held.idle_limit(&self.pool);
        streams.timer = limit.map(|limit| {
            let connection = Arc::downgrade(self);
            OwnedTask(tokio::spawn(async move {
                sleep(limit).await;
                if let Some(connection) = connection.upgrade() {
                    connection.evict();
                }
            }))
        });
        let usage = streams.held.usage();
        let usage = usage.filter(|_| self.pool.connections.is_some());
        // Under the lock, so that the next stream finds the entry and removes it.
        streams.queued = usage.map(|usage| {
            let idle: Weak<Self> = Arc::downgrade(self);
            usage.idle(idle)
        });
        true
    }

    /// It takes no further streams, and closes after the last one.
    pub(super) fn close(&self) {
        let mut streams = self.streams();
        streams.closing = true;
        if streams.active == 0 {
            self.finish(streams);
        }
    }

    /// Closes it, and counts it no longer.
    fn finish(&self, mut streams: MutexGuard<'_, Streams>) {
        self.task.0.abort();
        let held = std::mem::take(&mut streams.held);
        // The end of its permit wakes others: not under the lock.
        drop(streams);
        drop(held);
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Evict for Connection {
    fn evict(&self) -> bool {
        let mut streams = self.streams();
        let idle = streams.active == 0 && !streams.closing;
        if idle {
            streams.closing = true;
            self.finish(streams);
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Room};
    use crate::proxy::places::Places;
    use crate::proxy::upstream::held::Held;
    use crate::proxy::upstream::usage::Usage;
    use egress_core::traffic::ConnectionPool;
    use egress_ebpf::ids::CgroupId;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_connection_is_in_the_queue_only_while_it_is_idle_and_only_once() {
        let pool = ConnectionPool {
            connections: Some(1),
            ..ConnectionPool::default()
        };
        let usage = Arc::<Usage>::default();
        let held = Held::new(usage.connection(&pool).ok(), None, None);
        let (own, _peer) = tokio::io::duplex(1024);
        let shaken = h2::client::handshake(own).await;
        let (send, driver) = shaken.expect("the preface is written");
        let places = Arc::new(Places::new(2, 2));
        let place = || places.take(CgroupId(1)).expect("there is one");
        let room = Room {
            lists: Arc::default(),
            _descriptor: place(),
            _memory: place(),
            _wide: None,
        };
        let connection = Connection::new(send, driver, (&pool, held), room, Arc::default());
        for _ in 0..100 {
            assert!(connection.begin());
            assert_eq!(usage.idle_connections(), 0);
            assert!(connection.end());
            assert_eq!(usage.idle_connections(), 1);
        }
        assert!(usage.evict_one() && !usage.evict_one());
        assert!(!connection.is_open() && usage.connection(&pool).is_ok());
    }
}
