//! Reads the PEM files that a rule names, and notices when they change.
//!
//! Rules come from less trusted people than the agent's privileges: a path is opened without following links of
//! `/proc`, only regular files of a bounded size are read, and no error contains a byte of a file. `mod` decides which
//! files are read.

use crate::stamp::{Held, Stamp};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest file. The system's authorities are about 200 KiB.
const MAX_FILE: u64 = 4 << 20;

/// How often the attributes of a file that is in use are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A file that a rule names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NamedFile {
    path: PathBuf,
    /// The file must be in this folder, also after its links are followed.
    folder: Option<PathBuf>,
}

impl NamedFile {
    /// A file anywhere.
    pub(super) fn anywhere(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            folder: None,
        }
    }

    /// A file in one of these folders; `None` if it is in none.
    pub(super) fn within(path: &str, folders: &[PathBuf]) -> Option<Self> {
        let path = PathBuf::from(path);
        let folder = folders.iter().find(|folder| path.starts_with(folder))?;
        let folder = Some(folder.clone());
        Some(Self { path, folder })
    }
}

impl fmt::Display for NamedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A name may contain line ends.
        write!(f, "{}", self.path.display().to_string().escape_debug())
    }
}

/// Makes a value of the files.
pub(super) type Parse<T> = fn(&[NamedFile]) -> Result<T, String>;

/// A value that is made from files, and made again when they change.
#[derive(Debug)]
pub(super) struct Watched<T> {
    files: Vec<NamedFile>,
    parse: Parse<T>,
    /// The last good value.
    good: Option<Arc<T>>,
    /// The result of the last read, by the stamp of each file.
    last: Vec<Held<()>>,
    looked: Option<Instant>,
    /// Why the last read failed.
    error: Option<String>,
}

impl<T> Watched<T> {
    pub(super) fn new(files: Vec<NamedFile>, parse: Parse<T>) -> Self {
        Self {
            files,
            parse,
            good: None,
            last: Vec::new(),
            looked: None,
            error: None,
        }
    }

    /// Whether `get` answers without looking at the files.
    pub(super) fn is_fresh(&self) -> bool {
        self.looked
            .is_some_and(|looked| looked.elapsed() < POLL_INTERVAL)
    }

    /// The value of the present files. If they cannot be used, the last good value, or the error without one. Blocks.
    pub(super) fn get(&mut self) -> Result<Arc<T>, String> {
        if !self.is_fresh() {
            self.look();
        }
        let error = || self.error.clone().unwrap_or_default();
        self.good.clone().ok_or_else(error)
    }

    fn look(&mut self) {
        let begin = Instant::now();
        self.looked = Some(begin);
        let stamps = self.stamps();
        let current = stamps.len() == self.files.len()
            && self.last.len() == stamps.len()
            && self
                .last
                .iter()
                .zip(&stamps)
                .all(|(held, stamp)| held.is_current(stamp));
        if current {
            return;
        }
        let value = (self.parse)(&self.files);
        if self.stamps() == stamps {
            let mut before = std::mem::take(&mut self.last).into_iter();
            let held = stamps
                .into_iter()
                .map(|stamp| Held::read((), stamp, begin, begin, before.next()));
            self.last = held.collect();
        } else {
            // A file changed during the read: the next look reads it again.
            self.last.clear();
        }
        self.take(value);
    }

    fn take(&mut self, read: Result<T, String>) {
        match read {
            Ok(value) => {
                if self.error.take().is_some() && self.good.is_some() {
                    tracing::info!(target: "egress::proxy", files = %self.names(), "TLS files can be used again");
                }
                self.good = Some(Arc::new(value));
            }
            Err(error) => {
                if self.error.as_ref() != Some(&error) {
                    let kept = if self.good.is_some() {
                        "cannot use TLS files; keeping their last good content"
                    } else {
                        "cannot use TLS files; connections that need them are denied"
                    };
                    tracing::warn!(target: "egress::proxy", %error, "{kept}");
                }
                self.error = Some(error);
            }
        }
    }

    /// The attributes of the files; shorter if one has none.
    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |file: &NamedFile| {
            std::fs::metadata(&file.path)
                .ok()
                .map(|meta| Stamp::of(&meta))
        };
        self.files.iter().map_while(stamp).collect()
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.files.iter().map(ToString::to_string).collect();
        names.join(", ")
    }
}

