//! The file that keeps the leases for the next agent. It is beside the admin socket, in a folder that, like
//! the pins, does not survive a reboot. The state machine reads and writes the text.

use crate::lock::lock;
use crate::state_file;
use egress_core::policy::leases::InForce;
use egress_core::policy::leases::store::{MAX_TEXT, Stored};
use egress_core::policy::state::State;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Delay from an answer with other addresses to the write, which includes later answers too.
const SOON: Duration = Duration::from_secs(3);
/// The longest such delay for what only prolongs a lease.
const LATE: Duration = Duration::from_mins(10);

/// See the module.
pub(super) struct LeaseFile {
    /// When to write; `None` if nothing has changed.
    due: Option<Instant>,
    /// Number of the latest write.
    latest: Arc<AtomicU64>,
    /// One write at a time.
    file: Arc<Mutex<File>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    /// The last write failed, and that was logged.
    failing: bool,
}

impl LeaseFile {
    /// The file of an agent with this admin socket. Does not read it.
    pub(super) fn beside(admin_socket: &Path) -> Self {
        let path = admin_socket.with_extension("leases");
        Self {
            due: None,
            latest: Arc::default(),
            file: Arc::new(Mutex::new(File {
                path,
                failing: false,
            })),
        }
    }

    /// When [`Self::keep_soon`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// An answer arrived. `changed`: a name has other addresses.
    pub(super) fn answered(&mut self, now: Instant, changed: bool, grace: Duration) {
        if changed {
            self.write_by(now + SOON);
        } else {
            self.prolonged(now, grace);
        }
    }

    /// Leases last longer, at least for the grace from now on: what is written later than half of it could have ended.
    pub(super) fn prolonged(&mut self, now: Instant, grace: Duration) {
        self.write_by(now + (grace / 2).clamp(SOON, LATE));
    }

    fn write_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// The leases of the previous agent; `None` if there was none, or if its file cannot be trusted.
    fn read(&self, clock: Duration) -> Option<Stored> {
        let file = lock(&self.file);
        match read(&file.path, clock) {
            Ok(stored) => stored,
            Err(error) => {
                let (file, error) = (file.path.display(), format!("{error:#}"));
                tracing::warn!(%file, error, "cannot use the DNS leases of the previous agent");
                None
            }
        }
    }

    /// Restores the previous agent's addresses for the names that the rules list.
    pub(super) fn restore(&self, state: &mut State) {
        let clock = clock();
        let Some(stored) = self.read(clock) else {
            return;
        };
        let names = state.handle_stored(Instant::now(), clock, &stored);
        if names > 0 {
            tracing::info!(names, "restored DNS leases from the previous agent");
        }
    }

    /// Writes the leases for the next agent, and returns when they are written.
    pub(super) fn keep(&mut self, state: &State) {
        self.begin();
        lock(&self.file).keep(&state.in_force());
    }

    /// The same without waiting for the text and the disk.
    pub(super) fn keep_soon(&mut self, state: &State) {
        let own = self.begin();
        let leases = state.in_force();
        let (latest, file) = (Arc::clone(&self.latest), Arc::clone(&self.file));
        tokio::task::spawn_blocking(move || {
            let mut file = lock(&file);
            // Otherwise later leases were or will be written.
            if latest.load(Ordering::Relaxed) == own {
                file.keep(&leases);
            }
        });
    }

    /// Nothing has changed since what is written now. Returns its number.
    fn begin(&mut self) -> u64 {
        self.due = None;
        self.latest.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl File {
    fn keep(&mut self, leases: &InForce) {
        self.write(&leases.store(Instant::now(), clock()));
    }

    fn write(&mut self, text: &str) {
        let result = write(&self.path, text);
        if let Err(error) = &result
            && !self.failing
        {
            let (file, error) = (self.path.display(), format!("{error:#}"));
            tracing::warn!(%file, error, "cannot store the DNS leases for the next agent");
        }
        self.failing = result.is_err();
    }
}

/// Time since 1970; zero if the clock is before that.
fn clock() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

fn read(path: &Path, clock: Duration) -> anyhow::Result<Option<Stored>> {
    let text = state_file::read(path, MAX_TEXT)?;
    Ok(text.map(|text| Stored::parse(&text, clock)).transpose()?)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    state_file::write(path, text, MAX_TEXT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const CLOCK: Duration = Duration::from_secs(1_795_000_000);

    fn text() -> String {
        let (written, until) = (CLOCK.as_secs(), CLOCK.as_secs() + 60);
        format!("egress-agent leases 1\nwritten {written}\na.example 203.0.113.1@{until}\nend\n")
    }

    #[test]
    fn what_was_written_is_read_and_only_its_owner_may() {
        let dir = tempfile::tempdir().unwrap();
        let file = LeaseFile::beside(&dir.path().join("agent.sock"));
        assert_eq!(file.read(CLOCK), None);
        lock(&file.file).write("cut off");
        assert_eq!(file.read(CLOCK), None);
        lock(&file.file).write(&text());
        assert!(file.read(CLOCK).is_some());
        let path = dir.path().join("agent.leases");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(read(&path, CLOCK).is_err(), "another may have written it");
    }

    #[test]
    fn what_is_no_plain_file_is_not_read_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.leases"), dir.path().join("other"));
        fs::write(&other, text()).unwrap();
        symlink(&other, &path).unwrap();
        assert!(read(&path, CLOCK).is_err());
        symlink(&other, path.with_extension("leases.new")).unwrap();
        write(&path, "mine").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&other).unwrap(), text());
        assert!(read(dir.path(), CLOCK).is_err());
    }

    #[test]
    fn answers_are_gathered_and_other_addresses_are_written_sooner() {
        let start = Instant::now();
        let mut file = LeaseFile::beside(Path::new("/nonexistent/a.sock"));
        assert_eq!(file.due(), None);
        file.answered(start, false, LATE * 4);
        assert_eq!(file.due(), Some(start + LATE));
        file.prolonged(start, LATE);
        assert_eq!(file.due(), Some(start + LATE / 2));
        file.answered(start, true, LATE);
        file.answered(start + SOON / 2, true, LATE);
        assert_eq!(file.due(), Some(start + SOON), "not put off");
        file.begin();
        assert_eq!(file.due(), None);
        file.prolonged(start, Duration::ZERO);
        assert_eq!(file.due(), Some(start + SOON));
    }
}
