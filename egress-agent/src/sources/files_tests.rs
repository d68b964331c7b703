//! What a look at the files finds, and when it takes a changed file.

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
fn a_change_that_nothing_reported_counts_when_two_looks_see_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = |n: &str| dir.path().join(n);
    let paths = [dir.path().to_owned()];
    fs::write(at("a.yaml"), "one").unwrap();
    fs::write(at("z.yaml"), "gone").unwrap();
    let mut reader = Reader::new(Duration::ZERO);
    let poll = Told {
        polled: true,
        ..Told::default()
    };
    let mut look = |told: &Told| {
        let reading = reader.read(&paths, told);
        let texts: Vec<_> = reading.files.iter().map(|f| f.text.clone()).collect();
        let failed: Vec<_> = reading.failed.iter().map(|(_, why)| *why).collect();
        (texts.join(" "), failed, reader.waits())
    };
    let read = |text: &str, waits| (text.to_owned(), Vec::new(), waits);
    assert_eq!(
        look(&Told::default()),
        read("one gone", false),
        "the first look"
    );
    for told in [&poll, &Told::default()] {
        fs::write(at("a.yaml"), "one").unwrap();
        fs::write(at("z.yaml"), "gone").unwrap();
        let _ = look(told);
        assert_eq!(look(told), read("one gone", false));
        fs::write(at("a.yaml"), "longer").unwrap();
        fs::remove_file(at("z.yaml")).unwrap();
        assert_eq!(look(told), read("one gone", true), "neither of the two");
        fs::write(at("a.yaml"), "the longest").unwrap();
        let changing = (String::new(), vec![Unreadable::Changing], true);
        assert_eq!(look(told), changing, "it changes at each look");
        assert_eq!(look(told), read("the longest", false));
        fs::write(at("b.yaml"), "new").unwrap();
        assert_eq!(look(told), read("the longest", true));
        assert_eq!(look(told), read("the longest new", false));
        fs::remove_file(at("b.yaml")).unwrap();
        assert_eq!(look(told), read("the longest", false));
    }
    // A file that replaces another is complete, if an event says that something was done.
    fs::write(at("c"), "replaced").unwrap();
    fs::rename(at("c"), at("a.yaml")).unwrap();
    assert_eq!(look(&Told::default()), read("replaced", false));
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
            failed[0].0 == path && failed[0].1.to_string().contains(part),
            "{failed:?}"
        );
    }
}
