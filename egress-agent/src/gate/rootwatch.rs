//! Closes an enforced root as soon as inotify reports that its folder was created. A thread of its own
//! watches the folders above each root, so it never waits for other work of the agent. The thread has a
//! weak reference to the kernel side and ends when that is dropped.

use crate::kernel::{self, Kernel};
use crate::observe::readiness::Board;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Instant;
use tokio::sync::Notify;

/// Time between two checks without an event.
const POLL_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// The same if inotify is not available.
const LOOK_BLIND: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Starts the thread. `came` is notified after a root was closed, `board` when one appeared or
/// disappeared.
pub fn start(
    kernel: &Arc<Mutex<Kernel>>,
    roots: &[PathBuf],
    board: Board,
    came: Arc<Notify>,
) -> io::Result<()> {
    let (kernel, roots) = (Arc::downgrade(kernel), roots.to_vec());
    let watcher = move || watch(&kernel, &roots, &board, &came);
    thread::Builder::new()
        .name("roots".to_owned())
        .spawn(watcher)?;
    Ok(())
}

fn watch(kernel: &Weak<Mutex<Kernel>>, roots: &[PathBuf], board: &Board, came: &Notify) {
    let there = || roots.iter().filter(|root| root.exists()).count();
    let mut before = there();
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
    if let Err(error) = &queue {
        tracing::warn!(%error, "inotify is not available; recreated roots are found by polling");
    }
    let mut failed = false;
    loop {
        // Adds the watches before the check: a folder that the check does not see yet is reported.
        let blind = queue.as_ref().map_or(true, |queue| !arm(queue, roots));
        let Some(kernel) = kernel.upgrade() else {
            return;
        };
        match close(&kernel, roots) {
            Ok(false) => failed = false,
            Ok(true) => {
                failed = false;
                came.notify_one();
            }
            Err(error) => {
                // Logged once. The keeper reports it with each canary.
                if !std::mem::replace(&mut failed, true) {
                    let error = format!("{error:#}");
                    tracing::error!(error, "an enforced root appeared and cannot be closed");
                }
            }
        }
        drop(kernel);
        let now = there();
        if now != std::mem::replace(&mut before, now) {
            board.poke();
        }
        wait(queue.as_ref().ok(), blind);
    }
}

/// Attaches the programs to existing roots that have none. Returns whether there was such a root.
fn close(kernel: &Mutex<Kernel>, roots: &[PathBuf]) -> anyhow::Result<bool> {
    let begin = Instant::now();
    let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
    let mut closed = false;
    for root in roots {
        if !kernel.is_new(root) {
            continue;
        }
        kernel::attach_roots(&mut kernel, std::slice::from_ref(root))?;
        closed = true;
        tracing::warn!(
            root = %root.display(),
            micros = begin.elapsed().as_micros(),
            "an enforced root appeared and was closed"
        );
    }
    Ok(closed)
}

/// Watches every existing folder above each root. Returns whether all of them could be watched.
fn arm(queue: &OwnedFd, roots: &[PathBuf]) -> bool {
    let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
    let folders = roots.iter().flat_map(|root| root.ancestors().skip(1));
    let folders = folders.filter(|folder| crate::cgroup2::is_cgroup2(folder));
    let mut all = true;
    for folder in folders {
        all &= inotify::add_watch(queue, folder, flags).is_ok();
    }
    all
}

fn wait(queue: Option<&OwnedFd>, blind: bool) {
    let limit = if blind { LOOK_BLIND } else { POLL_INTERVAL };
    let Some(queue) = queue else {
        thread::sleep(std::time::Duration::from_millis(20));
        return;
    };
    let mut polled = [PollFd::new(queue, PollFlags::IN)];
    if poll(&mut polled, Some(&limit)).unwrap_or(0) == 0 {
        return;
    }
    // The events themselves do not matter: every root is checked after each wake-up.
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(queue, &mut buffer);
    while reader
        .next()
        .is_ok_and(|e| !e.events().contains(ReadFlags::UNMOUNT))
    {}
}
