//! Denials by pod, destination and reason, for Events on the pods. Bounded: whatever pods dial, a note costs a short lock and
//! no memory beyond the limits.
//!
//! Gathers and gives out what is due. Does not know the Kubernetes API.

use super::event::Owner;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most pods of a node that are remembered. The kubelet's default limit is 110 pods.
const PODS: usize = 512;
/// The most destinations and reasons of a pod that have a report of their own. All others have one together.
const KINDS: usize = 8;
/// A denial is reported after this time, with the repeats until then.
const FIRST: Duration = Duration::from_secs(1);
/// Further repeats are reported after this time.
const REPEAT_INTERVAL: Duration = Duration::from_mins(1);
/// Without a repeat for this time, the next denial begins a new report.
const FORGOTTEN: Duration = Duration::from_mins(10);
/// The most characters of a detail.
const DETAIL: usize = 300;

/// Denials of the pods of this node. Clones share them. The default gathers nothing.
#[derive(Clone, Debug, Default)]
pub struct PodDenials(Option<Arc<Mutex<Table>>>);

/// The name of a report.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReportId {
    /// The pod's uid.
    pub uid: String,
    /// What is denied; `None` for all that has no report of its own.
    pub kind: Option<(String, String)>,
}

/// A report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its name.
    pub id: ReportId,
    /// Namespace and name of the pod.
    pub pod: (String, String),
    /// What the log line of the denial says about the nearest rule or the reason.
    pub detail: Option<String>,
    /// Denials since the report began.
    pub count: u64,
    /// The object in which the report was written before.
    pub written: Option<String>,
}

#[derive(Debug, Default)]
struct Table {
    pods: BTreeMap<String, Pod>,
}

#[derive(Debug)]
struct Pod {
    name: (String, String),
    kinds: BTreeMap<Option<(String, String)>, Entry>,
}

#[derive(Debug)]
struct Entry {
    detail: Option<String>,
    count: u64,
    reported: u64,
    last: Instant,
    next: Instant,
    written: Option<String>,
}

impl PodDenials {
    /// Gathers.
    pub fn gathering() -> Self {
        Self(Some(Arc::default()))
    }

    /// Notes `count` denials of a flow. `detail` is asked for the first one of its kind.
    pub fn note(
        &self,
        owner: &Owner,
        destination: impl FnOnce() -> String,
        reason: &str,
        count: u64,
        detail: impl FnOnce() -> Option<String>,
    ) {
        let (Some(table), Some(pod)) = (&self.0, &owner.pod) else {
            return;
        };
        let Some((namespace, name)) = pod.pod.split_once('/') else {
            return;
        };
        let kind = (destination(), reason.to_owned());
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.note(
            &pod.uid,
            (namespace, name),
            kind,
            count,
            Instant::now(),
            detail,
        );
    }

    /// The next report that is due.
    pub fn due(&self, now: Instant) -> Option<Due> {
        let mut table = self
            .0
            .as_ref()?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        table.due(now)
    }

    /// A report was written with this count, in this object.
    pub fn written(&self, id: &ReportId, count: u64, object: &str, now: Instant) {
        self.change(id, |entry| entry.written(count, object, now));
    }

    /// The object of a report is gone.
    pub fn lost(&self, id: &ReportId) {
        self.change(id, |entry| entry.written = None);
    }

    /// A report cannot be written: its pod is gone.
    pub fn drop_report(&self, id: &ReportId) {
        self.change(id, |entry| entry.reported = entry.count);
    }

    fn change(&self, id: &ReportId, change: impl FnOnce(&mut Entry)) {
        if let Some(table) = &self.0 {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.change(id, change);
        }
    }
}

impl Table {
    fn note(
        &mut self,
        uid: &str,
        name: (&str, &str),
        kind: (String, String),
        count: u64,
        now: Instant,
        detail: impl FnOnce() -> Option<String>,
    ) {
        if !self.pods.contains_key(uid) {
            if self.pods.len() >= PODS {
                self.forget(now);
            }
            if self.pods.len() >= PODS {
                return;
            }
        }
        let pod = self.pods.entry(uid.to_owned()).or_insert_with(|| Pod {
            name: (name.0.to_owned(), name.1.to_owned()),
            kinds: BTreeMap::new(),
        });
        let mut kind = Some(kind);
        if !pod.kinds.contains_key(&kind) && pod.kinds.len() >= KINDS {
            pod.kinds.retain(|_, entry| !entry.is_over(now));
            if pod.kinds.len() >= KINDS {
                kind = None;
            }
        }
        let own = kind.is_some();
        let entry = pod.kinds.entry(kind).or_insert_with(|| Entry {
            detail: if own { detail().map(cut) } else { None },
            count: 0,
            reported: 0,
            last: now,
            next: now + FIRST,
            written: None,
        });
        if entry.is_over(now) {
            // The former report is of another time.
            (entry.count, entry.reported, entry.written) = (0, 0, None);
            entry.next = now + FIRST;
        }
        entry.count = entry.count.saturating_add(count);
        entry.last = now;
    }

