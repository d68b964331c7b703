//! How a reply reaches its client, and a query that waits for one.

use super::asker::Asker;
use super::replies::Replies;
use super::shares::Place;
use egress_core::dns::content::{Content, Transport};
use egress_core::dns::query::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How a reply reaches its client.
#[derive(Clone)]
pub(super) enum Way {
    /// In a datagram from the socket that the query came to.
    Datagram(Arc<Replies>),
    /// To the task that writes the client's stream.
    Stream(mpsc::Sender<Vec<u8>>),
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
    pub(super) fn reply(&self, content: &Content, with_others: bool) {
        let (client, age) = (&self.client, Duration::ZERO);
        match &self.way {
            Way::Datagram(replies) => replies.send(self.asker.peer, with_others, |message| {
                content.write(client, Transport::Udp, age, message);
            }),
            Way::Stream(writer) => {
                drop(writer.try_send(content.reply(client, Transport::Tcp, age)));
            }
        }
    }
}

impl Way {
    /// The form of replies.
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Datagram(_) => Transport::Udp,
            Self::Stream(_) => Transport::Tcp,
        }
    }
}