/// The content of a file.
pub(super) fn read(named: &NamedFile) -> Result<Vec<u8>, String> {
    let failed = |what: &str| format!("{named}: {what}");
    if !named.path.is_absolute() {
        return Err(failed("not an absolute path"));
    }
    let file = open(named).map_err(|errno| match errno {
        rustix::io::Errno::XDEV => failed("leads out of the folder that the config lists"),
        errno => failed(&text(errno)),
    })?;
    let meta = file.metadata().map_err(|_| failed("cannot be looked at"))?;
    if !meta.is_file() {
        return Err(failed("not a regular file"));
    }
    let mut content = Vec::new();
    let longest = file.take(MAX_FILE + 1).read_to_end(&mut content);
    match longest {
        Ok(length) if length as u64 > MAX_FILE => Err(failed("longer than 4 MiB")),
        Ok(_) => Ok(content),
        Err(_) => Err(failed("cannot be read")),
    }
}

fn open(named: &NamedFile) -> rustix::io::Result<File> {
    // NONBLOCK: a FIFO or a device does not hold the thread up.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let magic = ResolveFlags::NO_MAGICLINKS;
    let file = match named.folder.as_ref() {
        None => openat2(CWD, &named.path, flags, Mode::empty(), magic),
        Some(folder) => {
            let below = named.path.strip_prefix(folder);
            let below = below.map_err(|_| rustix::io::Errno::XDEV)?;
            let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            openat2(
                folder,
                below,
                flags,
                Mode::empty(),
                magic | ResolveFlags::BENEATH,
            )
        }
    };
    file.map(File::from)
}

fn text(errno: rustix::io::Errno) -> String {
    errno::Errno(errno.raw_os_error()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &std::path::Path) -> Watched<String> {
        Watched::new(vec![NamedFile::anywhere(path)], |files| {
            let text = String::from_utf8(read(&files[0])?).unwrap();
            if text == "bad" {
                return Err("no certificate".to_owned());
            }
            Ok(text)
        })
    }

    fn now<T>(watched: &mut Watched<T>) -> Result<Arc<T>, String> {
        watched.looked = None;
        watched.get()
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_keeps_the_last_good_value() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let mut watched = one(&path);
        assert!(
            now(&mut watched)
                .unwrap_err()
                .ends_with("ca.pem: No such file or directory")
        );
        std::fs::write(&path, "one").unwrap();
        assert_eq!(*now(&mut watched).unwrap(), "one");
        // Twice in one step of the file system's clock, with the same length.
        std::fs::write(&path, "two").unwrap();
        assert_eq!(*now(&mut watched).unwrap(), "two");
        std::fs::write(&path, "bad").unwrap();
        assert_eq!(*now(&mut watched).unwrap(), "two");
        assert_eq!(watched.error, Some("no certificate".to_owned()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*now(&mut watched).unwrap(), "two");
        // As Kubernetes replaces the files of a Secret: by a link to another folder.
        std::fs::write(folder.path().join("other"), "three").unwrap();
        std::os::unix::fs::symlink("other", &path).unwrap();
        assert_eq!(*now(&mut watched).unwrap(), "three");
        assert_eq!(watched.error, None);
    }

    #[test]
    fn only_regular_files_of_this_mount_namespace_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        for (path, error) in [
            (fifo.to_str().unwrap(), "not a regular file"),
            ("/dev/zero", "not a regular file"),
            (
                "/proc/self/root/etc/passwd",
                "Too many levels of symbolic links",
            ),
            ("/etc", "not a regular file"),
            ("etc/passwd", "not an absolute path"),
        ] {
            let told = read(&NamedFile::anywhere(path)).unwrap_err();
            assert_eq!(told, format!("{path}: {error}"));
        }
        let long = folder.path().join("long");
        File::create(&long).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(
            read(&NamedFile::anywhere(long))
                .unwrap_err()
                .ends_with("longer than 4 MiB")
        );
    }

    #[test]
    fn a_file_in_a_folder_may_not_lead_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("certificates");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(folder.path().join("key"), "outside").unwrap();
        std::fs::create_dir(inside.join("..data")).unwrap();
        std::fs::write(inside.join("..data/key"), "inside").unwrap();
        // As Kubernetes makes the files of a Secret.
        std::os::unix::fs::symlink("..data/key", inside.join("good")).unwrap();
        std::os::unix::fs::symlink("../key", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", inside.join("absolute")).unwrap();
        let folders = [inside.clone()];
        let read = |name: &str| {
            let path = format!("{}/{name}", inside.display());
            read(&NamedFile::within(&path, &folders).unwrap())
        };
        assert_eq!(read("good").unwrap(), b"inside");
        for name in ["link", "absolute", "../key"] {
            let error = read(name).unwrap_err();
            assert!(
                error.ends_with("leads out of the folder that the config lists"),
                "{error}"
            );
        }
        let outside = format!("{}-other/key", inside.display());
        assert_eq!(NamedFile::within(&outside, &folders), None);
    }
}
