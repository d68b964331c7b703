//! Rule files change in all the ways of editors, tools and Kubernetes.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop there"
)]

use egress_agent::sources::{Compiled, Feed, Reading, Sources, follow};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Shorter than the poll, so that inotify must have reported the change.
const SOON: Duration = Duration::from_millis(1500);

/// Stands for the rules: all lines of all files, except the bad ones.
type Lines = Vec<String>;

/// A line `bad`, an empty file and one that cannot be read are problems.
fn compile(reading: &Reading, _: usize) -> Compiled<Lines> {
    let (mut lines, mut problem) = (Lines::new(), None);
    for file in &reading.files {
        for line in file.text.lines() {
            if line == "bad" {
                problem = Some(format!("{}:1: bad", file.path.display()));
            } else {
                lines.push(line.to_owned());
            }
        }
        if file.text.is_empty() {
            problem = Some(format!("{}: empty", file.path.display()));
        }
    }
    for (path, why) in &reading.failed {
        problem = Some(format!("{}: {why}", path.display()));
    }
    Compiled {
        set: Some(lines),
        problem,
        waits: false,
    }
}

fn files(path: &Path) -> Sources {
    Sources {
        paths: vec![path.to_owned()],
        api: None,
    }
}

struct Rules {
    feed: Feed<Lines>,
    task: tokio::task::JoinHandle<()>,
}

impl Rules {
    fn follow(path: &Path) -> Self {
        let (feed, run) = follow(&files(path), compile, |_| {}).expect("first load");
        Self {
            feed,
            task: tokio::spawn(run),
        }
    }

    fn now(&self) -> Arc<Lines> {
        Arc::clone(&self.feed.current.borrow())
    }

    async fn become_lines(&mut self, want: &[&str]) {
        let got = timeout(SOON, self.feed.current.wait_for(|l| l.iter().eq(want)))
            .await
            .is_ok();
        assert!(got, "want {want:?}, have {:?}", self.now());
    }

    async fn problem(&mut self, part: &str) {
        let got = timeout(
            SOON,
            self.feed
                .problem
                .wait_for(|p| p.as_ref().is_some_and(|p| p.contains(part))),
        )
        .await;
        assert!(got.is_ok(), "want a problem with {part:?}");
    }

    async fn no_problem(&mut self) {
        let got = timeout(SOON, self.feed.problem.wait_for(Option::is_none)).await;
        assert!(got.is_ok(), "the problem stays");
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    fs::create_dir(&rules).unwrap();
    (dir, rules)
}

#[tokio::test]
async fn a_write_in_place_and_a_save_by_rename_are_seen() {
    let (_dir, rules) = folder();
    let file = rules.join("a.yaml");
    fs::write(&file, "one").unwrap();
    let mut seen = Rules::follow(&file);
    assert_eq!(*seen.now(), ["one"]);
    fs::write(&file, "two").unwrap();
    seen.become_lines(&["two"]).await;
    fs::write(rules.join("a.yaml.tmp"), "three").unwrap();
    fs::rename(rules.join("a.yaml.tmp"), &file).unwrap();
    seen.become_lines(&["three"]).await;
    // vim: the old file moves aside, the new one is written under its name.
    fs::rename(&file, rules.join("a.yaml~")).unwrap();
    fs::write(&file, "four").unwrap();
    seen.become_lines(&["four"]).await;
}

#[tokio::test]
async fn files_come_and_go_in_a_folder() {
    let (_dir, rules) = folder();
    let mut seen = Rules::follow(&rules);
    assert!(seen.now().is_empty(), "an empty folder is an empty set");
    fs::write(rules.join("b.yaml"), "b").unwrap();
    seen.become_lines(&["b"]).await;
    fs::write(rules.join("a.yml"), "a").unwrap();
    seen.become_lines(&["a", "b"]).await;
    fs::remove_file(rules.join("b.yaml")).unwrap();
    seen.become_lines(&["a"]).await;
}

#[tokio::test]
async fn a_config_map_swap_is_one_change() {
    let (_dir, rules) = folder();
    let version = |n: &str, a: &str, b: &str| {
        let data = rules.join(n);
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.yaml"), a).unwrap();
        fs::write(data.join("b.yaml"), b).unwrap();
        symlink(n, rules.join("..data_tmp")).unwrap();
        fs::rename(rules.join("..data_tmp"), rules.join("..data")).unwrap();
    };
    version("..1", "a1", "b1");
    for name in ["a.yaml", "b.yaml"] {
        symlink(Path::new("..data").join(name), rules.join(name)).unwrap();
    }
    let mut whole = Rules::follow(&rules);
    let mut single = Rules::follow(&rules.join("b.yaml"));
    assert_eq!(*whole.now(), ["a1", "b1"]);
    let mut all = whole.feed.current.clone();
    version("..2", "a2", "b2");
    fs::remove_dir_all(rules.join("..1")).unwrap();
    timeout(SOON, all.changed())
        .await
        .expect("seen soon")
        .unwrap();
    assert_eq!(**all.borrow(), ["a2", "b2"], "never one of each");
    single.become_lines(&["b2"]).await;
    version("..3", "a3", "b3");
    whole.become_lines(&["a3", "b3"]).await;
}

#[tokio::test]
async fn a_folder_that_was_deleted_and_made_again_is_followed_again() {
    let (_dir, rules) = folder();
    fs::write(rules.join("a.yaml"), "one").unwrap();
    let mut seen = Rules::follow(&rules);
    fs::remove_dir_all(&rules).unwrap();
    seen.problem("rules: No such file").await;
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("a.yaml"), "two").unwrap();
    seen.become_lines(&["two"]).await;
    seen.no_problem().await;
    fs::write(rules.join("a.yaml"), "three").unwrap();
    seen.become_lines(&["three"]).await;
}

