//! When to look at the rule files again: inotify for speed, a slow poll for what it cannot see
//! (network mounts, a full queue). Reads no rules; a wake-up may find no change.

use super::files::is_rules;
use super::writes::{SETTLED, Told, Writes};
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

/// Longest time until a change is found that inotify does not report.
const POLL: Duration = Duration::from_secs(2);
/// The same with so many files that reading them takes long.
const POLL_AT_MOST: Duration = Duration::from_mins(1);
/// Reads without a change take at most one part in this many of a CPU.
const SPARING: u32 = 100;
/// A change is complete when nothing more came for this long: the steps of an editor's save or of
/// a `ConfigMap`'s swap follow each other within microseconds.
const QUIET: Duration = Duration::from_millis(15);
/// A writer that keeps its file open longer than this does not delay the changes of other files.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Watches rule files and folders, those that are not there at the moment included.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<Event>,
    interest: Interest,
    writes: Writes,
    /// Events found no room in `events`.
    lost: Arc<AtomicBool>,
    /// When the change was noticed for which [`Self::changed`] returned last.
    noticed: Instant,
}

/// Which events matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Interest {
    /// Folders to watch.
    watched: BTreeSet<PathBuf>,
    /// Folders of which each entry matters.
    folders: BTreeSet<PathBuf>,
    /// Single names that matter, in folders whose other entries do not.
    names: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begins to watch. `paths` are absolute.
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        // Bounded: with this many unread events a reload follows anyway.
        let (send, events) = mpsc::channel(1024);
        let lost: Arc<AtomicBool> = Arc::default();
        let losing = Arc::clone(&lost);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if let Ok(event) = event
                && send.try_send(event).is_err()
            {
                losing.store(true, Ordering::Relaxed);
            }
        });
        let watcher = watcher
            .inspect_err(|e| tracing::warn!(error = %e, "inotify is not available; changes of rules take up to {:?}", POLL + SETTLED))
            .ok();
        let mut watch = Self {
            paths: paths.to_owned(),
            watcher,
            events,
            interest: Interest::default(),
            writes: Writes::default(),
            lost,
            noticed: Instant::now(),
        };
        watch.arm();
        watch
    }

    /// Watches the present files and folders. Call it before each read, so that a change during the
    /// read is seen after it.
    pub(super) fn arm(&mut self) {
        let interest = Interest::of(&self.paths);
        if let Some(watcher) = &mut self.watcher {
            for gone in self.interest.watched.difference(&interest.watched) {
                // The watch of a removed folder is gone.
                drop(watcher.unwatch(gone));
            }
            // All folders, not only new ones: a folder may have been replaced under its name.
            for folder in &interest.watched {
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                    tracing::debug!(folder = %folder.display(), %error, "not watched");
                }
            }
        }
        self.interest = interest;
    }

    /// When the change was noticed for which [`Self::changed`] returned last.
    pub(super) fn noticed(&self) -> Instant {
        self.noticed
    }

    /// Returns when the files may have changed and no write is under way any more, or one takes long. `read` is how long
    /// the last read took; `soon`: another read must follow soon in any case.
    pub(super) async fn changed(&mut self, read: Duration, soon: bool) -> Told {
        let polled = self.wait(read, soon).await;
        self.writes.told(polled)
    }

    /// Returns whether nothing but the time caused it.
    async fn wait(&mut self, read: Duration, soon: bool) -> bool {
        let pause = read.saturating_mul(SPARING).clamp(POLL, POLL_AT_MOST);
        let poll = sleep(if soon { pause.min(SETTLED) } else { pause });
        tokio::pin!(poll);
        loop {
            tokio::select! {
                () = &mut poll => {
                    self.noticed = Instant::now();
                    return true;
                }
                event = self.events.recv() => match event {
                    Some(event) if self.note(&event) => break,
                    Some(_) => {}
                    None => {
                        poll.as_mut().await;
                        self.noticed = Instant::now();
                        return true;
                    }
                },
            }
        }
        self.noticed = Instant::now();
        let end = Instant::now() + MAX_DELAY;
        loop {
            let until = if self.writes.is_under_way() {
                end
            } else {
                end.min(Instant::now() + QUIET)
            };
            match timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => drop(self.note(&event)),
                Ok(None) | Err(_) => return false,
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Returns whether an event matters.
    fn note(&mut self, event: &Event) -> bool {
        if self.lost.swap(false, Ordering::Relaxed) {
            self.writes.lose();
        }
        let matters = self.interest.concerns(event);
        if matters {
            self.writes.note(event);
        }
        matters
    }
}

impl Interest {
    fn of(paths: &[PathBuf]) -> Self {
        let mut interest = Self::default();
        for path in paths {
            interest.name(path);
            // A link on the path that gets another target changes what the path means.
            for link in path.ancestors().skip(1).filter(|a| a.is_symlink()) {
                interest.name(link);
            }
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            if real.is_dir() {
                interest.watched.insert(path.clone());
                interest.folders.extend([path.clone(), real.clone()]);
                for entry in std::fs::read_dir(&real).into_iter().flatten().flatten() {
                    // Most entries are no links, which costs no look at each.
                    if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                        interest.target(&entry.path());
                    }
                }
            } else {
                interest.target(path);
            }
        }
        interest
    }

    /// One name in its folder, or in the nearest one that is there.
    fn name(&mut self, path: &Path) {
        self.names.insert(path.to_owned());
        for ancestor in path.ancestors().skip(1) {
            if ancestor.is_dir() {
                self.watched.insert(ancestor.to_owned());
                return;
            }
            self.names.insert(ancestor.to_owned());
        }
    }

    /// What a link points to is written in its own folder; `..data` between them is Kubernetes'
    /// way to replace all files of a `ConfigMap` at once.
    fn target(&mut self, link: &Path) {
        if !link.is_symlink() {
            return;
        }
        if let Some(folder) = link.parent() {
            self.names.insert(folder.join("..data"));
        }
        if let Ok(real) = link.canonicalize() {
            self.name(&real);
        }
    }

    fn concerns(&self, event: &Event) -> bool {
        let reading = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
        // Other entries of a folder are no rules: the agent's own files may be among them, and a
        // log that it appends to is never closed.
        let known = |p: &PathBuf| {
            self.names.contains(p)
                || self.folders.contains(p)
                || p.parent().is_some_and(|f| self.folders.contains(f)) && is_rules(p)
        };
        // A queue that overflowed names no path.
        !reading && (event.paths.is_empty() || event.paths.iter().any(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, ModifyKind};

    fn event(kind: EventKind, path: &Path) -> Event {
        Event::new(kind).add_path(path.to_owned())
    }

    #[test]
    fn only_the_named_file_matters_beside_its_neighbours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.yaml");
        std::fs::write(&file, "").unwrap();
        let interest = Interest::of(std::slice::from_ref(&file));
        let made = EventKind::Create(CreateKind::File);
        assert!(interest.concerns(&event(made, &file)));
        assert!(!interest.concerns(&event(made, &dir.path().join("noise"))));
        assert!(!interest.concerns(&event(
            EventKind::Access(AccessKind::Open(AccessMode::Read)),
            &file
        )));
        assert!(
            interest.concerns(&Event::new(EventKind::Other)),
            "an overflow"
        );
    }

    #[test]
    fn only_entries_that_may_be_rules_matter_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let interest = Interest::of(&[dir.path().to_owned()]);
        let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        for (name, matters) in [
            ("a.yaml", true),
            ("b.JSON", true),
            (".a.yaml", false),
            ("agent.rules", false),
            ("a.yaml.tmp", false),
        ] {
            let event = event(data, &dir.path().join(name));
            assert_eq!(interest.concerns(&event), matters, "{name}");
        }
    }

    #[test]
    fn a_missing_folder_is_waited_for_at_the_nearest_ancestor() {
        let dir = tempfile::tempdir().unwrap();
        let interest = Interest::of(&[dir.path().join("a/b/rules")]);
        assert!(interest.watched.contains(dir.path()));
        assert!(interest.concerns(&event(
            EventKind::Create(CreateKind::Folder),
            &dir.path().join("a")
        )));
    }

    #[test]
    fn a_link_is_watched_at_both_ends() {
        let dir = tempfile::tempdir().unwrap();
        let (store, mount) = (dir.path().join("store"), dir.path().join("mount"));
        std::fs::create_dir(&store).unwrap();
        std::fs::create_dir(&mount).unwrap();
        std::fs::write(store.join("r.yaml"), "").unwrap();
        std::os::unix::fs::symlink(store.join("r.yaml"), mount.join("r.yaml")).unwrap();
        let interest = Interest::of(&[mount.join("r.yaml")]);
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        for path in [
            mount.join("r.yaml"),
            mount.join("..data"),
            store.join("r.yaml").canonicalize().unwrap(),
        ] {
            assert!(
                interest.concerns(&event(written, &path)),
                "{}",
                path.display()
            );
        }
    }
}
