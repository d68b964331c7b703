//! Follows the cgroups below the enforced roots: which exist, which are created and removed, and in which
//! the first process starts or the last one ends.
//!
//! inotify on the hierarchy's folders reports these events. A scan finds cgroups that existed before, and
//! those that were missed because of a full queue or a missing watch. Does not know which workload a cgroup
//! belongs to.

use super::depth::{self, Deep};
use super::watches::{Happened, Watches};
use crate::cgroup2;
use egress_ebpf::ids::CgroupId;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most cgroups that are followed: as many as the kernel's table of owners holds.
const MAX_CGROUPS: usize = 16_384;

/// A cgroup below an enforced root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The kernel's id.
    pub id: CgroupId,
    /// Its folder.
    pub folder: PathBuf,
    /// Index of the enforced root.
    pub root: usize,
}

/// What happened to a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It exists.
    Appeared(Arc<Cgroup>),
    /// It is gone.
    Vanished(Arc<Cgroup>),
    /// Its first process started or its last one ended.
    Populated(CgroupId),
}

/// See the module.
pub struct Cgroups {
    roots: Vec<PathBuf>,
    /// The level of each root. To find it, the agent reads all mounts of the node, so it does that once for each scan.
    levels: Vec<usize>,
    watches: Watches,
    known: BTreeMap<PathBuf, Arc<Cgroup>>,
    /// Cgroups that are too deep for the kernel to judge. Those below them are not followed.
    deep: Deep,
    /// The last scan, or a later event, found more than [`MAX_CGROUPS`] cgroups.
    crowded: bool,
    /// Cgroups whose watch could not be set.
    unwatched: BTreeSet<PathBuf>,
    most: usize,
}

impl Cgroups {
    /// For folders that are enforced roots. Knows nothing until the first [`Self::scan`]. Must be
    /// called within a tokio runtime.
    pub fn new(roots: &[PathBuf]) -> anyhow::Result<Self> {
        Ok(Self {
            roots: roots.to_vec(),
            levels: cgroup2::levels(roots),
            watches: Watches::new()?,
            known: BTreeMap::new(),
            deep: Deep::default(),
            crowded: false,
            unwatched: BTreeSet::new(),
            most: MAX_CGROUPS,
        })
    }

    /// The cgroup of a folder, if it existed at the last scan or event.
    pub fn known(&self, folder: &Path) -> Option<&Cgroup> {
        self.known.get(folder).map(AsRef::as_ref)
    }

    /// The cgroups that are too deep for the kernel to judge.
    pub fn deep(&self) -> &Deep {
        &self.deep
    }

    /// Whether the first process of a known cgroup is reported.
    pub fn reports(&self, folder: &Path) -> bool {
        !self.unwatched.contains(folder)
    }

    /// Whether there are cgroups that only a scan finds.
    pub fn blind(&self) -> bool {
        self.crowded || !self.unwatched.is_empty()
    }

    /// Scans everything below the roots. Returns the differences in the order in which they must be
    /// handled: outer before inner, removed before new.
    pub fn scan(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut seen = BTreeSet::new();
        self.crowded = false;
        self.watch_again();
        self.levels = cgroup2::levels(&self.roots);
        for root in 0..self.roots.len() {
            let (folder, level) = (self.roots[root].clone(), self.levels[root]);
            self.visit(&folder, root, level, &mut changes, &mut seen);
        }
        self.deep.retain(&seen);
        let gone: Vec<PathBuf> = self
            .known
            .keys()
            .filter(|folder| !seen.contains(*folder))
            .cloned()
            .collect();
        let gone = gone.iter().filter_map(|folder| self.known.remove(folder));
        let mut all: Vec<Change> = gone.map(Change::Vanished).collect();
        all.append(&mut changes);
        all
    }

