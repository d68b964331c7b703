//! Reads rules from files and folders. An unchanged file costs one look at its attributes.
//!
//! Owns which files are read and what they contain. `follow` decides when; the caller interprets the
//! text.

use super::versions::Versions;
use super::writes::{Pending, SETTLED, Take, Told};
use crate::stamp::{Held, Stamp};
use egress_core::istio::decode::MAX_FILE;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// How often a read starts again because a file changed during it.
const READ_ATTEMPTS: u32 = 5;

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As the user named it, or below the folder that the user named.
    pub path: PathBuf,
    /// UTF-8.
    pub text: String,
    /// Digest of path and text. It is computed once, because the texts of many files are long.
    digest: u64,
}

impl SourceFile {
    /// A file with this text.
    pub fn new(path: PathBuf, text: String) -> Self {
        Self {
            digest: digest(&(&path, &text)),
            path,
            text,
        }
    }

    /// Equal for equal files. Other versions of the agent may compute other digests.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }
}

impl Hash for SourceFile {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

/// Why a file or folder cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum Unreadable {
    /// The system's error.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    System(i32),
    /// An error without a number.
    #[error("{0}")]
    Other(io::ErrorKind),
    /// A FIFO, a device, a socket, or a folder where a file was.
    #[error("is not a file")]
    NotAFile,
    /// It is too large for the decoder.
    #[error("is larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    /// Its text is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A kind of the Kubernetes API: the server has given no list of its objects since the start.
    #[error("the Kubernetes API server has not listed it since the agent's start")]
    NotListed,
    /// A writer is changing it.
    #[error("is being written, and is read when the writer has closed it")]
    Changing,
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        let number = error.raw_os_error();
        number.map_or(Self::Other(error.kind()), Self::System)
    }
}

/// All files of all paths at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Files, sorted by path.
    pub files: Vec<Arc<SourceFile>>,
    /// Files and folders that cannot be read, each with the reason.
    pub failed: Vec<(PathBuf, Unreadable)>,
    /// Folders with rule files in a folder that was named: they are not read.
    pub ignored: Vec<PathBuf>,
    /// The versions of the objects of the Kubernetes API among the files.
    pub api: Versions,
    /// When a change of the content was noticed.
    pub noticed: Noticed,
}

/// A time that is no content: readings at different times are equal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noticed(pub Option<Instant>);

impl PartialEq for Noticed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Noticed {}

impl Hash for Noticed {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Equal for equal content. Other versions of the agent may compute other digests.
pub(super) fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// All files of all paths in one consistent read.
pub fn read(paths: &[PathBuf]) -> Reading {
    Reader::default().read(paths, &Told::default())
}

/// A file that was named, or that is in a named folder.
struct Member {
    path: PathBuf,
    /// Its resolved path, so that a file that is named twice is read once.
    real: io::Result<PathBuf>,
}

/// Reads files, and keeps them for the next read.
#[derive(Debug)]
pub(super) struct Reader {
    held: HashMap<PathBuf, Held<Arc<SourceFile>>>,
    /// Of `held`, those that this look found being written.
    being_written: HashMap<PathBuf, Held<Arc<SourceFile>>>,
    pending: Pending,
    /// This look found a change that may not be complete.
    unsettled: bool,
    last: Reading,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(SETTLED)
    }
}

impl Reader {
    /// A change that nothing reported counts when the file's attributes stayed the same for this long.
    fn new(settled: Duration) -> Self {
        Self {
            held: HashMap::new(),
            being_written: HashMap::new(),
            pending: Pending::new(settled),
            unsettled: false,
            last: Reading::default(),
        }
    }

    /// Whether changed files wait for another read, which must follow soon.
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Makes the next read read every file, regardless of its attributes.
    pub(super) fn doubt(&mut self) {
        self.held.values_mut().for_each(Held::doubt);
    }

    /// All files of all paths in one consistent read. While a change may not be complete, that is the last one: files
    /// that change together must not be taken one by one.
    pub(super) fn read(&mut self, paths: &[PathBuf], told: &Told) -> Reading {
        self.pending.begin_look();
        self.unsettled = false;
        let mut reading = self.read_once(paths, told);
        for _ in 1..READ_ATTEMPTS {
            if reading.failed.is_empty() || self.unsettled {
                break;
            }
            // A file is being renamed or written.
            reading = self.read_once(paths, told);
        }
        if !self.unsettled {
            self.last = reading;
        }
        self.last.clone()
    }

