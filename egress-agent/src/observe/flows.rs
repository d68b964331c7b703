//! Log lines of the flows that the proxy denied and served, with Envoy's response flags. Repeated
//! denials of a client get a bounded number of lines; the others are counted, and the count is
//! logged.

use super::counters::Counters;
use super::event::{By, Event, Owner, Owners, log_suppressed};
use super::families::Own;
use super::finished::Done;
use super::histogram::Timing;
use super::pod_denials::PodDenials;
use super::repeats::Repeats;
use super::tally::{Denied, UNKNOWN};
use super::throttle::Throttle;
use crate::access_log::AccessLog;
use crate::dns::{DeniedQuery, Queries, QueryResult};
use crate::proxy::{AccessRecord, CopyEnd, Denial, Observer, Origin, Protocol};
use egress_core::access_log::AccessFormat;
use egress_ebpf::ids::CgroupId;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most lines of denials in a second, the same as for the kernel's.
const LINES: u32 = 75;
/// The most kinds of denials that are remembered, to recognise repeats.
const KINDS: usize = 1024;
/// Time between two checks for repeats that are still to be logged.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The most characters of a name that are logged. The longest DNS name with a port is shorter.
const NAME: usize = 262;

/// Denials with the same kind are repeats.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    by: By,
    protocol: &'static str,
    reason: &'static str,
    detail: String,
    name: Option<String>,
    destination: Option<SocketAddr>,
    cgroup: Option<CgroupId>,
    audit: bool,
}

impl Kind {
    /// The destination as `explain` takes it.
    fn to(&self) -> String {
        match (&self.name, self.destination) {
            (Some(name), Some(to)) if !name.contains(':') => format!("{name}:{}", to.port()),
            (Some(name), _) => name.clone(),
            (None, Some(to)) => to.to_string(),
            (None, None) => "an unknown destination".to_owned(),
        }
    }

    /// The fields that all denials of this kind share.
    fn event<'a>(&'a self, owner: &'a Owner) -> Event<'a> {
        Event {
            by: self.by,
            audit: self.audit,
            reason: self.reason,
            detail: Some(&self.detail),
            destination: self.destination,
            protocol: self.protocol,
            names: self.name.as_deref(),
            nearest: None,
            owner,
            policy: None,
            pid: None,
            comm: None,
            hook: None,
            peer: None,
            repeated: 0,
        }
    }
}

#[derive(Debug)]
struct Bounds {
    repeats: Repeats<Kind>,
    throttle: Throttle,
}

/// See the module.
#[derive(Debug)]
pub struct FlowLog {
    bounds: Mutex<Bounds>,
    counters: Counters,
    owners: Owners,
    access_log: Arc<AccessLog>,
    pods: PodDenials,
}

impl FlowLog {
    /// Starts with no kind remembered.
    pub fn new(counters: Counters, owners: Owners, access_log: Arc<AccessLog>) -> Self {
        Self {
            bounds: Mutex::new(Bounds {
                repeats: Repeats::new(KINDS),
                throttle: Throttle::new(LINES),
            }),
            counters,
            owners,
            access_log,
            pods: PodDenials::default(),
        }
    }

    /// Also notes denials of pods here.
    #[must_use]
    pub fn noting(mut self, pods: PodDenials) -> Self {
        self.pods = pods;
        self
    }

    /// Logs repeats that no further denial of their kind reports. Does not return.
    pub async fn log_repeats(&self) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            self.log_ended(Instant::now());
        }
    }

    fn log_ended(&self, now: Instant) {
        let (ended, more) = {
            let mut bounds = self.bounds();
            (bounds.repeats.ended(now), bounds.throttle.take(now))
        };
        log_suppressed(By::Proxy, more);
        for (kind, repeated) in ended {
            let Some(more) = self.bounds().throttle.allows(now, kind.cgroup) else {
                self.counters.add(Own::ProxyNotLogged, repeated);
                continue;
            };
            log_suppressed(By::Proxy, more);
            let owner = self.owner(kind.cgroup);
            Event {
                repeated,
                ..kind.event(&owner)
            }
            .log_repeats();
        }
    }

    /// Counts a denial. Returns the number of repeats to log with it, or `None` if it gets no line.
    fn allows(&self, now: Instant, kind: Kind) -> Option<u64> {
        let counter = match (kind.by, kind.audit) {
            (By::Dns, _) => None,
            (_, true) => Some(Own::ProxyWouldDeny),
            (_, false) => Some(Own::ProxyDenied),
        };
        if let Some(counter) = counter {
            self.counters.add(counter, 1);
        }
        let (repeated, more) = {
            let mut bounds = self.bounds();
            let cgroup = kind.cgroup;
            let repeated = bounds.repeats.tells(now, kind)?;
            let Some(more) = bounds.throttle.allows(now, cgroup) else {
                self.counters.add(Own::ProxyNotLogged, 1 + repeated);
                return None;
            };
            (repeated, more)
        };
        log_suppressed(By::Proxy, more);
        Some(repeated)
    }

    fn owner(&self, cgroup: Option<CgroupId>) -> Owner {
        cgroup.map_or_else(Owner::default, |cgroup| self.owners.of(cgroup))
    }

    fn bounds(&self) -> std::sync::MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done(record: &AccessRecord) -> Done {
    Done {
        protocol: match record.protocol {
            Protocol::Http => 0,
            Protocol::Http2 => 1,
            Protocol::Tls => 2,
            Protocol::Tcp => 3,
        },
        status: record.response_code,
        flags: record.flags,
        received: record.bytes_received,
        sent: record.bytes_sent,
    }
}

