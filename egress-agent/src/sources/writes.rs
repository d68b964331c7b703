//! Which files are complete: what inotify reports of their writers, and attributes that stay the same.
//!
//! The first part of a rule file may be valid without the rest, which may narrow what the first part opens. Reads no
//! texts.

use crate::stamp::{Inode, Stamp};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A change that inotify does not report counts when the file's attributes stayed the same for this long.
pub(super) const SETTLED: Duration = Duration::from_secs(1);

/// What is known of writers at the time of a look.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Something may have changed that inotify did not report.
    pub(super) polled: bool,
    /// Files that a writer has open and has written to.
    pub(super) writing: HashSet<Inode>,
    /// Attributes of files whose changes were reported, and whose writers are done.
    pub(super) complete: HashSet<Stamp>,
}

/// The writers that inotify reported.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Files that were written to and not yet closed. The file under a path may be replaced while its writer goes on.
    writing: BTreeMap<PathBuf, Option<Inode>>,
    /// Paths of events since the last look.
    named: BTreeSet<PathBuf>,
    /// Events were lost.
    lost: bool,
}

impl Writes {
    pub(super) fn note(&mut self, event: &Event) {
        if event.paths.is_empty() {
            self.lose();
        }
        let closed = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(ModifyKind::Name(_))
        );
        for path in &event.paths {
            self.named.insert(path.clone());
            if closed {
                self.writing.remove(path);
            } else if matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) {
                self.writing.insert(path.clone(), inode(path));
            }
        }
    }

    /// Some events were lost. The end of a write may have been among them.
    pub(super) fn lose(&mut self) {
        self.writing.clear();
        self.lost = true;
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.writing.is_empty()
    }

    /// What is known, for a look at the files that follows. `polled`: no event caused it.
    pub(super) fn told(&mut self, polled: bool) -> Told {
        self.writing
            .retain(|path, known| known.is_some() && inode(path) == *known);
        let named = std::mem::take(&mut self.named);
        let complete = named
            .iter()
            .filter(|path| !self.writing.contains_key(*path));
        let metas = complete.filter_map(|path| fs::metadata(path).ok());
        Told {
            polled: polled || std::mem::take(&mut self.lost),
            writing: self.writing.values().copied().flatten().collect(),
            complete: metas.map(|meta| Stamp::of(&meta)).collect(),
        }
    }
}

fn inode(path: &Path) -> Option<Inode> {
    Some(Stamp::of(&fs::metadata(path).ok()?).inode())
}

/// What a look may take of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    /// Its text.
    Text,
    /// Its text at a later look, if it has not changed by then.
    Later,
    /// Nothing: a writer is at work.
    Writing,
}

/// Attributes of a changed file.
#[derive(Clone, Copy, Debug)]
struct Seen {
    stamp: Stamp,
    /// The look that saw them first, and when. The attempts of one look prove nothing to each other.
    look: u64,
    since: Instant,
    /// They changed while the file was looked at.
    again: bool,
}

/// Files whose attributes must stay the same before their text counts.
#[derive(Debug)]
pub(super) struct Pending {
    files: HashMap<PathBuf, Seen>,
    /// The number of this look.
    look: u64,
    settled: Duration,
}

impl Pending {
    pub(super) fn new(settled: Duration) -> Self {
        Self {
            files: HashMap::new(),
            look: 0,
            settled,
        }
    }

    pub(super) fn begin_look(&mut self) {
        self.look += 1;
    }

    /// Whether another look must follow soon.
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Forgets files that this is not true of.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Path) -> bool) {
        self.files.retain(|path, _| is_there(path));
    }

    /// What to take of a file with this stamp. `before` is its stamp when its text was taken last.
    pub(super) fn take(
        &mut self,
        path: &Path,
        stamp: Stamp,
        before: Option<Stamp>,
        told: &Told,
    ) -> Take {
        if told.writing.contains(&stamp.inode()) {
            return Take::Writing;
        }
        // What is under another inode now has replaced the file, with events of a folder or a link above it.
        let replaced = before.is_some_and(|before| before.inode() != stamp.inode());
        // The first look of all has nothing to compare with.
        let unreported = self.look > 1
            && before != Some(stamp)
            && !told.complete.contains(&stamp)
            && (told.polled || !replaced || self.files.contains_key(path));
        if !unreported {
            self.files.remove(path);
            return Take::Text;
        }
        let (now, known) = (Instant::now(), self.files.get(path));
        let seen = known.filter(|seen| seen.stamp == stamp);
        let seen = seen.copied().unwrap_or(Seen {
            stamp,
            look: self.look,
            since: now,
            again: known.is_some(),
        });
        if seen.look < self.look && now.saturating_duration_since(seen.since) >= self.settled {
            self.files.remove(path);
            return Take::Text;
        }
        self.files.insert(path.to_owned(), seen);
        if seen.again {
            Take::Writing
        } else {
            Take::Later
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{DataChange, RenameMode};

    const DATA: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    fn event(kind: EventKind, path: &Path) -> Event {
        Event::new(kind).add_path(path.to_owned())
    }

    #[test]
    fn a_write_is_under_way_until_its_file_is_closed_or_renamed() {
        let path = Path::new("/r/a.yaml");
        for end in [
            CLOSED,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)),
        ] {
            let mut writes = Writes::default();
            writes.note(&event(DATA, path));
            assert!(writes.is_under_way());
            writes.note(&event(end, path));
            assert!(!writes.is_under_way());
        }
    }

    #[test]
    fn a_file_counts_as_written_to_while_it_is_under_its_path_and_no_event_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, "a").unwrap();
        let mut writes = Writes::default();
        writes.note(&event(DATA, &file));
        let inode = inode(&file).unwrap();
        assert!(writes.told(false).writing.contains(&inode));
        writes.note(&Event::new(EventKind::Other));
        let told = writes.told(false);
        assert!(told.polled && told.writing.is_empty(), "an overflow");
        writes.note(&event(DATA, &file));
        fs::write(dir.path().join("b.yaml"), "b").unwrap();
        fs::rename(dir.path().join("b.yaml"), &file).unwrap();
        assert!(writes.told(false).writing.is_empty(), "replaced");
    }
}
