//! Parts of a large change.

use super::*;
use std::fs;
use tokio::time::timeout;

/// A change must be seen within this, although nothing but inotify or a look tells of it.
const SOON: Duration = Duration::from_secs(5);

/// A change of one line is seen in between, and no part is compiled before the reader is done with the last one.
#[tokio::test]
async fn parts_of_a_change_come_one_by_one_and_other_changes_come_between() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    fs::create_dir(&rules).unwrap();
    fs::write(rules.join("a.yaml"), "one").unwrap();
    let mut rest = 0;
    let mut text = String::from("one");
    let calls: Arc<Mutex<Vec<String>>> = Arc::default();
    let called = Arc::clone(&calls);
    // Each change of the file needs three calls.
    let compile = move |reading: &Reading, _: usize| {
        let changed = std::mem::replace(&mut text, reading.files[0].text.clone()) != text;
        rest = if changed {
            2_usize
        } else {
            rest.saturating_sub(1)
        };
        let line = format!("{text} {rest}");
        called.lock().unwrap().push(line.clone());
        Compiled {
            set: Some(vec![line]),
            problem: None,
            waits: rest > 0,
        }
    };
    let sources = Sources {
        paths: vec![rules.clone()],
        api: None,
    };
    let (feed, run) = follow(&sources, compile, |_| {}).unwrap();
    let task = tokio::spawn(run);
    let Feed {
        mut current, taken, ..
    } = feed;
    let mut next = async |want: &str| {
        let found = current.wait_for(|lines| lines.iter().eq(&[want]));
        Arc::clone(&*timeout(SOON, found).await.expect(want).unwrap())
    };
    fs::write(rules.join("a.yaml"), "two").unwrap();
    let first = next("two 2").await;
    // Nobody took the first part, so the change comes before the second.
    fs::write(rules.join("a.yaml"), "three").unwrap();
    let second = next("three 2").await;
    taken.send_replace(first);
    taken.send_replace(second);
    let third = next("three 1").await;
    taken.send_replace(third);
    next("three 0").await;
    task.abort();
    let calls = calls.lock().unwrap();
    assert_eq!(*calls, ["one 0", "two 2", "three 2", "three 1", "three 0"]);
}

/// A reader that took the first part of a file would end the objects of the rest.
#[tokio::test]
async fn a_file_that_stays_open_is_read_when_it_is_closed() {
    use std::io::Write as _;
    let dir = tempfile::tempdir().unwrap();
    let (slow, other) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&slow, "whole").unwrap();
    fs::write(&other, "0").unwrap();
    // The text of the slow file, or why it cannot be read, and the text of the other.
    let compile = |reading: &Reading, _: usize| {
        let text = |path: &PathBuf| {
            let file = reading.files.iter().find(|file| file.path == *path);
            let failed = reading.failed.iter().find(|(of, _)| of == path);
            let failed = failed.map(|(_, why)| why.to_string());
            file.map(|file| file.text.clone()).or(failed)
        };
        let paths: Vec<_> = ["a.yaml", "b.yaml"]
            .iter()
            .filter_map(|name| {
                let all = reading.files.iter().map(|file| &file.path);
                let mut all = all.chain(reading.failed.iter().map(|(path, _)| path));
                all.find(|path| path.ends_with(name)).cloned()
            })
            .collect();
        Compiled {
            set: Some(paths.iter().filter_map(text).collect::<Vec<_>>()),
            problem: None,
            waits: false,
        }
    };
    let sources = Sources {
        paths: vec![dir.path().to_owned()],
        api: None,
    };
    let (feed, run) = follow(&sources, compile, |_| {}).unwrap();
    let task = tokio::spawn(run);
    let mut current = feed.current;
    let mut next = async |done: &dyn Fn(&[String]) -> bool| {
        let found = current.wait_for(|texts| texts.len() == 2 && done(texts));
        Vec::clone(&*timeout(SOON, found).await.expect("in time").unwrap())
    };
    next(&|texts| texts[0] == "whole").await;
    let mut writer = fs::File::create(&slow).unwrap();
    writer.write_all(b"first part").unwrap();
    // Each change of the other file is a look at both.
    for change in ["1", "2", "3"] {
        fs::write(&other, change).unwrap();
        let texts = next(&|texts| texts[1] == change).await;
        assert!(texts[0].contains("is being written"), "{texts:?}");
    }
    writer.write_all(b" and the rest").unwrap();
    drop(writer);
    next(&|texts| texts[0] == "first part and the rest").await;
    task.abort();
}