#[tokio::test]
async fn a_problem_is_told_beside_what_is_good_until_it_is_mended() {
    let (_dir, rules) = folder();
    fs::write(rules.join("a.yaml"), "a1").unwrap();
    fs::write(rules.join("b.yaml"), "b1").unwrap();
    let mut seen = Rules::follow(&rules);
    fs::write(rules.join("b.yaml"), "bad").unwrap();
    seen.problem("b.yaml:1: bad").await;
    seen.become_lines(&["a1"]).await;
    fs::write(rules.join("a.yaml"), "a2").unwrap();
    seen.become_lines(&["a2"]).await;
    fs::write(rules.join("b.yaml"), "b2").unwrap();
    seen.become_lines(&["a2", "b2"]).await;
    seen.no_problem().await;
}

#[tokio::test]
async fn a_half_written_file_is_not_applied() {
    let (_dir, rules) = folder();
    let path = rules.join("a.yaml");
    fs::write(&path, "one").unwrap();
    let mut seen = Rules::follow(&path);
    seen.feed.current.mark_unchanged();
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"new 1\n").unwrap();
    let early = timeout(Duration::from_millis(300), seen.feed.current.changed()).await;
    assert!(
        early.is_err(),
        "applied before it was closed: {:?}",
        seen.now()
    );
    assert!(seen.feed.problem.borrow().is_none());
    file.write_all(b"new 2\n").unwrap();
    drop(file);
    timeout(SOON, seen.feed.current.changed())
        .await
        .expect("seen soon")
        .unwrap();
    assert_eq!(*seen.now(), ["new 1", "new 2"]);
}

#[tokio::test]
async fn a_missing_path_at_the_start_is_a_problem_until_it_is_there() {
    let (_dir, rules) = folder();
    let path = rules.join("none.yaml");
    let mut seen = Rules::follow(&path);
    seen.problem("none.yaml: No such file").await;
    fs::write(&path, "one").unwrap();
    seen.become_lines(&["one"]).await;
    seen.no_problem().await;
}

#[tokio::test]
async fn a_write_takes_effect_within_200_ms() {
    let (_dir, rules) = folder();
    let file = rules.join("a.yaml");
    fs::write(&file, "0").unwrap();
    let mut seen = Rules::follow(&file);
    let mut taken = Vec::new();
    for n in 1..=20 {
        let text = n.to_string();
        let began = std::time::Instant::now();
        fs::write(&file, &text).unwrap();
        seen.become_lines(&[&text]).await;
        taken.push(began.elapsed());
    }
    taken.sort();
    println!("median {:?}, longest {:?}", taken[10], taken[19]);
    assert!(taken[10] < Duration::from_millis(200), "{taken:?}");
}