    /// Waits for the next events. Dropping the future loses none.
    pub async fn changed(&mut self) -> anyhow::Result<Vec<Change>> {
        loop {
            let events = self.watches.next().await?;
            let changes = self.take(events);
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    fn take(&mut self, events: Vec<Happened>) -> Vec<Change> {
        if events.contains(&Happened::Overflow) {
            return self.scan();
        }
        let mut changes = Vec::new();
        for event in events {
            match event {
                Happened::Overflow => {}
                Happened::Populated(id) => changes.push(Change::Populated(id)),
                Happened::Came(folder) => self.appeared(&folder, &mut changes),
                Happened::Went(folder) => self.vanished(&folder, &mut changes),
            }
        }
        changes
    }

    /// A folder of that name was removed. A new one of that name may exist already.
    fn vanished(&mut self, folder: &Path, changes: &mut Vec<Change>) {
        let there = cgroup2::id(folder).ok();
        if there.is_none() {
            self.deep.remove(folder);
        }
        if self.known.get(folder).is_some_and(|c| Some(c.id) != there) {
            changes.extend(self.known.remove(folder).map(Change::Vanished));
        }
    }

    fn appeared(&mut self, folder: &Path, changes: &mut Vec<Change>) {
        let below = |root: &PathBuf| folder.strip_prefix(root).ok();
        let mut roots = self.roots.iter().enumerate();
        let found = roots.find_map(|(root, path)| Some((root, below(path)?.components().count())));
        if let Some((root, below)) = found {
            let level = self.levels[root] + below;
            self.visit(folder, root, level, changes, &mut BTreeSet::new());
        }
    }

    fn visit(
        &mut self,
        folder: &Path,
        root: usize,
        level: usize,
        changes: &mut Vec<Change>,
        seen: &mut BTreeSet<PathBuf>,
    ) {
        // If the folder is gone since the event, its parent's watch reports that too.
        let Ok(id) = cgroup2::id(folder) else { return };
        let known = self.known.get(folder).is_some_and(|known| known.id == id);
        if !known && self.known.len() + self.deep.count() >= self.most {
            self.crowded = true;
            return;
        }
        seen.insert(folder.to_path_buf());
        if !depth::is_judged(level) {
            self.deep.insert(folder);
            return;
        }
        if !known {
            changes.extend(self.known.remove(folder).map(Change::Vanished));
            changes.push(Change::Appeared(self.know(folder, id, root)));
        }
        // The watch is set before the folder is read, so a new child is listed, reported or both.
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.visit(&entry.path(), root, level + 1, changes, seen);
            }
        }
    }

    /// Sets the watches that could not be set before. Must come before the folders are read.
    fn watch_again(&mut self) {
        while let Some(folder) = self.unwatched.pop_first() {
            let Some(id) = self.known.get(&folder).map(|known| known.id) else {
                continue;
            };
            if self.watch(&folder, id).is_err() {
                self.unwatched.insert(folder);
                return;
            }
        }
    }

    fn watch(&mut self, folder: &Path, id: CgroupId) -> io::Result<()> {
        self.watches.folder(folder)?;
        self.watches.populated(folder, id)
    }

    fn know(&mut self, folder: &Path, id: CgroupId, root: usize) -> Arc<Cgroup> {
        if let Err(error) = self.watch(folder, id) {
            if self.unwatched.is_empty() {
                tracing::warn!(path = %folder.display(), %error, "cannot watch every cgroup: some new ones are found only by scans; raise fs.inotify.max_user_watches");
            }
            self.unwatched.insert(folder.to_path_buf());
        }
        let cgroup = Arc::new(Cgroup {
            id,
            folder: folder.to_path_buf(),
            root,
        });
        self.known.insert(folder.to_path_buf(), Arc::clone(&cgroup));
        cgroup
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A folder of cgroup v2 that is removed with all below it.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let name = format!("egress-cgroups-{name}-{}", std::process::id());
            let folder = cgroup2::mount_point().unwrap().join(name);
            fs::create_dir(&folder).expect("needs root: makes a cgroup");
            Self(folder)
        }

