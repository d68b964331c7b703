//! Replies to clients over TCP that are not sent yet. Their bytes are bounded for each workload: its connections read on
//! when its clients have taken replies.

use egress_core::dns::content::{Content, Transport};
use egress_core::dns::query::Client;
use egress_ebpf::ids::CgroupId;
use hickory_resolver::proto::op::ResponseCode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one workload's replies. Each connection may have one reply more.
const MOST_EACH: usize = 4 << 20;

/// What each workload may still queue.
#[derive(Debug, Default)]
pub(super) struct Budgets(Mutex<BTreeMap<CgroupId, Weak<Semaphore>>>);

/// What one workload may still queue.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<Semaphore>);

/// A reply with its length before it, and its part of the budget until it is sent.
pub(super) struct Queued {
    framed: Vec<u8>,
    /// `None` for one without records.
    #[expect(dead_code, reason = "returned when it is dropped")]
    part: Option<OwnedSemaphorePermit>,
}

/// A place in the queue of a connection.
pub(super) struct Room {
    pub(super) place: OwnedPermit<Queued>,
    pub(super) budget: Budget,
}

impl Budgets {
    /// That of a workload, as long as one of its connections has it.
    pub(super) fn of(&self, share: CgroupId) -> Budget {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&share).and_then(Weak::upgrade) {
            return Budget(known);
        }
        all.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::new(Semaphore::new(MOST_EACH));
        all.insert(share, Arc::downgrade(&budget));
        Budget(budget)
    }
}

impl Budget {
    /// Takes the part of a framed reply, when there is so much.
    pub(super) async fn queued(&self, framed: Vec<u8>) -> Queued {
        let part = Arc::clone(&self.0)
            .acquire_many_owned(length(&framed))
            .await;
        // The semaphore is never closed, so this does not fail.
        Queued {
            framed,
            part: part.ok(),
        }
    }
}

impl Room {
    /// Queues a reply. If the budget is used up, the client gets SERVFAIL: it takes no replies, or not so many at a time.
    pub(super) fn send(self, client: &Client, content: &Content) {
        let frame_of = |content: &Content| {
            frame(|message| content.write(client, Transport::Tcp, Duration::ZERO, message))
        };
        let framed = frame_of(content);
        let part = Arc::clone(&self.budget.0).try_acquire_many_owned(length(&framed));
        let queued = if let Ok(part) = part {
            Queued {
                framed,
                part: Some(part),
            }
        } else {
            Queued {
                framed: frame_of(&Content::empty(ResponseCode::ServFail)),
                part: None,
            }
        };
        self.place.send(queued);
    }
}

impl Queued {
    /// What is sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.framed
    }
}

/// The message that `write` appends, with its length before it (RFC 1035 §4.2.2). Empty if it appends nothing.
pub(super) fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut framed = vec![0; 2];
    write(&mut framed);
    let length = u16::try_from(framed.len() - 2).unwrap_or(u16::MAX);
    if length == 0 {
        return Vec::new();
    }
    framed[..2].copy_from_slice(&length.to_be_bytes());
    framed
}

fn length(framed: &[u8]) -> u32 {
    framed.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_core::dns::query::read;
    use hickory_resolver::proto::op::{Message, Query};
    use hickory_resolver::proto::rr::{Name, RecordType};
    use tokio::sync::mpsc;

    fn client() -> Client {
        let mut message = Message::query();
        let name = Name::from_ascii("a.example.").unwrap();
        message.add_query(Query::query(name, RecordType::A));
        read(&message.to_vec().unwrap()).unwrap().client
    }

    #[tokio::test]
    async fn a_reply_beyond_the_budget_is_a_failure_until_others_are_sent() {
        let budgets = Budgets::default();
        let budget = budgets.of(CgroupId(1));
        let (replies, mut waiting) = mpsc::channel(4);
        let send = async || {
            let room = Room {
                place: replies.clone().reserve_owned().await.unwrap(),
                budget: budget.clone(),
            };
            room.send(&client(), &Content::empty(ResponseCode::NXDomain));
        };
        let code = |queued: &Queued| {
            Message::from_vec(&queued.bytes()[2..])
                .unwrap()
                .response_code
        };
        let all = budgets.of(CgroupId(1)).queued(vec![0; MOST_EACH]).await;
        send().await;
        assert_eq!(code(&waiting.recv().await.unwrap()), ResponseCode::ServFail);
        assert_eq!(budgets.of(CgroupId(2)).0.available_permits(), MOST_EACH);
        drop(all);
        send().await;
        let queued = waiting.recv().await.unwrap();
        assert_eq!(code(&queued), ResponseCode::NXDomain);
        assert!(budget.0.available_permits() < MOST_EACH);
        drop(queued);
        assert_eq!(budget.0.available_permits(), MOST_EACH);
    }

    #[test]
    fn a_framed_message_has_its_length_before_it() {
        assert_eq!(frame(|message| message.extend(b"abc")), b"\0\x03abc");
        assert!(frame(|_| ()).is_empty());
    }
}