    fn read_once(&mut self, paths: &[PathBuf], told: &Told) -> Reading {
        let mut reading = Reading::default();
        let mut known = HashSet::new();
        let mut held = HashMap::with_capacity(self.held.len());
        for path in paths {
            let members = match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => members(path, &mut reading.ignored),
                Ok(_) => Ok(vec![Member {
                    path: path.clone(),
                    real: fs::canonicalize(path),
                }]),
                Err(error) => Err(error),
            };
            let members = members.unwrap_or_else(|error| {
                reading.failed.push((path.clone(), error.into()));
                Vec::new()
            });
            for Member { path, real } in members {
                let read = real.map_err(Unreadable::from).and_then(|real| {
                    let new = known.insert(real);
                    new.then(|| self.file(&path, told)).transpose()
                });
                match read {
                    Ok(Some(file)) => {
                        reading.files.push(Arc::clone(file.value()));
                        held.insert(path, file);
                    }
                    Ok(None) => {}
                    Err(error) => reading.failed.push((path, error)),
                }
            }
        }
        held.extend(self.being_written.drain());
        self.held = held;
        let failed = &reading.failed;
        self.pending
            .retain(|path| self.held.contains_key(path) || failed.iter().any(|(of, _)| of == path));
        reading.files.sort_by(|a, b| a.path.cmp(&b.path));
        reading
    }

    /// The present content of a file. It is the kept one if the attributes prove that the file did not change.
    fn file(&mut self, path: &Path, told: &Told) -> Result<Held<Arc<SourceFile>>, Unreadable> {
        // It is opened only once it is known to be a file, because opening a FIFO waits for its writer.
        let meta = fs::metadata(path)?;
        if !meta.is_file() {
            return Err(Unreadable::NotAFile);
        }
        let stamp = Stamp::of(&meta);
        let held = self.held.remove(path);
        let before = held.as_ref().map(Held::stamp);
        let take = self.pending.take(path, stamp, before, told);
        let held = match (held, take) {
            (Some(held), Take::Text) if held.is_current(&stamp) => return Ok(held),
            (held, Take::Later | Take::Writing) => {
                self.unsettled |= take == Take::Later;
                let held = held.map(|held| (path.to_owned(), held));
                self.being_written.extend(held);
                return Err(Unreadable::Changing);
            }
            (held, Take::Text) => held,
        };
        let begin = Instant::now();
        let (text, stamp, seen) = read_stable(path)?;
        let file = match &held {
            Some(held) if held.value().text == text => Arc::clone(held.value()),
            _ => Arc::new(SourceFile::new(path.to_owned(), text)),
        };
        Ok(Held::read(file, stamp, begin, seen, held))
    }
}

/// The rule files of a folder, without those of its subfolders. Names that begin with a dot belong to an editor or to
/// Kubernetes (`..data` and the folder it points to).
fn members(folder: &Path, ignored: &mut Vec<PathBuf>) -> io::Result<Vec<Member>> {
    let real = fs::canonicalize(folder)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        let linked = entry.file_type()?.is_symlink();
        let is_folder = if linked {
            path.is_dir()
        } else {
            entry.file_type()?.is_dir()
        };
        if is_folder {
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            if inside.map(|e| e.path()).any(|p| is_rules(&p)) {
                ignored.push(path);
            }
        } else if is_rules(&path) {
            let real = if linked {
                fs::canonicalize(&path)
            } else {
                Ok(real.join(entry.file_name()))
            };
            found.push(Member { path, real });
        }
    }
    Ok(found)
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name();
    name.is_none_or(|n| n.as_encoded_bytes().starts_with(b"."))
}

/// Whether a file in a folder is a rule file, by its name.
pub(super) fn is_rules(path: &Path) -> bool {
    let known = ["yaml", "yml", "json"];
    let extension = path.extension();
    !is_hidden(path) && extension.is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

/// The text of a file that did not change while it was read, with its attributes and a time at which
/// it had them.
fn read_stable(path: &Path) -> Result<(String, Stamp, Instant), Unreadable> {
    let mut file = fs::File::open(path)?;
    let before = file.metadata()?;
    let seen = Instant::now();
    if !before.is_file() {
        return Err(Unreadable::NotAFile);
    }
    if before.len() > MAX_FILE as u64 {
        return Err(Unreadable::TooLarge);
    }
    let mut text = String::with_capacity(before.len() as usize);
    (&mut file)
        .take(MAX_FILE as u64)
        .read_to_string(&mut text)
        .map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => Unreadable::NotUtf8,
            _ => e.into(),
        })?;
    let stamp = Stamp::of(&before);
    if Stamp::of(&file.metadata()?) != stamp {
        return Err(Unreadable::Changing);
    }
    Ok((text, stamp, seen))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
