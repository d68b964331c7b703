//! The thread that writes lines. Opens the file again when it was moved, and says an error once.

use super::queue::{Queue, Work};
use super::sink::Sink;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two looks whether the file was moved, and between two tries to open it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread. It ends with the process.
pub(super) fn start(queue: &Arc<Queue>) {
    let queue = Arc::clone(queue);
    let run = move || Writer::new(queue).run();
    let started = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(run);
    if let Err(error) = started {
        tracing::error!(%error, "no access log: its thread does not start");
    }
}

struct Writer {
    queue: Arc<Queue>,
    /// The open file and its path.
    sink: Option<(Sink, PathBuf)>,
    looked: Option<Instant>,
    /// The version of the target that is open.
    version: u64,
    /// The last write ended within a line.
    torn: bool,
    /// An error was said, and nothing was written since.
    failing: bool,
}

impl Writer {
    fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            sink: None,
            looked: None,
            version: 0,
            torn: false,
            failing: false,
        }
    }

    fn run(mut self) {
        loop {
            let work = self.queue.next(self.version);
            self.prepare(&work);
            self.write(&work.lines);
            if work.target.is_none() {
                self.sink = None;
            }
        }
    }

    /// Has the right file open, if that is possible.
    fn prepare(&mut self, work: &Work) {
        let again = work.version != self.version;
        self.version = work.version;
        let Some(path) = &work.target else {
            // The rest goes to the file that is open.
            return;
        };
        if again {
            self.looked = None;
            self.failing = false;
        }
        let now = Instant::now();
        if self.looked.is_some_and(|at| now - at < POLL_INTERVAL) {
            return;
        }
        self.looked = Some(now);
        let stays = |(sink, at): &(Sink, PathBuf)| !again && at == path && !sink.moved(path);
        if !self.sink.as_ref().is_some_and(stays) {
            self.open(path);
        }
    }

    fn open(&mut self, path: &Path) {
        self.torn = false;
        match Sink::open(path) {
            Ok(sink) => self.sink = Some((sink, path.to_owned())),
            Err(error) => {
                self.sink = None;
                self.fail(path, &error);
            }
        }
    }

    fn fail(&mut self, path: &Path, error: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(
                file = %path.display(),
                %error,
                "cannot write the access log; its lines are lost and counted (accessLogLost in status) until it can be written"
            );
        }
    }

    /// Writes whole lines. Counts those that are not written.
    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        let Some((mut sink, path)) = self.sink.take() else {
            return self.queue.lost(count(lines));
        };
        let mut failed = None;
        // Ends the line that was broken off.
        if self.torn {
            match sink.write(b"\n") {
                Ok(_) => self.torn = false,
                Err(error) => failed = Some(error),
            }
        }
        let mut rest = lines;
        while failed.is_none() && !rest.is_empty() {
            match sink.write(rest) {
                Ok(0) => failed = Some(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A reader that has stopped: lines wait, until the log is to go elsewhere.
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && !self.queue.changed(self.version) => {}
                Err(error) => failed = Some(error),
            }
        }
        let written = &lines[..lines.len() - rest.len()];
        self.torn |= !rest.is_empty() && written.last().is_some_and(|last| *last != b'\n');
        self.queue.wrote(count(written));
        self.queue.lost(count(rest));
        if let Some(error) = &failed {
            self.fail(&path, error);
        } else if std::mem::take(&mut self.failing) {
            tracing::info!(file = %path.display(), "the access log is written again");
        }
        // Nobody reads a broken pipe again, but a FIFO may get another reader.
        let broken = failed.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe);
        self.sink = (!broken).then_some((sink, path));
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.split(|byte| *byte == b'\n').count() as u64 - 1
}