#[tokio::test]
async fn a_set_that_made_the_compiler_panic_is_looked_at_again() {
    let (_dir, rules) = folder();
    fs::write(rules.join("a.yaml"), "one").unwrap();
    let mut panicked = false;
    let compile = move |reading: &Reading, most: usize| {
        let first = !std::mem::replace(&mut panicked, true);
        assert!(!first || reading.files[0].text == "one", "the first change");
        panicked = reading.files[0].text != "one";
        compile(reading, most)
    };
    let (mut feed, run) = follow(&files(&rules), compile, |_| {}).unwrap();
    let task = tokio::spawn(run);
    fs::write(rules.join("a.yaml"), "two").unwrap();
    let found = feed.current.wait_for(|l| l.iter().eq(&["two"]));
    let found = timeout(Duration::from_secs(20), found).await;
    assert!(found.is_ok(), "the poll looks again");
    task.abort();
}

/// Sets a file's times to those of another, as `cp -p` and `touch -r` do.
fn with_times_of(path: &Path, meta: &fs::Metadata) {
    let times = fs::FileTimes::new()
        .set_accessed(meta.accessed().unwrap())
        .set_modified(meta.modified().unwrap());
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_times(times).unwrap();
}

/// Longer than the time step of any file system plus the poll, so that the files' attributes prove that the read text
/// is current.
const SETTLED: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_is_on_disk_is_in_force_however_a_settled_file_is_edited() {
    let (dir, rules) = folder();
    let file = rules.join("a.yaml");
    fs::write(&file, "one").unwrap();
    fs::write(rules.join("b.yaml"), "b").unwrap();
    let outside = dir.path().join("outside.yaml");
    fs::write(&outside, "out").unwrap();
    symlink(&outside, rules.join("c.yaml")).unwrap();
    let mut seen = Rules::follow(&rules);
    // The test is about time itself.
    tokio::time::sleep(SETTLED).await;
    let meta = fs::metadata(&file).unwrap();
    // Written in place, with the same size and the former times.
    fs::write(&file, "two").unwrap();
    with_times_of(&file, &meta);
    seen.become_lines(&["two", "b", "out"]).await;
    // The same by a rename.
    let new = rules.join("a.new");
    fs::write(&new, "six").unwrap();
    with_times_of(&new, &meta);
    fs::rename(&new, &file).unwrap();
    seen.become_lines(&["six", "b", "out"]).await;
    // Two files change places, so the inodes and times are the same as before.
    let aside = rules.join("aside");
    fs::rename(&file, &aside).unwrap();
    fs::rename(rules.join("b.yaml"), &file).unwrap();
    fs::rename(&aside, rules.join("b.yaml")).unwrap();
    seen.become_lines(&["b", "six", "out"]).await;
    // Behind a link, in another folder.
    let meta = fs::metadata(&outside).unwrap();
    fs::write(&outside, "far").unwrap();
    with_times_of(&outside, &meta);
    seen.become_lines(&["b", "six", "far"]).await;
    // Writes within one step of the clock, the last of which must win.
    for n in 0..200 {
        fs::write(&file, format!("{n:03}")).unwrap();
        if n % 20 == 19 {
            seen.become_lines(&[&format!("{n:03}"), "six", "far"]).await;
        }
    }
    // A file becomes unreadable and readable again, with the same text.
    fs::write(rules.join("b.yaml"), [0xff; 3]).unwrap();
    seen.problem("b.yaml: the text is not UTF-8").await;
    fs::write(rules.join("b.yaml"), "six").unwrap();
    seen.no_problem().await;
    seen.become_lines(&["199", "six", "far"]).await;
}

#[tokio::test]
async fn what_a_memory_mapping_writes_is_found() {
    let (_dir, rules) = folder();
    let file = rules.join("a.yaml");
    fs::write(&file, "one").unwrap();
    let mut seen = Rules::follow(&rules);
    tokio::time::sleep(SETTLED).await;
    let open = fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    // SAFETY: a private mapping of a file of this length, which is unmapped below.
    unsafe {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let at = libc::mmap(
            std::ptr::null_mut(),
            3,
            protection,
            flags,
            std::os::fd::AsRawFd::as_raw_fd(&open),
            0,
        );
        assert!(at != libc::MAP_FAILED);
        at.cast::<[u8; 3]>().write(*b"two");
        libc::munmap(at, 3);
    }
    let found = seen.feed.current.wait_for(|l| l.iter().eq(&["two"]));
    timeout(Duration::from_secs(30), found)
        .await
        .expect("found by reading everything once in a while")
        .unwrap();
}
