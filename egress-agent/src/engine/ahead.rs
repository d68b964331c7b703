//! Questions for the names of the first rules while these are being planned: a name server takes seconds for tens of
//! thousands of names, and the plan takes a part of a second.
//!
//! Owns which of these questions are under way. The state machine decides what is asked for: an answer that it does not ask
//! for is dropped.

use super::asker::{Answered, Asker, Reply};
use crate::dns::Resolver;
use egress_core::istio::service_entry::ServiceEntry;
use egress_core::istio::{Object, Spec};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::vec::IntoIter;
use tokio::sync::mpsc::UnboundedSender;

/// A question.
enum Asked {
    UnderWay,
    /// The state machine asks it too.
    Wanted,
    Answered(Instant, Answered),
}

#[derive(Default)]
struct Names {
    next: IntoIter<Arc<str>>,
    asked: HashMap<Arc<str>, Asked>,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Ahead {
    names: Arc<Mutex<Names>>,
    replies: UnboundedSender<Reply>,
}

impl Ahead {
    /// Asks for the names of these rules.
    pub(super) fn begin(
        objects: &[Arc<Object>],
        asker: &Asker,
        replies: UnboundedSender<Reply>,
    ) -> Self {
        let entries = objects.iter().filter_map(|object| match &object.spec {
            Some(Spec::ServiceEntry(entry)) => Some(entry),
            _ => None,
        });
        let names: Vec<_> = entries.flat_map(ServiceEntry::resolved_names).collect();
        let new = Self::of(names, replies);
        for _ in 0..Resolver::AT_ONCE {
            let (own, asker) = (new.clone(), asker.clone());
            tokio::spawn(async move {
                while let Some(name) = own.next() {
                    let result = asker.ask(&name).await;
                    own.take(name, result);
                }
            });
        }
        new
    }

    fn of(names: Vec<Arc<str>>, replies: UnboundedSender<Reply>) -> Self {
        Self {
            names: Arc::new(Mutex::new(Names {
                next: names.into_iter(),
                asked: HashMap::new(),
            })),
            replies,
        }
    }

    /// Asks for no further names.
    pub(super) fn stop(&self) {
        self.lock().next = IntoIter::default();
    }

    /// Whether a name was asked for, so that a reply is or will be sent. False if the state machine must ask.
    pub(super) fn want(&self, name: &Arc<str>) -> bool {
        let mut names = self.lock();
        match names.asked.remove(name) {
            None => return false,
            Some(Asked::Answered(at, result)) => {
                drop(names);
                self.reply(Arc::clone(name), aged(result, at.elapsed()));
            }
            Some(Asked::UnderWay | Asked::Wanted) => {
                names.asked.insert(Arc::clone(name), Asked::Wanted);
            }
        }
        true
    }

    fn next(&self) -> Option<Arc<str>> {
        let mut names = self.lock();
        let Names { next, asked } = &mut *names;
        let name = next.find(|name| !asked.contains_key(name))?;
        asked.insert(Arc::clone(&name), Asked::UnderWay);
        Some(name)
    }

    fn take(&self, name: Arc<str>, result: Answered) {
        let mut names = self.lock();
        if let Some(Asked::Wanted) = names.asked.remove(&name) {
            drop(names);
            self.reply(name, result);
        } else {
            let answered = Asked::Answered(Instant::now(), result);
            names.asked.insert(name, answered);
        }
    }

    fn reply(&self, name: Arc<str>, result: Answered) {
        // The receiver is gone only when the agent ends.
        let _ = self.replies.send(Reply { name, result });
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A result that arrived so long ago.
fn aged(mut result: Answered, age: Duration) -> Answered {
    if let Ok(answer) = &mut result {
        answer.ttl = answer.ttl.saturating_sub(age);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use egress_core::policy::leases::{Answer, Failure};
    use tokio::sync::mpsc;

    const TTL: Duration = Duration::from_mins(1);

    #[test]
    fn each_name_is_asked_once_and_replied_once_when_it_is_wanted() {
        let (replies, mut inbox) = mpsc::unbounded_channel();
        let names = ["a", "b", "a", "c", "d"].map(Arc::from);
        let ahead = Ahead::of(names.to_vec(), replies);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(Arc::from);
        let asked: Vec<_> = (0..3).filter_map(|_| ahead.next()).collect();
        assert_eq!(asked, [&a, &b, &c].map(Arc::clone));
        ahead.stop();
        assert_eq!(ahead.next(), None);

        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let answer = Answer {
            addresses,
            ttl: TTL,
        };
        ahead.take(Arc::clone(&a), Ok(answer));
        assert!(inbox.try_recv().is_err(), "it may not be wanted");
        assert!(ahead.want(&a) && ahead.want(&b) && !ahead.want(&d));
        let reply = inbox.try_recv().unwrap();
        assert_eq!(reply.name, a);
        assert!(reply.result.unwrap().ttl < TTL, "it is older");

        assert!(inbox.try_recv().is_err(), "it has no answer yet");
        ahead.take(Arc::clone(&b), Err(Failure::NoAddress));
        assert_eq!(inbox.try_recv().unwrap().result, Err(Failure::NoAddress));
        assert!(!ahead.want(&a) && !ahead.want(&b), "they have a reply");
    }
}
