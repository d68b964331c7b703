//! New files that are loaded in parts, so that a small change need not wait until a large one is in force.
//!
//! Owns which files may wait, and which changes may overtake them. Only new files that contain no kind but
//! `ServiceEntry` wait. They are judged first, and then given out part by part, if fewer of their objects never list more
//! than all of them do. A change overtakes them if it is about other names and addresses, so that the order of the two
//! makes no difference.

use super::files::SourceFile;
use super::judge::{Judged, One, judge_part};
use aho_corasick::AhoCorasick;
use egress_core::istio::decode::documents_within;
use egress_core::istio::service_entry::{Resolution, ServiceEntry};
use egress_core::istio::{Object, Spec};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A change that touches more objects than this overtakes nothing.
const FEW: usize = 64;
/// Words that are not in a file that may wait: other kinds, and YAML that writes a word in another way.
const KEEP_ORDER: [&str; 6] = [
    "Sidecar",
    "VirtualService",
    "DestinationRule",
    "WorkloadEntry",
    "\\",
    "!",
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    files: BTreeMap<PathBuf, Waiting>,
    /// All files are judged, and any part of their objects may be in force.
    safe: bool,
}

/// A file, and how far it is judged.
#[derive(Debug)]
struct Waiting {
    file: Arc<SourceFile>,
    offset: usize,
    /// The objects that are judged and not given out.
    judged: Judged,
}

impl Waiting {
    fn is_judged(&self) -> bool {
        self.offset == self.file.text.len()
    }
}

/// Some objects of a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: Arc<SourceFile>,
    pub(super) judged: Judged,
    /// The file has no more.
    pub(super) is_last: bool,
}

/// The objects that a change touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Former versions.
    before: Vec<Arc<Object>>,
    after: Vec<Arc<Object>>,
    /// A document is invalid, so that something else than it says may be in force.
    invalid: bool,
}

impl Touched {
    /// The objects of a file before and after the change. Those that stay are the same in memory.
    pub(super) fn add(&mut self, before: &[Arc<Object>], after: &[One]) {
        let place = |object: &Arc<Object>| Arc::as_ptr(object).addr();
        let old: BTreeSet<usize> = before.iter().map(place).collect();
        let new: BTreeSet<usize> = after.iter().map(|one| place(&one.object)).collect();
        let gone = before.iter().filter(|object| !new.contains(&place(object)));
        self.before.extend(gone.cloned());
        for one in after
            .iter()
            .filter(|one| !old.contains(&place(&one.object)))
        {
            self.invalid |= !one.errors.is_empty();
            self.after.push(Arc::clone(&one.object));
        }
    }
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether this version of a file waits.
    pub(super) fn has(&self, file: &SourceFile) -> bool {
        let waiting = self.files.get(&file.path);
        waiting.is_some_and(|waiting| waiting.file.digest() == file.digest())
    }

    /// Forgets files that are gone, and other versions of files.
    pub(super) fn keep(&mut self, there: &HashMap<&OsStr, &Arc<SourceFile>>) {
        self.files.retain(|path, waiting| {
            let file = there.get(path.as_os_str());
            file.is_some_and(|file| file.digest() == waiting.file.digest())
        });
    }

    /// Makes a file wait.
    pub(super) fn add(&mut self, file: &Arc<SourceFile>) {
        let waiting = Waiting {
            file: Arc::clone(file),
            offset: 0,
            judged: Judged::default(),
        };
        self.files.insert(file.path.clone(), waiting);
        self.safe = false;
    }

    /// Judges about `most` further bytes. Returns whether all files are judged.
    pub(super) fn judge(&mut self, mut most: usize) -> bool {
        for waiting in self.files.values_mut() {
            while !waiting.is_judged() {
                if most == 0 {
                    return false;
                }
                let text = &waiting.file.text[waiting.offset..];
                let mut length = documents_within(text, most);
                let begin = waiting.judged.end;
                let mut judged = judge_part(&waiting.file, &text[..length], begin);
                if judged.end.document == 0 && length < text.len() {
                    // A file may begin with comments. It is an error if there is nothing else in all of it.
                    length = text.len();
                    judged = judge_part(&waiting.file, text, begin);
                }
                waiting.judged.extend(judged);
                waiting.offset += length;
                most = most.saturating_sub(length);
            }
        }
        true
    }

