//! Answers that were given lately, by workload. Each workload has its own, so that one that asks for ever new names
//! evicts no answer of a neighbour.

use egress_core::dns::content::Content;
use egress_core::dns::query::Question;
use egress_core::policy::leases::{InForce, Lease};
use egress_core::registry::services::Service;
use egress_ebpf::ids::{CgroupId, NetnsCookie, PolicyId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of one workload's answers, and of all.
const MOST_EACH: usize = 4 << 20;
const MOST: usize = 32 << 20;
/// Bytes that an entry takes beside its content and name.
const ENTRY: usize = 256;

/// A question as it was judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// The share whose answer it is.
    pub(super) share: CgroupId,
    /// The policy that judged.
    pub(super) policy: PolicyId,
    /// Name and type.
    pub(super) question: Question,
    /// The client's own server, if that is asked.
    pub(super) server: Option<(NetnsCookie, SocketAddr)>,
    /// Whether only addresses with a lease reach the client.
    pub(super) leased: bool,
    /// The listed names of which the question's name is an alias target: its leases are theirs.
    pub(super) alias_of: Vec<Arc<str>>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) content: Arc<Content>,
    pub(super) at: Instant,
    until: Instant,
    /// The services that listed the name. A change of the rules makes others.
    services: Vec<Arc<Service>>,
    /// The leases of its addresses.
    leases: Vec<Lease>,
    number: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cache {
    shares: BTreeMap<CgroupId, Share>,
    bytes: usize,
    number: u64,
}

#[derive(Debug, Default)]
struct Share {
    entries: HashMap<Asked, Kept>,
    /// In the order in which they were made. One that was replaced has another number.
    order: VecDeque<(u64, Asked)>,
    bytes: usize,
}

impl Share {
    /// Removes the oldest entry. Returns the bytes that it took.
    fn evict(&mut self) -> usize {
        while let Some((number, asked)) = self.order.pop_front() {
            if self.entries.get(&asked).is_some_and(|e| e.number == number)
                && let Some(kept) = self.entries.remove(&asked)
            {
                let freed = size(&asked, &kept);
                self.bytes -= freed;
                return freed;
            }
        }
        0
    }
}

fn size(asked: &Asked, kept: &Kept) -> usize {
    ENTRY + 2 * asked.question.name.len() + kept.content.size()
}

impl Cache {
    /// The answer to a question, if it is still valid, the same services list the name, and its leases are in the kernel.
    pub(super) fn get(
        &self,
        now: Instant,
        asked: &Asked,
        services: &[Arc<Service>],
        in_force: &InForce,
    ) -> Option<(Arc<Content>, Duration)> {
        let kept = self.shares.get(&asked.share)?.entries.get(asked)?;
        let same = kept.services.len() == services.len()
            && kept
                .services
                .iter()
                .zip(services)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        let covered = |lease: &Lease| in_force.covers(now, lease);
        let leased = kept.leases.iter().all(covered);
        let age = now.saturating_duration_since(kept.at);
        (same && leased && now < kept.until).then(|| (Arc::clone(&kept.content), age))
    }

    /// Keeps an answer. Evicts the oldest ones of the workload, or of the workload that has most.
    pub(super) fn put(
        &mut self,
        now: Instant,
        asked: &Asked,
        content: Arc<Content>,
        (services, leases): (Vec<Arc<Service>>, Vec<Lease>),
        keep: Duration,
    ) {
        self.number += 1;
        let kept = Kept {
            content,
            at: now,
            until: now + keep,
            services,
            leases,
            number: self.number,
        };
        let needed = size(asked, &kept);
        if needed > MOST_EACH {
            return;
        }
        let share = self.shares.entry(asked.share).or_default();
        share.order.push_back((kept.number, asked.clone()));
        share.bytes += needed;
        self.bytes += needed;
        if let Some(before) = share.entries.insert(asked.clone(), kept) {
            let freed = size(asked, &before);
            share.bytes -= freed;
            self.bytes -= freed;
        }
        // Numbers of entries that were replaced.
        if share.order.len() > 2 * share.entries.len() + 16 {
            let entries = &share.entries;
            share
                .order
                .retain(|(number, asked)| entries.get(asked).is_some_and(|e| e.number == *number));
        }
        while share.bytes > MOST_EACH && !share.order.is_empty() {
            self.bytes -= share.evict();
        }
        while self.bytes > MOST
            && let Some(largest) = self.shares.values_mut().max_by_key(|share| share.bytes)
            && !largest.order.is_empty()
        {
            self.bytes -= largest.evict();
        }
        if self.number.is_multiple_of(4096) {
            self.forget(now);
        }
    }

    /// Removes answers that are no longer valid.
    fn forget(&mut self, now: Instant) {
        for share in self.shares.values_mut() {
            let mut freed = 0;
            share.entries.retain(|asked, kept| {
                let stays = kept.until > now;
                freed += if stays { 0 } else { size(asked, kept) };
                stays
            });
            share.bytes -= freed;
            self.bytes -= freed;
        }
        self.shares.retain(|_, share| !share.entries.is_empty());
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::ResponseCode;
    use hickory_resolver::proto::rr::RecordType;

    const MINUTE: Duration = Duration::from_mins(1);

    fn asked(share: u64, name: &str) -> Asked {
        Asked {
            share: CgroupId(share),
            policy: PolicyId(0),
            question: Question {
                name: name.into(),
                kind: RecordType::A,
            },
            server: None,
            leased: true,
            alias_of: Vec::new(),
        }
    }

    fn put(cache: &mut Cache, now: Instant, asked: &Asked) {
        let content = Arc::new(Content::empty(ResponseCode::NXDomain));
        cache.put(now, asked, content, (Vec::new(), Vec::new()), MINUTE);
    }

    fn has(cache: &Cache, now: Instant, asked: &Asked) -> bool {
        cache.get(now, asked, &[], &InForce::default()).is_some()
    }

    #[test]
    fn an_answer_is_given_until_its_time_is_over_and_to_its_own_workload_only() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, now, &asked(1, "a.example"));
        assert!(has(&cache, now, &asked(1, "a.example")));
        assert!(!has(&cache, now, &asked(2, "a.example")));
        assert!(!has(&cache, now + MINUTE, &asked(1, "a.example")));
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_evicts_no_neighbours_answer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, now, &asked(1, "mine.example"));
        for n in 0..100_000 {
            put(&mut cache, now, &asked(2, &format!("n{n}.example")));
        }
        assert!(cache.bytes() <= MOST_EACH + 1024, "{}", cache.bytes());
        assert!(has(&cache, now, &asked(1, "mine.example")));
        assert!(has(&cache, now, &asked(2, "n99999.example")));
        for share in 3..20 {
            for n in 0..20_000 {
                put(&mut cache, now, &asked(share, &format!("n{n}.example")));
            }
        }
        assert!(cache.bytes() <= MOST, "{}", cache.bytes());
        assert!(has(&cache, now, &asked(1, "mine.example")));
        cache.forget(now + MINUTE);
        assert_eq!((cache.bytes(), cache.shares.len()), (0, 0));
    }
}
