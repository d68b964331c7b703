//! Rules from files and folders: read as a whole, followed while they change.
//!
//! Owns when the files are read. The caller's `compile` function interprets the text, and handles a
//! file that cannot be read.

use super::watch::Watch;
use crate::failure::Failure;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A larger file is not read: no decoder would take it.
const MAX_FILE: u64 = egress_core::istio::decode::MAX_FILE as u64;
/// How often a read is begun again because a file changed under it.
const READ_ATTEMPTS: u32 = 5;

/// One file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As the user named it, or below the folder that the user named.
    pub path: PathBuf,
    /// UTF-8.
    pub text: String,
    /// Of path and text, made once: the texts of many files are long.
    digest: u64,
}

impl SourceFile {
    /// Of a text.
    pub fn new(path: PathBuf, text: String) -> Self {
        Self {
            digest: digest(&(&path, &text)),
            path,
            text,
        }
    }

    /// Whether two files are the same; says nothing across versions of the agent.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }
}

impl Hash for SourceFile {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.digest.hash(hasher);
    }
}

/// All files of all paths as they are at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Files, sorted by path.
    pub files: Vec<SourceFile>,
    /// Files and folders that cannot be read, each with the reason.
    pub failed: Vec<(PathBuf, String)>,
    /// Folders with rule files in a folder that was named: they are not read.
    pub ignored: Vec<PathBuf>,
}

/// What a set of files amounts to, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    /// The latest.
    pub current: watch::Receiver<Arc<T>>,
    /// One line about the parts of the files that are not in force; `None` while all is.
    pub problem: watch::Receiver<Option<String>>,
}

/// Loads `paths` and follows them until the returned future is dropped.
///
/// `compile` sees all files at once and gives what they amount to, with one line if something is
/// wrong with them; it is asked again when they changed. `after` is called with each set once it is
/// published, for work that must not hold it up.
pub fn follow<T, C, A>(
    paths: &[PathBuf],
    compile: C,
    after: A,
) -> Result<(Feed<T>, impl Future<Output = ()> + Send + use<T, C, A>), Failure>
where
    T: Send + Sync + 'static,
    C: Fn(&Reading) -> (T, Option<String>) + Send + Sync + 'static,
    A: Fn(&T) + Send + Sync + 'static,
{
    // Absolute: the watcher compares paths, and the working directory may go.
    let paths: Vec<PathBuf> = paths
        .iter()
        .map(|p| {
            std::path::absolute(p).map_err(|e| Failure::usage(format_args!("{}: {e}", p.display())))
        })
        .collect::<Result<_, _>>()?;
    let mut changes = Watch::new(&paths);
    let reading = read(&paths);
    let mut seen = digest(&reading);
    let (first, problem) = compile(&reading);
    let first = Arc::new(first);
    let (set_current, current) = watch::channel(Arc::clone(&first));
    let (set_problem, problem) = watch::channel(problem);
    let (compile, after) = (Arc::new(compile), Arc::new(after));
    let run = async move {
        let mut took = Duration::ZERO;
        let mut new = Some(first);
        loop {
            if let Some(set) = new.take() {
                let after = Arc::clone(&after);
                finished(tokio::task::spawn_blocking(move || after(&set)).await);
            }
            changes.changed(took).await;
            changes.arm();
            let begin = Instant::now();
            let (paths, compile) = (paths.clone(), Arc::clone(&compile));
            // 10 000 rules take long enough to hold up other tasks.
            let look = move || {
                let reading = read(&paths);
                let now = digest(&reading);
                (now, (now != seen).then(|| compile(&reading)))
            };
            let looked = finished(tokio::task::spawn_blocking(look).await);
            took = begin.elapsed();
            if let Some((now, Some((set, problem)))) = looked {
                seen = now;
                let set = Arc::new(set);
                set_current.send_replace(Arc::clone(&set));
                set_problem.send_replace(problem);
                new = Some(set);
            }
        }
    };
    Ok((Feed { current, problem }, run))
}

/// The result of a blocking task; a panic is logged.
fn finished<T>(ended: Result<T, tokio::task::JoinError>) -> Option<T> {
    ended
        .inspect_err(|error| tracing::error!(%error, "reading the rules failed"))
        .ok()
}

