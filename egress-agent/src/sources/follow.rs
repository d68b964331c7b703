//! Follows files while they change.
//!
//! Owns when files are read and who is notified. The caller's `compile` function interprets the
//! texts, and handles a file that cannot be read.

use super::files::{Reader, Reading, digest};
use super::watch::Watch;
use crate::failure::Failure;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A full read of all files although no attributes changed may use one part in this many of a processor.
const SPARING: u32 = 1000;
/// The shortest and longest time between two such reads. They find writes through a memory mapping, which change no
/// attribute on some file systems (tmpfs).
const DOUBT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// The compiled result of a set of files, and what is wrong with the files.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    /// The latest result.
    pub current: watch::Receiver<Arc<T>>,
    /// One line about the parts of the files that are not in force; `None` if all are.
    pub problem: watch::Receiver<Option<String>>,
}

/// Loads `paths` and follows them until the returned future is dropped.
///
/// `compile` gets all files at once, and again after each change. It returns the result, and one line if something is
/// wrong. `after` is called with the latest result once it is published, for work that must not delay this result or
/// the next one.
pub fn follow<T, C, A>(
    paths: &[PathBuf],
    mut compile: C,
    after: A,
) -> Result<(Feed<T>, impl Future<Output = ()> + Send + use<T, C, A>), Failure>
where
    T: Send + Sync + 'static,
    C: FnMut(&Reading) -> (T, Option<String>) + Send + 'static,
    A: FnMut(&T) + Send + 'static,
{
    // The paths must be absolute, because the watcher compares paths and the working directory may be removed.
    let paths: Vec<PathBuf> = paths
        .iter()
        .map(|p| {
            std::path::absolute(p).map_err(|e| Failure::usage(format_args!("{}: {e}", p.display())))
        })
        .collect::<Result<_, _>>()?;
    let mut changes = Watch::new(&paths);
    let mut look = Look::new(paths);
    let reading = look.read();
    look.seen = digest(&reading);
    let (first, problem) = compile(&reading);
    let (set_current, current) = watch::channel(Arc::new(first));
    let (set_problem, problem) = watch::channel(problem);
    let sets = current.clone();
    let run = async move {
        let files = Arc::new(Mutex::new((look, compile)));
        let looks = async {
            let mut took = Duration::ZERO;
            loop {
                changes.changed(took).await;
                changes.arm();
                let begin = Instant::now();
                let files = Arc::clone(&files);
                // Many rules take so long that other tasks would be delayed.
                let look = move || {
                    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                    let (look, compile) = &mut *files;
                    let (seen, reading) = look.changed()?;
                    let compiled = compile(&reading);
                    // This comes after `compile`, so that files that made it panic are compiled again.
                    look.seen = seen;
                    Some(compiled)
                };
                let looked = finished(tokio::task::spawn_blocking(look).await);
                // After a failure the next look comes soon.
                took = looked.as_ref().map_or(Duration::ZERO, |_| begin.elapsed());
                if let Some(Some((set, problem))) = looked {
                    set_current.send_replace(Arc::new(set));
                    set_problem.send_replace(problem);
                }
            }
        };
        tokio::join!(looks, follow_up(sets, after));
    };
    Ok((Feed { current, problem }, run))
}

/// Calls `after` with the present result and each later one, except those that were replaced meanwhile.
async fn follow_up<T, A>(mut sets: watch::Receiver<Arc<T>>, after: A)
where
    T: Send + Sync + 'static,
    A: FnMut(&T) + Send + 'static,
{
    let after = Arc::new(Mutex::new(after));
    loop {
        let set = Arc::clone(&sets.borrow_and_update());
        let after = Arc::clone(&after);
        let call = move || {
            let mut after = after.lock().unwrap_or_else(PoisonError::into_inner);
            after(&set);
        };
        finished(tokio::task::spawn_blocking(call).await);
        if sets.changed().await.is_err() {
            return;
        }
    }
}

/// The result of a blocking task; a panic is logged.
fn finished<T>(ended: Result<T, tokio::task::JoinError>) -> Option<T> {
    ended
        .inspect_err(|error| tracing::error!(%error, "reading the rules failed"))
        .ok()
}

/// The files, and what the last look saw of them.
struct Look {
    paths: Vec<PathBuf>,
    reader: Reader,
    /// Digest of the reading that was compiled last.
    seen: u64,
    /// When all files are read again, regardless of their attributes.
    doubt: Instant,
}

impl Look {
    fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            reader: Reader::default(),
            seen: 0,
            doubt: Instant::now(),
        }
    }

    fn read(&mut self) -> Reading {
        let begin = Instant::now();
        let whole = begin >= self.doubt;
        if whole {
            self.reader.doubt();
        }
        let reading = self.reader.read(&self.paths);
        if whole {
            let end = Instant::now();
            let pause = (end - begin)
                .saturating_mul(SPARING)
                .clamp(DOUBT.0, DOUBT.1);
            self.doubt = end + pause;
        }
        reading
    }

    /// The files and their digest, if they differ from the last compiled ones.
    fn changed(&mut self) -> Option<(u64, Reading)> {
        let reading = self.read();
        let now = digest(&reading);
        (self.seen != now).then_some((now, reading))
    }
}
