//! How a reply reaches its client, and a query that waits for one.

use super::asker::Asker;
use super::replies::Replies;
use super::shares::Place;
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::query::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::OwnedPermit;

/// How a reply reaches its client.
pub(super) enum Way {
    /// In a datagram from the socket that the query came to.
    Datagram(Arc<Replies>),
    /// To the task that writes the client's stream, which has room for it.
    Stream(OwnedPermit<Vec<u8>>),
}

/// A query that waits for an answer.
pub(super) struct Waiting {
    pub(super) client: Client,
    pub(super) asker: Arc<Asker>,
    pub(super) way: Way,
    /// Its place among the workload's queries.
    pub(super) _place: Place,
}

impl Waiting {
    /// Replies without waiting, `with_others` if there are more soon. A client that takes no reply asks again.
    pub(super) fn reply(self, content: &Content, with_others: bool) {
        let (client, age) = (&self.client, Duration::ZERO);
        match self.way {
            Way::Datagram(replies) => replies.send(self.asker.peer, with_others, |message| {
                content.write(client, Transport::Udp, age, message);
            }),
            Way::Stream(room) => {
                room.send(content.reply(client, Transport::Tcp, age));
            }
        }
    }
}
