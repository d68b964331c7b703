//! How a reply reaches its client, and a query that waits for one.

use super::asker::Asker;
use super::queue::Room;
use super::replies::Replies;
use super::shares::Place;
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::query::Client;
use std::sync::Arc;
use std::time::Duration;

/// How a reply reaches its client.
pub(super) enum Way {
    /// In a datagram from the socket that the query came to.
    Datagram(Arc<Replies>),
    /// To the task that writes the client's stream, which has room for it.
    Stream(Room),
}

/// A query that waits for an answer.
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) asker: Arc<Asker>,
    pub(super) way: Way,
    /// Its place among the workload's queries.
    pub(super) _place: Place,
}

/// The queries that wait for one question.
pub(super) struct Others {
    pub(super) waiting: Vec<Waiting>,
    /// Earlier ones got the addresses that are leased. Further ones get them at once.
    pub(super) late: bool,
}

impl Others {
    pub(super) fn new(first: Waiting) -> Self {
        Self {
            waiting: vec![first],
            late: false,
        }
    }
}

impl Waiting {
    /// Replies without waiting, `with_others` if there are more soon. A client that takes no reply asks again.
    pub(super) fn reply(self, content: &Content, with_others: bool) {
        let client = &self.client;
        match self.way {
            Way::Datagram(replies) => replies.send(self.asker.peer, with_others, |message| {
                content.write(client, Transport::Udp, Duration::ZERO, message);
            }),
            Way::Stream(room) => room.send(client, content),
        }
    }
}