/// A name cut to [`NAME`] characters: a client may send any text as its Host.
fn shown(name: &str) -> String {
    match name.char_indices().nth(NAME) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}...", &name[..end]),
    }
}

impl Observer for FlowLog {
    fn denied(&self, origin: Option<&Origin>, denial: &Denial) {
        let kind = Kind {
            by: By::Proxy,
            protocol: "tcp",
            reason: denial.reason.code(),
            detail: denial.reason.to_string(),
            name: denial.name.as_deref().map(shown),
            destination: origin.map(|origin| origin.destination),
            cgroup: origin.map(|origin| origin.cgroup),
            audit: denial.audit,
        };
        let owner = self.owner(kind.cgroup);
        let denied = Denied {
            by: By::Proxy,
            audit: kind.audit,
            reason: kind.reason,
            namespace: owner.namespace().unwrap_or(UNKNOWN).into(),
        };
        self.counters.denied().add(denied, 1, Instant::now());
        if !kind.audit {
            let detail = || Some(kind.detail.clone());
            self.pods.note(&owner, || kind.to(), kind.reason, 1, detail);
        }
        let Some(repeated) = self.allows(Instant::now(), kind.clone()) else {
            return;
        };
        Event {
            policy: origin.map(|origin| origin.policy),
            pid: origin.map(|origin| origin.pid),
            comm: origin.map(|origin| origin.comm.as_str()),
            peer: Some(denial.peer),
            repeated,
            ..kind.event(&owner)
        }
        .log();
    }

    fn copied(&self, _: &Origin, end: CopyEnd) {
        let counter = match end {
            CopyEnd::Answered => Own::CopiesAnswered,
            CopyEnd::Failed => Own::CopiesFailed,
            CopyEnd::Denied => Own::CopiesDenied,
            CopyEnd::NoRoom => Own::CopiesNoRoom,
        };
        self.counters.add(counter, 1);
    }

    fn access_format(&self) -> Option<Arc<AccessFormat>> {
        self.access_log.format()
    }

    fn finished(&self, origin: &Origin, record: &AccessRecord) {
        self.access_log.write(origin, record);
        self.counters.finished().add(done(record));
        let timings = self.counters.timings();
        timings.observe(Timing::ProxyRequest, record.duration);
        // A log line costs more than serving the request, so it is written at DEBUG only.
        if !tracing::enabled!(target: "egress::proxy", tracing::Level::DEBUG) {
            return;
        }
        let owner = self.owners.of(origin.cgroup);
        tracing::debug!(
            target: "egress::proxy",
            protocol = ?record.protocol,
            host = record.host,
            method = record.method,
            path = record.path,
            response_code = record.response_code,
            response_flags = %record.flags,
            service = record.cluster.as_ref().map(|id| &*id.host),
            upstream = record.upstream.map(tracing::field::display),
            attempts = record.attempts,
            bytes_received = record.bytes_received,
            bytes_sent = record.bytes_sent,
            duration_ms = record.duration.as_millis() as u64,
            upstream_service_time_ms = record.upstream_service_time.map(|time| time.as_millis() as u64),
            peer = %record.peer,
            destination = %origin.destination,
            policy = origin.policy.0,
            pod = owner.pod_name(),
            container = owner.container(),
            owner = owner.pod_owner(),
            workload = owner.workload.as_deref(),
            cgroup = owner.cgroup.as_deref(),
            pid = origin.pid,
            comm = origin.comm,
            netns = origin.netns.0,
            "finished"
        );
    }
}

impl Queries for FlowLog {
    fn ended(&self, result: QueryResult) {
        let counter = match result {
            QueryResult::Forwarded => Own::QueriesForwarded,
            QueryResult::Cached => Own::QueriesCached,
            QueryResult::Local => Own::QueriesLocal,
            QueryResult::Denied => Own::QueriesDenied,
            QueryResult::Stale => Own::QueriesStale,
            QueryResult::Failed => Own::QueriesFailed,
            QueryResult::Malformed => Own::QueriesMalformed,
            QueryResult::Dropped => Own::QueriesDropped,
        };
        self.counters.add(counter, 1);
    }

    fn denied_query(&self, denied: &DeniedQuery<'_>) {
        let DeniedQuery {
            asker,
            question,
            reason,
            audit,
        } = denied;
        let kind = Kind {
            by: By::Dns,
            protocol: if asker.tcp { "tcp" } else { "udp" },
            reason: reason.code(),
            detail: format!("{reason} (type {})", question.kind),
            name: Some(shown(&question.name)),
            destination: Some(asker.server),
            cgroup: Some(asker.cgroup),
            audit: *audit,
        };
        let owner = self.owner(kind.cgroup);
        let tallied = Denied {
            by: By::Dns,
            audit: kind.audit,
            reason: kind.reason,
            namespace: owner.namespace().unwrap_or(UNKNOWN).into(),
        };
        self.counters.denied().add(tallied, 1, Instant::now());
        let Some(repeated) = self.allows(Instant::now(), kind.clone()) else {
            return;
        };
        Event {
            pid: Some(asker.pid),
            peer: Some(asker.peer),
            repeated,
            ..kind.event(&owner)
        }
        .log();
    }

    fn leased(&self) {
        self.counters.add(Own::QueriesLeased, 1);
    }
}

#[cfg(test)]
#[path = "flows_tests.rs"]
mod tests;
