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
const MAX_BYTES_EACH: usize = 4 << 20;
const MAX_BYTES: usize = 32 << 20;
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
struct Kept {
    content: Arc<Content>,
    at: Instant,
    until: Instant,
    /// The services that listed the name. A change of the rules makes others.
    services: Vec<Arc<Service>>,
    /// The leases of its addresses.
    leases: Vec<Lease>,
    number: u64,
}

/// An answer for a name that rules list, of a configured server. Its next query needs no judgement while listed names are
/// judged as before.
#[derive(Debug)]
struct Judged {
    version: u64,
    policy: PolicyId,
    kept: Arc<Kept>,
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
    entries: HashMap<Asked, Arc<Kept>>,
    /// Some of them, by what is known of a query before it is judged.
    judged: HashMap<Question, Judged>,
    /// In the order in which they were made. One that was replaced has another number.
    order: VecDeque<(u64, Asked)>,
    bytes: usize,
}

impl Kept {
    /// The answer and its age, if it is still valid and its leases are in the kernel.
    fn valid(&self, now: Instant, in_force: &InForce) -> Option<(Arc<Content>, Duration)> {
        let covered = |lease: &Lease| in_force.covers(now, lease);
        let valid = now < self.until && self.leases.iter().all(covered);
        let age = now.saturating_duration_since(self.at);
        valid.then(|| (Arc::clone(&self.content), age))
    }
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
                self.judged.remove(&asked.question);
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
    /// The answer to a question of a workload, and its age, if that was judged by this version of the directory for this
    /// policy, and the answer is still valid.
    pub(super) fn judged(
        &self,
        now: Instant,
        share: CgroupId,
        (version, policy): (u64, PolicyId),
        question: &Question,
        in_force: &InForce,
    ) -> Option<(Arc<Content>, Duration)> {
        let judged = self.shares.get(&share)?.judged.get(question)?;
        let same = judged.version == version && judged.policy == policy;
        same.then(|| judged.kept.valid(now, in_force))?
    }

    /// The answer to a question, and its age, if it is still valid and the same services list the name. `version` is that of
    /// the directory that judged.
    pub(super) fn get(
        &mut self,
        now: Instant,
        asked: &Asked,
        version: u64,
        services: &[Arc<Service>],
        in_force: &InForce,
    ) -> Option<(Arc<Content>, Duration)> {
        let share = self.shares.get_mut(&asked.share)?;
        let kept = share.entries.get(asked)?;
        let same = kept.services.len() == services.len()
            && kept
                .services
                .iter()
                .zip(services)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        let valid = same.then(|| kept.valid(now, in_force))??;
        // What else is forwarded depends on more than the version and the policy.
        let listed = asked.leased && !services.is_empty();
        if listed && asked.server.is_none() && asked.alias_of.is_empty() {
            let judged = Judged {
                version,
                policy: asked.policy,
                kept: Arc::clone(kept),
            };
            share.judged.insert(asked.question.clone(), judged);
        }
        Some(valid)
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
        if needed > MAX_BYTES_EACH {
            return;
        }
        let share = self.shares.entry(asked.share).or_default();
        share.order.push_back((kept.number, asked.clone()));
        share.bytes += needed;
        self.bytes += needed;
        share.judged.remove(&asked.question);
        if let Some(before) = share.entries.insert(asked.clone(), Arc::new(kept)) {
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
        while share.bytes > MAX_BYTES_EACH && !share.order.is_empty() {
            self.bytes -= share.evict();
        }
        while self.bytes > MAX_BYTES
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
            share.judged.retain(|_, judged| judged.kept.until > now);
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

    fn has(cache: &mut Cache, now: Instant, asked: &Asked) -> bool {
        cache.get(now, asked, 1, &[], &InForce::default()).is_some()
    }

    #[test]
    fn an_answer_is_given_until_its_time_is_over_and_to_its_own_workload_only() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, now, &asked(1, "a.example"));
        assert!(has(&mut cache, now, &asked(1, "a.example")));
        assert!(!has(&mut cache, now, &asked(2, "a.example")));
        assert!(!has(&mut cache, now + MINUTE, &asked(1, "a.example")));
    }

    #[test]
    fn a_judgement_counts_for_its_version_and_policy_and_while_the_answer_is_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let in_force = InForce::default();
        let asked = asked(1, "a.example");
        let services = vec![Arc::new(Service {
            host: "a.example".into(),
            entries: Vec::new(),
            left_out: Vec::new(),
            allocated: Vec::new(),
        })];
        let put = |cache: &mut Cache| {
            let content = Arc::new(Content::empty(ResponseCode::NXDomain));
            let grounds = (services.clone(), Vec::new());
            cache.put(now, &asked, content, grounds, MINUTE);
        };
        put(&mut cache);
        let judged = |cache: &Cache, now, share, version, policy| {
            let by = (version, PolicyId(policy));
            let found = cache.judged(now, CgroupId(share), by, &asked.question, &in_force);
            found.is_some()
        };
        assert!(!judged(&cache, now, 1, 7, 0), "nobody judged it");
        assert!(cache.get(now, &asked, 7, &services, &in_force).is_some());
        assert!(judged(&cache, now, 1, 7, 0));
        assert!(!judged(&cache, now + MINUTE, 1, 7, 0), "it is too old");
        for (share, version, policy) in [(2, 7, 0), (1, 8, 0), (1, 7, 1)] {
            assert!(!judged(&cache, now, share, version, policy));
        }
        put(&mut cache);
        assert!(!judged(&cache, now, 1, 7, 0), "it is another answer");
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_evicts_no_neighbours_answer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, now, &asked(1, "mine.example"));
        for n in 0..100_000 {
            put(&mut cache, now, &asked(2, &format!("n{n}.example")));
        }
        assert!(cache.bytes() <= MAX_BYTES_EACH + 1024, "{}", cache.bytes());
        assert!(has(&mut cache, now, &asked(1, "mine.example")));
        assert!(has(&mut cache, now, &asked(2, "n99999.example")));
        for share in 3..20 {
            for n in 0..20_000 {
                put(&mut cache, now, &asked(share, &format!("n{n}.example")));
            }
        }
        assert!(cache.bytes() <= MAX_BYTES, "{}", cache.bytes());
        assert!(has(&mut cache, now, &asked(1, "mine.example")));
        cache.forget(now + MINUTE);
        assert_eq!((cache.bytes(), cache.shares.len()), (0, 0));
    }
}
