//! If a write is cut off, the next agent has the rules from before or after the change.

use super::*;
use crate::sources::rules::compile;
use crate::sources::rules::tests::{entry, reading};
use egress_core::istio::Spec;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

const LIST: &str = "apiVersion: v1\nkind: List\nitems:\n\
    - apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  metadata: {name: l}\n  spec: {hosts: [l.example], resolution: DNS}\n\
    - apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  metadata: {name: m}\n  spec: {hosts: [m.example], resolution: DNS}\n";

/// The objects of a file, none of which was decoded before.
fn decoded(path: &Path) -> Vec<Arc<Object>> {
    read(path).objects(|_, _, _| None)
}

/// Hosts of the entries, sorted.
fn hosts<'a>(objects: impl Iterator<Item = &'a Arc<Object>>) -> Vec<String> {
    let entries = objects.filter_map(|o| match &o.spec {
        Some(Spec::ServiceEntry(entry)) => Some(entry.hosts.join(" ")),
        _ => None,
    });
    let mut hosts: Vec<_> = entries.collect();
    hosts.sort();
    hosts
}

/// An entry with an annotation.
fn annotated(name: &str, host: &str, value: &str) -> String {
    let meta = format!("{{name: {name}");
    entry(name, host).replace(&meta, &format!("{meta}, annotations: {{x: {value}}}"))
}

fn put(path: &Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600);
    file.open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_file_that_is_cut_off_or_damaged_anywhere_has_the_rules_of_a_whole_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.rules");
    let mut store = Store::new(path.clone());
    // A character of several bytes, so that a cut may be inside one.
    let odd = |host: &str| annotated("a", host, "\u{00fc}");
    let sets = [
        vec![
            ("a.yaml", odd("one.example")),
            ("list.yaml", LIST.to_owned()),
        ],
        vec![
            ("a.yaml", odd("two.example")),
            ("list.yaml", LIST.to_owned()),
        ],
        vec![("list.yaml", LIST.replace("m.example", "n.example"))],
        vec![
            ("a.yaml", odd("two.example")),
            ("b.yaml", entry("b", "b.example")),
        ],
    ];
    let mut states = vec![(0, Vec::new())];
    let mut loader = crate::sources::loader::Loader::default();
    for set in &sets {
        let files: Vec<_> = set
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        let objects = loader.load(&reading(&files)).objects;
        store.keep(&objects).unwrap();
        let len = fs::metadata(&path).unwrap().len() as usize;
        states.push((len, hosts(objects.iter())));
    }
    assert!(
        states.is_sorted_by(|a, b| a.0 < b.0),
        "appended: {states:?}"
    );
    let whole = fs::read(&path).unwrap();
    let other = dir.path().join("cut.rules");
    let after = |len: usize| &states.iter().rfind(|(l, _)| *l <= len).unwrap().1;
    for cut in 0..=whole.len() {
        put(&other, &whole[..cut]);
        assert_eq!(hosts(decoded(&other).iter()), *after(cut), "cut at {cut}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        put(&other, &damaged);
        assert_eq!(hosts(decoded(&other).iter()), *after(at), "damaged at {at}");
    }
}

#[test]
fn the_file_does_not_grow_with_the_number_of_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.rules");
    let mut store = Store::new(path.clone());
    let long = "x".repeat(20_000);
    let mut anew = 0;
    let mut inode = 0;
    for n in 0..300 {
        let host = format!("h{n}.example");
        let text = annotated("a", &host, &long);
        store
            .keep(&compile(&reading(&[("a.yaml", &text)])).objects)
            .unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.len() as usize <= 2 * SLACK, "{}", meta.len());
        anew += usize::from(std::mem::replace(&mut inode, meta.ino()) != meta.ino());
        if n % 50 == 0 {
            assert_eq!(hosts(decoded(&path).iter()), [host]);
        }
    }
    assert!((2..20).contains(&anew), "written anew {anew} times");
}

#[test]
fn a_file_that_another_replaced_or_removed_is_written_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.rules");
    let mut store = Store::new(path.clone());
    let objects = |host: &str| {
        let (a, b) = (entry("a", host), entry("b", "b.example"));
        compile(&reading(&[("a.yaml", &a), ("b.yaml", &b)])).objects
    };
    store.keep(&objects("a.example")).unwrap();
    for (n, spoil) in [
        (|path: &Path| fs::remove_file(path).unwrap()) as fn(&Path),
        |path| put(path, b""),
        |path| {
            let whole = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            put(path, &whole);
        },
    ]
    .into_iter()
    .enumerate()
    {
        spoil(&path);
        let host = format!("a{n}.example");
        store.keep(&objects(&host)).unwrap();
        assert_eq!(hosts(decoded(&path).iter()), [&*host, "b.example"]);
    }
    // A failed write leaves nothing that a later one would continue.
    let aside = dir.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(store.keep(&objects("failed.example")).is_err());
    fs::remove_dir(&path).unwrap();
    store.keep(&objects("last.example")).unwrap();
    assert_eq!(hosts(decoded(&path).iter()), ["b.example", "last.example"]);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o620)).unwrap();
    assert!(read(&path).is_empty(), "another may have written it");
}

const CHILD: &str = "EGRESS_TEST_RULES_FILE";

/// The process that [`a_killed_writer_leaves_one_set_whole`] kills. Run alone, it tests nothing.
#[test]
fn writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut store = Store::new(path.into());
    let long = "x".repeat(30_000);
    for n in 0_u64.. {
        let text = |name: &str| annotated(name, &format!("h{n}.example"), &long);
        let (a, b, c) = (text("a"), text("b"), text("c"));
        let files = [("a.yaml", &*a), ("b.yaml", &*b), ("c.yaml", &*c)];
        store.keep(&compile(&reading(&files)).objects).unwrap();
        println!("kept {n}");
    }
}

#[test]
fn a_killed_writer_leaves_one_set_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..40_u64 {
        let path = dir.path().join(format!("{round}.rules"));
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "sources::store::tests::writes_until_it_is_killed";
        child
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, &path);
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let kept = |line: &String| {
            line.split_once("kept ")
                .and_then(|(_, n)| n.parse::<u64>().ok())
        };
        let mut acked = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|l| kept(&l))
            .unwrap();
        thread::sleep(Duration::from_micros(200 + round * 731 % 20_000));
        child.kill().unwrap();
        child.wait().unwrap();
        acked = lines
            .map_while(Result::ok)
            .filter_map(|l| kept(&l))
            .last()
            .unwrap_or(acked);
        let found = hosts(decoded(&path).iter());
        let is = |n: u64| vec![format!("h{n}.example"); 3];
        assert!(
            found == is(acked) || found == is(acked + 1),
            "round {round}: {found:?} after {acked}"
        );
        last += acked;
    }
    println!("{last} sets written");
}