    /// The report that has been due for the longest time. It stays due until it is written.
    fn due(&mut self, now: Instant) -> Option<Due> {
        let mut first: Option<(Instant, Due)> = None;
        for (uid, pod) in &self.pods {
            for (kind, entry) in &pod.kinds {
                let is_due = entry.count > entry.reported && entry.next <= now;
                if is_due && first.as_ref().is_none_or(|(next, _)| entry.next < *next) {
                    let due = Due {
                        id: ReportId {
                            uid: uid.clone(),
                            kind: kind.clone(),
                        },
                        pod: pod.name.clone(),
                        detail: entry.detail.clone(),
                        count: entry.count,
                        written: entry.written.clone(),
                    };
                    first = Some((entry.next, due));
                }
            }
        }
        if first.is_none() {
            self.forget(now);
        }
        first.map(|(_, due)| due)
    }

    fn change(&mut self, id: &ReportId, change: impl FnOnce(&mut Entry)) {
        let pod = self.pods.get_mut(&id.uid);
        if let Some(entry) = pod.and_then(|pod| pod.kinds.get_mut(&id.kind)) {
            change(entry);
        }
    }

    fn forget(&mut self, now: Instant) {
        for pod in self.pods.values_mut() {
            pod.kinds.retain(|_, entry| !entry.is_over(now));
        }
        self.pods.retain(|_, pod| !pod.kinds.is_empty());
    }
}

impl Entry {
    fn written(&mut self, count: u64, object: &str, now: Instant) {
        self.reported = count;
        self.written = Some(object.to_owned());
        self.next = now + REPEAT_INTERVAL;
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGOTTEN
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(DETAIL) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(table: &mut Table, now: Instant, pod: usize, destination: usize) {
        let kind = (format!("192.0.2.1:{destination}"), "not-listed".to_owned());
        let name = format!("pod-{pod}");
        table.note(&name, ("shop", &name), kind, 1, now, || {
            Some("x".repeat(9999))
        });
    }

    #[test]
    fn repeats_are_a_count_and_not_another_report() {
        let (mut table, start) = (Table::default(), Instant::now());
        for _ in 0..1000 {
            note(&mut table, start, 1, 80);
        }
        assert_eq!(table.due(start), None, "more may follow");
        let due = table.due(start + FIRST).unwrap();
        assert_eq!(
            (due.count, due.written.as_deref(), due.pod.1.as_str()),
            (1000, None, "pod-1")
        );
        assert_eq!(due.detail.as_ref().unwrap().len(), DETAIL + 3);
        assert_eq!(
            table.due(start + FIRST),
            Some(due.clone()),
            "not written yet"
        );
        table.change(&due.id, |entry| entry.written(1000, "e", start + FIRST));
        assert_eq!(
            table.due(start + FIRST + REPEAT_INTERVAL),
            None,
            "nothing since"
        );
        note(&mut table, start + FIRST * 2, 1, 80);
        assert_eq!(table.due(start + FIRST * 3), None, "once a minute");
        let due = table.due(start + FIRST + REPEAT_INTERVAL).unwrap();
        assert_eq!((due.count, due.written.as_deref()), (1001, Some("e")));
        note(&mut table, start + FORGOTTEN * 2, 1, 80);
        let due = table.due(start + FORGOTTEN * 2 + FIRST).unwrap();
        assert_eq!((due.count, due.written), (1, None), "a new report");
    }

    #[test]
    fn a_pod_that_dials_at_random_has_few_reports_and_delays_no_other() {
        let (mut table, start) = (Table::default(), Instant::now());
        for destination in 0..100_000 {
            note(&mut table, start, 1, destination);
        }
        note(&mut table, start, 2, 80);
        let dues: Vec<Due> = std::iter::from_fn(|| {
            let due = table.due(start + FIRST)?;
            table.change(&due.id, |entry| {
                entry.written(due.count, "e", start + FIRST);
            });
            Some(due)
        })
        .collect();
        assert_eq!(dues.len(), KINDS + 2);
        let others = dues.iter().find(|due| due.id.kind.is_none()).unwrap();
        assert_eq!(others.count, 100_000 - KINDS as u64);
        assert!(dues.iter().any(|due| due.pod.1 == "pod-2"));
    }

    #[test]
    fn ever_new_pods_take_no_more_memory_than_the_limit() {
        let (mut table, start) = (Table::default(), Instant::now());
        for pod in 0..10_000 {
            note(&mut table, start, pod, 80);
        }
        assert_eq!(table.pods.len(), PODS);
        note(&mut table, start + FORGOTTEN, 10_000, 80);
        assert_eq!(table.pods.len(), 1, "the others are forgotten");
    }
}