    /// The next objects, of at most `most` bytes, or one object; all objects if their order matters. `known`: another
    /// file has an object.
    pub(super) fn next(&mut self, most: usize, known: impl Fn(&One) -> bool) -> Vec<Part> {
        self.safe = self.safe || self.is_safe(known);
        let mut most = if self.safe { most } else { usize::MAX };
        let mut parts = Vec::new();
        while most > 0
            && let Some(mut first) = self.files.first_entry()
        {
            let waiting = first.get_mut();
            let objects = &mut waiting.judged.objects;
            let (count, length) = first_within(objects, most);
            if count == 0 && !parts.is_empty() && !objects.is_empty() {
                break;
            }
            // There is progress with one object that is longer.
            let count = count.max(1).min(objects.len());
            most = most.saturating_sub(length.max(1));
            let rest = objects.split_off(count);
            let judged = std::mem::take(&mut waiting.judged);
            waiting.judged.objects = rest;
            let is_last = waiting.judged.objects.is_empty();
            parts.push(Part {
                file: Arc::clone(&waiting.file),
                judged,
                is_last,
            });
            if is_last {
                first.remove();
            }
        }
        parts
    }

    /// Whether any part of the objects may be in force: they are plain, and each object and each host is given once.
    fn is_safe(&self, known: impl Fn(&One) -> bool) -> bool {
        let (mut ids, mut hosts) = (HashSet::new(), HashSet::new());
        let mut all = self
            .files
            .values()
            .flat_map(|waiting| &waiting.judged.objects);
        all.all(|one| {
            let Some(Spec::ServiceEntry(spec)) = &one.object.spec else {
                return false;
            };
            let first = ids.insert(&one.id) && spec.hosts.iter().all(|host| hosts.insert(host));
            first && one.errors.is_empty() && is_plain(&one.object) && !known(one)
        })
    }

    /// Whether a change is about other names and addresses than all waiting files, and opens no network or wildcard
    /// that an entry in these files could narrow.
    pub(super) fn lets_overtake(&self, change: &Touched) -> bool {
        let few = change.before.len() + change.after.len() <= FEW;
        if !few || change.invalid || !change.after.iter().all(|object| is_plain(object)) {
            return false;
        }
        let mut words = Vec::new();
        for object in change.before.iter().chain(&change.after) {
            let Some(of) = words_of(object) else {
                return false;
            };
            words.extend(of.filter(|word| !word.is_empty()));
        }
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(words);
        search.is_ok_and(|search| {
            let texts = self.files.values().map(|waiting| &waiting.file.text);
            !texts.into_iter().any(|text| search.is_match(text))
        })
    }
}

/// How many of the first objects have at most `most` bytes, and their length.
fn first_within(objects: &[One], most: usize) -> (usize, usize) {
    let mut sum = 0;
    for (count, one) in objects.iter().enumerate() {
        let length = one.object.text.len();
        if length > most.saturating_sub(sum) {
            return (count, sum);
        }
        sum += length;
    }
    (objects.len(), sum)
}

/// Whether a new file may be loaded in parts and after later changes.
pub(super) fn may_wait(file: &SourceFile) -> bool {
    // An empty file has no part.
    !file.text.is_empty() && !KEEP_ORDER.iter().any(|word| file.text.contains(word))
}

/// Whether an object lists single addresses of exact names only, or lists nothing. Such objects do not narrow each
/// other, so that any part of them may be in force.
fn is_plain(object: &Object) -> bool {
    match &object.spec {
        Some(Spec::ServiceEntry(spec)) => {
            let single = |address: &String| address.parse::<IpAddr>().is_ok();
            let resolved = match spec.resolution() {
                Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => true,
                Resolution::None | Resolution::DynamicDns => false,
            };
            resolved
                && spec.workload_selector.is_none()
                && !spec.hosts.iter().any(|host| host.contains('*'))
                && spec.addresses.iter().all(single)
        }
        Some(Spec::DestinationRule(spec)) => !spec.host.contains('*'),
        Some(Spec::VirtualService(_) | Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => false,
    }
}

/// The names and addresses that an object is about; `None` if it has others than its text names.
fn words_of(object: &Object) -> Option<Box<dyn Iterator<Item = &String> + '_>> {
    match &object.spec {
        Some(Spec::ServiceEntry(ServiceEntry {
            hosts,
            addresses,
            endpoints,
            workload_selector: None,
            ..
        })) => {
            let endpoints = endpoints.iter().map(|endpoint| &endpoint.address);
            Some(Box::new(hosts.iter().chain(addresses).chain(endpoints)))
        }
        Some(Spec::DestinationRule(spec)) => Some(Box::new(std::iter::once(&spec.host))),
        Some(
            Spec::ServiceEntry(_)
            | Spec::VirtualService(_)
            | Spec::Sidecar(_)
            | Spec::WorkloadEntry(_),
        )
        | None => None,
    }
}
