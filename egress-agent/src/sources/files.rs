//! Rules from files and folders: read as a whole, applied as a whole, followed while they change.
//!
//! Owns when the files are read and that a bad state of them changes nothing. What a text means is
//! the business of the `compile` function that the caller hands in.

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// As the user named it, or below the folder that the user named.
    pub path: PathBuf,
    /// UTF-8.
    pub text: String,
}

/// The rules in force and what is wrong with newer ones.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    /// Last good set.
    pub current: watch::Receiver<Arc<T>>,
    /// Why the files as they are now are not in force; `None` while they are.
    pub problem: watch::Receiver<Option<String>>,
}

/// Loads `paths` and follows them until the returned future is dropped.
///
/// `compile` sees all files at once and gives the set, or why there is none (file, line, field).
/// The first load must succeed; after it, a state of the files that cannot be read or compiled
/// leaves the last good set in force and is reported once.
pub fn follow<T, C>(
    paths: &[PathBuf],
    compile: C,
) -> Result<(Feed<T>, impl Future<Output = ()> + Send + use<T, C>), Failure>
where
    T: Send + Sync + 'static,
    C: Fn(&[SourceFile]) -> Result<T, String> + Send + Sync + 'static,
{
    // Absolute: the watcher compares paths, and the working directory may go.
    let paths: Vec<PathBuf> = paths
        .iter()
        .map(|p| {
            std::path::absolute(p).map_err(|e| Failure::usage(format_args!("{}: {e}", p.display())))
        })
        .collect::<Result<_, _>>()?;
    let mut changes = Watch::new(&paths);
    let files = read(&paths).map_err(Failure::usage)?;
    let mut seen = Some(digest(&files));
    let mut applied = seen;
    let first = compile(&files).map_err(Failure::usage)?;
    let (set_current, current) = watch::channel(Arc::new(first));
    let (set_problem, problem) = watch::channel(None);
    let compile = Arc::new(compile);
    let run = async move {
        let mut took = Duration::ZERO;
        loop {
            changes.changed(took).await;
            changes.arm();
            let begin = Instant::now();
            let (paths, compile) = (paths.clone(), Arc::clone(&compile));
            // 10 000 rules take long enough to hold up other tasks.
            let outcome =
                tokio::task::spawn_blocking(move || load(&paths, seen, applied, &*compile)).await;
            let (now, outcome) = outcome.unwrap_or_else(|error| {
                (None, Outcome::Bad(format!("reading the rules: {error}")))
            });
            seen = now;
            took = begin.elapsed();
            match outcome {
                Outcome::Same => {}
                Outcome::Back => {
                    tracing::info!("the rule files are again as they were applied");
                    set_problem.send_replace(None);
                }
                Outcome::Good(set) => {
                    applied = now;
                    set_current.send_replace(Arc::new(set));
                    set_problem.send_replace(None);
                }
                Outcome::Bad(why) => {
                    let known = set_problem.borrow().as_deref() == Some(why.as_str());
                    if !known {
                        tracing::error!(problem = %why, "rules not applied; the last good ones stay in force");
                        set_problem.send_replace(Some(why));
                    }
                }
            }
        }
    };
    Ok((Feed { current, problem }, run))
}

enum Outcome<T> {
    /// As at the last look.
    Same,
    /// Other than at the last look, but what is in force already.
    Back,
    Good(T),
    Bad(String),
}

fn load<T>(
    paths: &[PathBuf],
    seen: Option<u64>,
    applied: Option<u64>,
    compile: impl Fn(&[SourceFile]) -> Result<T, String>,
) -> (Option<u64>, Outcome<T>) {
    let files = match read(paths) {
        Ok(files) => files,
        Err(why) => return (None, Outcome::Bad(why)),
    };
    let now = Some(digest(&files));
    let outcome = if now == seen {
        Outcome::Same
    } else if now == applied {
        Outcome::Back
    } else {
        compile(&files).map_or_else(Outcome::Bad, Outcome::Good)
    };
    (now, outcome)
}

/// Whether two reads saw the same; says nothing across versions of the agent.
pub(super) fn digest(files: &[SourceFile]) -> u64 {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    hasher.finish()
}

/// All files of all paths in one consistent read, sorted; why not, otherwise.
pub fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, String> {
    let mut last = String::new();
    for _ in 0..READ_ATTEMPTS {
        match read_once(paths) {
            Ok(files) => return Ok(files),
            // A file between two names of a rename, or one being written.
            Err(why) => last = why,
        }
    }
    Err(last)
}

fn read_once(paths: &[PathBuf]) -> Result<Vec<SourceFile>, String> {
    let mut files = Vec::new();
    let mut known = BTreeSet::new();
    for path in paths {
        let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let members = if meta.is_dir() {
            members(path)?
        } else {
            vec![path.clone()]
        };
        for file in members {
            let named = |e: io::Error| format!("{}: {e}", file.display());
            if known.insert(fs::canonicalize(&file).map_err(named)?) {
                let text = read_stable(&file).map_err(named)?;
                files.push(SourceFile { path: file, text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The rule files of a folder, not of folders in it. Names that begin with a dot are an editor's,
/// or Kubernetes' own (`..data` and the folder it points to).
fn members(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let named = |e: io::Error| format!("{}: {e}", folder.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        let rules = path.extension().is_some_and(|e| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| e.eq_ignore_ascii_case(known))
        });
        if rules && !hidden && !path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// The text of a file that did not change while it was read.
fn read_stable(path: &Path) -> io::Result<String> {
    let stamp = |m: &fs::Metadata| (m.modified().ok(), m.len());
    // Not opened before it is known to be a file: opening a FIFO waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("is no file"));
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
            io::ErrorKind::InvalidData => io::Error::other("is not UTF-8"),
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
        let files = read(paths).unwrap();
        files
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
            ("/dev/null".into(), "is no file"),
        ] {
            let why = read(std::slice::from_ref(&path)).unwrap_err();
            assert!(
                why.contains(part) && why.contains(&path.display().to_string()),
                "{why}"
            );
        }
    }
}