        fn make(&self, below: &str) -> PathBuf {
            let folder = self.0.join(below);
            fs::create_dir_all(&folder).unwrap();
            folder
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fn remove(folder: &Path) {
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    if entry.path().is_dir() {
                        remove(&entry.path());
                    }
                }
                let _ = fs::remove_dir(folder);
            }
            remove(&self.0);
        }
    }

    fn shown(root: &Root, changes: &[Change]) -> Vec<String> {
        let below = |c: &Cgroup| {
            let below = c.folder.strip_prefix(&root.0).unwrap();
            below.display().to_string()
        };
        let change = |change: &Change| match change {
            Change::Appeared(c) => format!("+{}", below(c)),
            Change::Vanished(c) => format!("-{}", below(c)),
            Change::Populated(_) => "populated".to_owned(),
        };
        changes.iter().map(change).collect()
    }

    async fn next(root: &Root, cgroups: &mut Cgroups) -> Vec<String> {
        let changes = tokio::time::timeout(Duration::from_secs(5), cgroups.changed());
        shown(root, &changes.await.expect("an event").unwrap())
    }

    #[tokio::test]
    async fn what_is_there_is_scanned_and_what_comes_and_goes_is_told() {
        let root = Root::new("tree");
        root.make("kubepods/pod1");
        let mut cgroups = Cgroups::new(std::slice::from_ref(&root.0)).unwrap();
        let found = shown(&root, &cgroups.scan());
        assert_eq!(found, ["+", "+kubepods", "+kubepods/pod1"]);
        assert!(cgroups.scan().is_empty(), "nothing is reported twice");

        let pod = root.make("kubepods/pod2");
        assert_eq!(next(&root, &mut cgroups).await, ["+kubepods/pod2"]);
        root.make("kubepods/pod2/c");
        assert_eq!(next(&root, &mut cgroups).await, ["+kubepods/pod2/c"]);
        fs::remove_dir(pod.join("c")).unwrap();
        assert_eq!(next(&root, &mut cgroups).await, ["-kubepods/pod2/c"]);
        assert!(!cgroups.blind());
    }

    #[tokio::test]
    async fn cgroups_beyond_the_limit_are_found_once_there_is_room() {
        let root = Root::new("crowded");
        let first = root.make("a");
        let mut cgroups = Cgroups::new(std::slice::from_ref(&root.0)).unwrap();
        cgroups.most = 2;
        assert_eq!(shown(&root, &cgroups.scan()), ["+", "+a"]);
        assert!(!cgroups.blind());
        root.make("b");
        assert!(shown(&root, &cgroups.scan()).is_empty());
        assert!(cgroups.blind());
        fs::remove_dir(first).unwrap();
        let mut found = shown(&root, &cgroups.scan());
        found.extend(shown(&root, &cgroups.scan()));
        assert_eq!(found, ["-a", "+b"]);
        assert!(!cgroups.blind());
    }

    #[tokio::test]
    async fn a_watch_that_could_not_be_set_is_set_by_a_later_scan() {
        let root = Root::new("unwatched");
        let folder = root.make("a");
        let mut cgroups = Cgroups::new(std::slice::from_ref(&root.0)).unwrap();
        cgroups.scan();
        // As if there had been no watch left for the first; the second was removed meanwhile.
        cgroups.unwatched = [folder, root.0.join("removed")].into();
        assert!(cgroups.blind());
        assert!(cgroups.scan().is_empty());
        assert!(!cgroups.blind());
    }

    #[tokio::test]
    async fn a_cgroup_made_again_under_its_old_name_is_another() {
        let root = Root::new("again");
        let folder = root.make("a");
        let mut cgroups = Cgroups::new(std::slice::from_ref(&root.0)).unwrap();
        cgroups.scan();
        fs::remove_dir(&folder).unwrap();
        root.make("a");
        assert_eq!(next(&root, &mut cgroups).await, ["-a", "+a"]);
    }

    #[tokio::test]
    async fn the_first_process_and_the_end_of_the_last_are_told() {
        let root = Root::new("populated");
        let folder = root.make("a");
        let mut cgroups = Cgroups::new(std::slice::from_ref(&root.0)).unwrap();
        cgroups.scan();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert!(
            next(&root, &mut cgroups)
                .await
                .iter()
                .all(|c| c == "populated")
        );
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(
            next(&root, &mut cgroups)
                .await
                .iter()
                .all(|c| c == "populated")
        );
    }
}
