//! The writer on real files and pipes.

use super::*;
use crate::observe::families::Own;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const SOON: Duration = Duration::from_secs(10);

struct Bed {
    log: AccessLog,
    counters: Counters,
    dir: tempfile::TempDir,
}

fn bed() -> Bed {
    let counters = Counters::default();
    Bed {
        log: AccessLog::new(counters.clone()),
        counters,
        dir: tempfile::tempdir().unwrap(),
    }
}

impl Bed {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn to(&self, file: &Path) {
        let format = AccessFormat::text(Some("%BYTES_SENT% %REQ(:PATH)%")).unwrap();
        self.log.apply(Some(&Config {
            file: file.to_owned(),
            format: Arc::new(format),
        }));
    }

    fn say(&self, path: &str, bytes: u64) {
        self.log.queue.push(&format!("{bytes} {path}\n"));
    }

    fn counts(&self) -> (u64, u64) {
        let of = |own| self.counters.get(own);
        (of(Own::AccessLogWritten), of(Own::AccessLogLost))
    }

    fn counts_become(&self, counts: (u64, u64)) {
        let begun = Instant::now();
        while self.counts() != counts {
            assert!(
                begun.elapsed() < SOON,
                "{:?}, not {counts:?}",
                self.counts()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn off_nothing_is_asked_for_and_on_lines_are_appended() {
    let bed = bed();
    assert!(bed.log.format().is_none());
    let file = bed.file("log");
    fs::write(&file, "before\n").unwrap();
    bed.to(&file);
    assert!(bed.log.format().is_some());
    bed.say("/a", 1);
    bed.say("/b", 2);
    bed.log.queue.finish(SOON);
    assert_eq!(fs::read_to_string(&file).unwrap(), "before\n1 /a\n2 /b\n");
    // What waits when it is turned off is still written.
    bed.say("/c", 3);
    bed.log.apply(None);
    assert!(bed.log.format().is_none());
    bed.counts_become((3, 0));
    assert!(fs::read_to_string(&file).unwrap().ends_with("3 /c\n"));
}

#[test]
fn a_file_that_was_moved_is_made_again() {
    let bed = bed();
    let file = bed.file("log");
    bed.to(&file);
    bed.say("/a", 1);
    bed.counts_become((1, 0));
    for (asked, n) in [(true, 2), (false, 3)] {
        fs::rename(&file, bed.file(&format!("old{n}"))).unwrap();
        if asked {
            bed.log.reopen();
        } else {
            std::thread::sleep(Duration::from_millis(1100));
        }
        bed.say("/n", n);
        bed.counts_become((n, 0));
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{n} /n\n"));
    }
}

#[test]
fn a_pipe_without_a_reader_costs_lines_only() {
    let bed = bed();
    let path = bed.file("pipe");
    fifo(&path);
    bed.to(&path);
    bed.say("/nobody", 1);
    bed.counts_become((0, 1));
    let mut reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
        .unwrap();
    bed.log.reopen();
    bed.say("/read", 2);
    bed.counts_become((1, 1));
    let mut text = [0; 64];
    let read = reader.read(&mut text).unwrap();
    assert_eq!(&text[..read], b"2 /read\n");

    // A reader that has stopped: what does not fit into the pipe and the queue is lost, and nobody waits.
    let long = "x".repeat(8000);
    let begun = Instant::now();
    for n in 0..1000 {
        bed.say(&long, n);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let (_, lost) = bed.counts();
    assert!((600..1000).contains(&lost), "{lost}");
    let begun = Instant::now();
    bed.log.finish();
    assert!(begun.elapsed() < Duration::from_secs(2));
    // Another file frees the writer. The queue has room for more once the waiting lines are written.
    bed.to(&bed.file("log"));
    let begun = Instant::now();
    let written = || fs::read_to_string(bed.file("log")).unwrap_or_default();
    while !written().ends_with("5 /after\n") {
        assert!(begun.elapsed() < SOON, "{}", written().len());
        bed.say("/after", 5);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_and_a_missing_folder_lose_lines_until_they_are_mended() {
    let bed = bed();
    bed.to(Path::new("/dev/full"));
    bed.say("/a", 1);
    bed.counts_become((0, 1));
    let file = bed.file("missing/log");
    bed.to(&file);
    bed.say("/b", 2);
    bed.counts_become((0, 2));
    fs::create_dir(file.parent().unwrap()).unwrap();
    bed.log.reopen();
    bed.say("/c", 3);
    bed.counts_become((1, 2));
    assert_eq!(fs::read_to_string(&file).unwrap(), "3 /c\n");
}