/// Whether two reads saw the same; says nothing across versions of the agent.
pub(super) fn digest(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// All files of all paths in one consistent read.
pub fn read(paths: &[PathBuf]) -> Reading {
    let mut last = read_once(paths);
    for _ in 1..READ_ATTEMPTS {
        if last.failed.is_empty() {
            break;
        }
        // A file between two names of a rename, or one being written.
        last = read_once(paths);
    }
    last
}

fn read_once(paths: &[PathBuf]) -> Reading {
    let mut reading = Reading::default();
    let mut known = BTreeSet::new();
    for path in paths {
        let members = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => members(path, &mut reading.ignored),
            Ok(_) => Ok(vec![path.clone()]),
            Err(error) => Err(error),
        };
        let members = members.unwrap_or_else(|error| {
            reading.failed.push((path.clone(), error.to_string()));
            Vec::new()
        });
        for file in members {
            match fs::canonicalize(&file) {
                Ok(real) => {
                    if known.insert(real) {
                        match read_stable(&file) {
                            Ok(text) => reading.files.push(SourceFile::new(file, text)),
                            Err(error) => reading.failed.push((file, error.to_string())),
                        }
                    }
                }
                Err(error) => reading.failed.push((file, error.to_string())),
            }
        }
    }
    reading.files.sort_by(|a, b| a.path.cmp(&b.path));
    reading
}

/// The rule files of a folder, not of folders in it. Names that begin with a dot are an editor's,
/// or Kubernetes' own (`..data` and the folder it points to).
fn members(folder: &Path, ignored: &mut Vec<PathBuf>) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_hidden(&path) {
            continue;
        }
        if path.is_dir() {
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            if inside
                .map(|e| e.path())
                .any(|p| is_rules(&p) && !is_hidden(&p))
            {
                ignored.push(path);
            }
        } else if is_rules(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name();
    name.is_none_or(|n| n.as_encoded_bytes().starts_with(b"."))
}

/// Whether a file of a folder is taken for rules, by its name.
fn is_rules(path: &Path) -> bool {
    let known = ["yaml", "yml", "json"];
    let extension = path.extension();
    extension.is_some_and(|e| known.iter().any(|k| e.eq_ignore_ascii_case(k)))
}

/// The text of a file that did not change while it was read.
fn read_stable(path: &Path) -> io::Result<String> {
    let stamp = |m: &fs::Metadata| (m.modified().ok(), m.len());
    // Not opened before it is known to be a file: opening a FIFO waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is not a file"));
    }
    let mut file = fs::File::open(path)?;
    let before = file.metadata()?;
    if before.len() > MAX_FILE {
        return Err(io::Error::other(format!(
            "is larger than {} MiB",
            MAX_FILE >> 20
        )));
    }
    let mut text = String::new();
    (&mut file)
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|e| match e.kind() {
            io::ErrorKind::InvalidData => io::Error::other("the text is not UTF-8"),
            _ => e,
        })?;
    if stamp(&file.metadata()?) != stamp(&before) {
        return Err(io::Error::other("changes while it is read"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        let reading = read(paths);
        assert_eq!(reading.failed, []);
        reading
            .files
            .iter()
            .map(|f| f.path.file_name().unwrap().to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn a_folder_gives_its_rule_files_sorted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        for name in [
            "b.yml", "a.yaml", "c.json", "d.txt", "e.yaml~", ".f.yaml", "README",
        ] {
            fs::write(at(name), name).unwrap();
        }
        fs::create_dir(at("sub.yaml")).unwrap();
        fs::write(at("sub.yaml").join("x.yaml"), "x").unwrap();
        assert_eq!(names(&[dir.path().into()]), ["a.yaml", "b.yml", "c.json"]);
        assert_eq!(
            names(&[at("a.yaml"), dir.path().into()]),
            ["a.yaml", "b.yml", "c.json"],
            "each once"
        );
        assert_eq!(
            names(&[at("d.txt")]),
            ["d.txt"],
            "a file named outright has any name"
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: &str| dir.path().join(n);
        fs::write(at("latin.yaml"), [0xff, 0xfe]).unwrap();
        std::os::unix::fs::symlink("/nonexistent", at("loose.yaml")).unwrap();
        for (path, part) in [
            (at("none.yaml"), "No such file"),
            (at("latin.yaml"), "not UTF-8"),
            (at("loose.yaml"), "No such file"),
            ("/dev/null".into(), "is not a file"),
        ] {
            let failed = read(std::slice::from_ref(&path)).failed;
            assert!(
                failed[0].0 == path && failed[0].1.contains(part),
                "{failed:?}"
            );
        }
    }
}
