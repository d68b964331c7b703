//! Follows files, and objects of the Kubernetes API, while they change.
//!
//! Owns when they are read and who is notified. The caller's `compile` function interprets the
//! texts, and handles a file that cannot be read.

use super::api::ApiRules;
use super::files::{Reader, Reading, digest};
use super::watch::Watch;
use super::writes::Told;
use crate::failure::Failure;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A full read of all files although no attributes changed may use one part in this many of a processor.
const SPARING: u32 = 1000;
/// The shortest and longest time between two such reads. They find writes through a memory mapping, which change no
/// attribute on some file systems (tmpfs).
const DOUBT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// The least bytes of a large change that are compiled at a time.
const PART: usize = 128 << 10;
/// If the reader of the results needs longer than this for one part, the next part is larger by [`FASTER`], because
/// small parts cost more together.
const SLOW: Duration = Duration::from_millis(250);
const FASTER: usize = 8;

/// The compiled result of a set of files, and what is wrong with the files.
#[derive(Clone, Debug)]
pub struct Feed<T> {
    /// The latest result.
    pub current: watch::Receiver<Arc<T>>,
    /// The reader puts each result here when it is done with it. The next part of a large change is compiled only then.
    pub taken: watch::Sender<Arc<T>>,
    /// One line about the parts of the files that are not in force; `None` if all are.
    pub problem: watch::Receiver<Option<String>>,
}

impl<T> Feed<T> {
    /// The first result that the reader uses. Each later one is a change of `current`, also while the reader is not done
    /// with this one.
    pub fn first(&mut self) -> Arc<T> {
        Arc::clone(&self.current.borrow_and_update())
    }
}

/// What was made of the files.
#[derive(Debug)]
pub struct Compiled<T> {
    /// The result; `None` if it is the same as before.
    pub set: Option<T>,
    /// One line if something is wrong.
    pub problem: Option<String>,
    /// Parts of the files wait for another call.
    pub waits: bool,
}

/// Where rules come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Files and folders.
    pub paths: Vec<PathBuf>,
    /// Objects of the Kubernetes API.
    pub api: Option<ApiRules>,
}

/// Loads the sources and follows them until the returned future is dropped.
///
/// `compile` gets all files at once, and again after each change. After the first time it may leave parts of a change,
/// beyond about as many bytes as its second argument says, to another call. `after` is called with the latest result
/// once it is published, for work that must not delay this result or the next one.
pub fn follow<T, C, A>(
    sources: &Sources,
    mut compile: C,
    after: A,
) -> Result<(Feed<T>, impl Future<Output = ()> + Send + use<T, C, A>), Failure>
where
    T: Default + Send + Sync + 'static,
    C: FnMut(&Reading, usize) -> Compiled<T> + Send + 'static,
    A: FnMut(&T) + Send + 'static,
{
    // The paths must be absolute, because the watcher compares paths and the working directory may be removed.
    let paths: Vec<PathBuf> = sources
        .paths
        .iter()
        .map(|p| {
            std::path::absolute(p).map_err(|e| Failure::usage(format_args!("{}: {e}", p.display())))
        })
        .collect::<Result<_, _>>()?;
    let changes = Watch::new(&paths);
    let mut look = Look::new(paths, sources.api.clone());
    let api = sources.api.as_ref().map(ApiRules::changes);
    let reading = look.read();
    look.seen = digest(&reading);
    let first = compile(&reading, usize::MAX);
    let (set_current, current) = watch::channel(Arc::new(first.set.unwrap_or_default()));
    let (set_problem, problem) = watch::channel(first.problem);
    let taken = watch::Sender::new(Arc::clone(&current.borrow()));
    let sets = current.clone();
    look.reading = reading;
    let follower = Follower {
        files: Arc::new(Mutex::new((look, compile))),
        set_current,
        set_problem,
        waits: first.waits,
        most: PART,
        noticed: Instant::now(),
    };
    let looks = follower.run(changes, api, taken.subscribe());
    let run = async move {
        tokio::join!(looks, follow_up(sets, after));
    };
    let feed = Feed {
        current,
        taken,
        problem,
    };
    Ok((feed, run))
}

/// Compiles files when they change, and the parts of large changes one by one.
struct Follower<T, C> {
    files: Arc<Mutex<(Look, C)>>,
    set_current: watch::Sender<Arc<T>>,
    set_problem: watch::Sender<Option<String>>,
    /// Parts wait.
    waits: bool,
    /// Bytes of the next part.
    most: usize,
    /// When the last change was noticed.
    noticed: Instant,
}

