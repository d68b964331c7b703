//! inotify on the folders of cgroups: returns the kernel's events in their order. Knows a cgroup only by
//! its folder and the given id.

use anyhow::Context as _;
use egress_ebpf::ids::CgroupId;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for the events of one read.
const BUFFER: usize = 16 * 1024;

/// The kernel's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// Events were lost: a scan is needed.
    Overflow,
    /// A child of a watched folder was created.
    Came(PathBuf),
    /// A child of a watched folder was removed.
    Went(PathBuf),
    /// The first process of this cgroup started or its last one ended.
    Populated(CgroupId),
}

/// The target of a watch.
#[derive(Clone, Debug)]
enum Watched {
    /// A cgroup's folder: its children come and go.
    Folder(PathBuf),
    /// Its `cgroup.events`.
    Events(CgroupId),
}

/// See the module.
pub(super) struct Watches {
    queue: AsyncFd<OwnedFd>,
    watches: BTreeMap<i32, Watched>,
}

impl Watches {
    /// Watches nothing yet. Must be called within a tokio runtime.
    pub fn new() -> anyhow::Result<Self> {
        let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context("watching cgroups")?;
        // SAFETY: the descriptor is owned by what is registered, and stays the same for its life.
        let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
        Ok(Self {
            queue,
            watches: BTreeMap::new(),
        })
    }

    /// Watches which children of a folder come and go.
    pub fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let children = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        self.add(folder, children, Watched::Folder(folder.to_path_buf()))
    }

    /// Watches whether a cgroup has processes: the kernel reports when `populated` in
    /// `cgroup.events` changes (cgroup v2, "Un/populated Notification").
    pub fn populated(&mut self, folder: &Path, id: CgroupId) -> io::Result<()> {
        let events = folder.join("cgroup.events");
        self.add(&events, WatchFlags::MODIFY, Watched::Events(id))
    }

    /// Ignores a path that is already gone.
    fn add(&mut self, path: &Path, flags: WatchFlags, what: Watched) -> io::Result<()> {
        match inotify::add_watch(self.queue.get_ref(), path, flags) {
            Ok(watch) => {
                self.watches.insert(watch, what);
                Ok(())
            }
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the next events. Dropping the future loses none.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Happened>> {
        loop {
            let mut ready = self.queue.readable().await?;
            let mut events = Vec::new();
            let read = ready.try_io(|queue| read_events(queue.get_ref(), &mut events));
            match read {
                Ok(result) => result.context("reading cgroup events")?,
                Err(_would_block) => continue,
            }
            let events = events.into_iter();
            return Ok(events.filter_map(|event| self.meaning(event)).collect());
        }
    }

    fn meaning(&mut self, Event { watch, flags, name }: Event) -> Option<Happened> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Happened::Overflow);
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.watches.remove(&watch);
            return None;
        }
        match (self.watches.get(&watch)?, name) {
            (Watched::Events(id), _) => Some(Happened::Populated(*id)),
            (Watched::Folder(parent), Some(name)) if flags.contains(ReadFlags::ISDIR) => {
                let folder = parent.join(name);
                Some(if flags.contains(ReadFlags::DELETE) {
                    Happened::Went(folder)
                } else {
                    Happened::Came(folder)
                })
            }
            (Watched::Folder(_), _) => None,
        }
    }
}

struct Event {
    watch: i32,
    flags: ReadFlags,
    name: Option<String>,
}

/// Reads the queue. A scan finds folders whose name is not UTF-8.
fn read_events(queue: &OwnedFd, events: &mut Vec<Event>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = inotify::Reader::new(queue, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) => events.push(Event {
                watch: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .and_then(|n| Some(n.to_str().ok()?.to_owned())),
            }),
            Err(rustix::io::Errno::AGAIN) if !events.is_empty() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if reader.is_buffer_empty() {
            return Ok(());
        }
    }
}