impl<T, C> Follower<T, C>
where
    T: Send + Sync + 'static,
    C: FnMut(&Reading, usize) -> Compiled<T> + Send + 'static,
{
    async fn run(
        mut self,
        mut changes: Watch,
        mut api: Option<watch::Receiver<()>>,
        mut taken: watch::Receiver<Arc<T>>,
    ) {
        let (mut took, mut soon) = (Duration::ZERO, false);
        loop {
            let told = {
                let change = changes.changed(took, soon);
                tokio::pin!(change);
                loop {
                    let set = Arc::clone(&self.set_current.borrow());
                    let begin = Instant::now();
                    // A file that is being written is not read: only the last change is continued, with the present
                    // objects of the API.
                    tokio::select! {
                        biased;
                        told = &mut change => break told,
                        () = changed(api.as_mut()) => {
                            self.compile(Look::of_api).await;
                        }
                        () = until_taken(&mut taken, &set), if self.waits => {
                            if begin.elapsed() > SLOW {
                                self.most = self.most.saturating_mul(FASTER);
                            }
                            self.compile(Look::again).await;
                        }
                    }
                }
            };
            self.noticed = changes.noticed().into();
            changes.arm();
            self.files().0.told = told;
            took = self.compile(Look::changed).await;
            soon = self.files().0.reader.waits();
        }
    }

    fn files(&self) -> MutexGuard<'_, (Look, C)> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compiles and publishes a reading, if there is one. Returns how long that took; zero after a failure, so that the
    /// next look comes soon.
    async fn compile(&mut self, reading: fn(&mut Look) -> Option<Reading>) -> Duration {
        let begin = Instant::now();
        let (files, most, noticed) = (Arc::clone(&self.files), self.most, self.noticed);
        // Many rules take so long that other tasks would be delayed.
        let compile = move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            let (look, compile) = &mut *files;
            let mut reading = reading(look)?;
            reading.noticed.0.get_or_insert(noticed);
            let compiled = compile(&reading, most);
            // This comes after `compile`, so that files that made it panic are compiled again.
            look.seen = digest(&reading);
            look.reading = reading;
            Some(compiled)
        };
        match finished(tokio::task::spawn_blocking(compile).await) {
            Some(Some(compiled)) => {
                self.waits = compiled.waits;
                if !self.waits {
                    self.most = PART;
                }
                if let Some(set) = compiled.set {
                    self.set_current.send_replace(Arc::new(set));
                    self.set_problem.send_replace(compiled.problem);
                }
            }
            Some(None) => {}
            None => {
                self.waits = false;
                return Duration::ZERO;
            }
        }
        begin.elapsed()
    }
}

/// Returns when an object of the API has changed.
async fn changed(api: Option<&mut watch::Receiver<()>>) {
    let ended = match api {
        Some(api) => api.changed().await.is_err(),
        None => true,
    };
    if ended {
        std::future::pending::<()>().await;
    }
}

/// Returns when the reader is done with a result.
async fn until_taken<T>(taken: &mut watch::Receiver<Arc<T>>, set: &Arc<T>) {
    if taken.wait_for(|last| Arc::ptr_eq(last, set)).await.is_err() {
        // There is no reader any more.
        std::future::pending::<()>().await;
    }
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
    api: Option<ApiRules>,
    reader: Reader,
    /// What is known of writers for the next look.
    told: Told,
    /// The last reading of the files, without the objects of the API.
    files: Reading,
    /// The reading that was compiled last, and its digest.
    reading: Reading,
    seen: u64,
    /// When all files are read again, regardless of their attributes.
    doubt: Instant,
}

impl Look {
    fn new(paths: Vec<PathBuf>, api: Option<ApiRules>) -> Self {
        Self {
            paths,
            api,
            reader: Reader::default(),
            told: Told::default(),
            files: Reading::default(),
            reading: Reading::default(),
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
        self.files = self.reader.read(&self.paths, &self.told);
        if whole {
            let end = Instant::now();
            let pause = (end - begin)
                .saturating_mul(SPARING)
                .clamp(DOUBT.0, DOUBT.1);
            self.doubt = end + pause;
        }
        self.with_api()
    }

    /// The files of the last reading, and the objects of the API.
    fn with_api(&self) -> Reading {
        let mut reading = self.files.clone();
        if let Some(api) = &self.api {
            api.add_to(&mut reading);
        }
        reading
    }

    /// The files and objects, if they differ from the last compiled ones.
    fn changed(&mut self) -> Option<Reading> {
        let reading = self.read();
        (self.seen != digest(&reading)).then_some(reading)
    }

    /// The same without reading files.
    fn of_api(&mut self) -> Option<Reading> {
        let reading = self.with_api();
        (self.seen != digest(&reading)).then_some(reading)
    }

    /// The last compiled files.
    #[expect(clippy::unnecessary_wraps, reason = "the same form as `changed`")]
    fn again(&mut self) -> Option<Reading> {
        Some(self.reading.clone())
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
