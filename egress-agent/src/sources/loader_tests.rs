//! A loader that checks only changed files gives the same result as one that checks all files.

use super::*;
use crate::sources::files::{SourceFile, Unreadable};
use crate::sources::rules::tests::{entry, file};
use proptest::prelude::*;
use std::path::PathBuf;

const FILES: [&str; 3] = ["rules/a.yaml", "rules/b.yaml", "z.yaml"];

/// Possible content of a file: objects of three names, good, changed, invalid with and without a stand-in, and text
/// that is not a document.
fn text(pieces: &[u8]) -> String {
    let piece = |n: &u8| {
        let name = ["a", "b", "c"][usize::from(n % 3)];
        let route = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}.example], http: [{{route: [{{destination: {{host: {name}.example}}}}]}}]}}\n"
        );
        match n / 3 {
            0 => entry(name, "one.example"),
            1 => entry(name, "two.example"),
            2 => entry(name, "bad.example").replace("resolution", "resolutoin"),
            3 => route,
            4 => route.replace("route:", "rout:"),
            _ => "---\nkind: [\n".to_owned(),
        }
    };
    pieces.iter().map(piece).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Remove(usize),
    Fail(usize),
    Mend,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..3, prop::collection::vec(0_u8..18, 0..5)).prop_map(|(f, p)| Step::Write(f, p)),
        1 => (0_usize..3).prop_map(Step::Remove),
        1 => (0_usize..4).prop_map(Step::Fail),
        1 => Just(Step::Mend),
    ]
}

/// Objects by place and content, and the lines. The loader under test keeps its state over all steps, and must agree
/// with a loader that has only the last good versions.
fn seen(rules: &RuleSet) -> String {
    let objects: Vec<_> = rules.objects.iter().map(|o| shown(o)).collect();
    format!("{objects:#?} {:#?} {:#?}", rules.problems, rules.notes)
}

fn shown(o: &Object) -> String {
    format!("{o} {}:{} {:?} {:?}", o.source, o.line, o.denied, o.spec)
}

/// Less than two objects, so that a part is one object.
const PART: usize = 200;

/// A file with one entry for each name.
fn named(path: &str, names: &[&str]) -> Arc<SourceFile> {
    let text: Vec<_> = names
        .iter()
        .map(|name| entry(name, &format!("{name}.example")))
        .collect();
    file(path, &text.concat())
}

fn reading(files: &[&Arc<SourceFile>]) -> Reading {
    Reading {
        files: files.iter().map(|file| Arc::clone(file)).collect(),
        ..Reading::default()
    }
}

fn hosts(rules: &RuleSet) -> String {
    let names = rules.objects.iter().map(|o| o.meta.name.as_str());
    names.collect::<Vec<_>>().join(" ")
}

/// A loader with an object, and one of three new ones in force.
fn underway() -> (Loader, Arc<SourceFile>, Arc<SourceFile>) {
    let (small, large) = (named("a.yaml", &["a"]), named("b.yaml", &["b", "c", "d"]));
    let mut loader = Loader::default();
    loader.load(&reading(&[&small]));
    let files = reading(&[&small, &large]);
    // It is judged as a whole before the first part is in force.
    let rules = (0..9).find_map(|_| loader.load_some(&files, PART)).unwrap();
    assert_eq!((hosts(&rules).as_str(), loader.waits()), ("a b", true));
    (loader, small, large)
}

#[test]
fn a_small_change_overtakes_new_names() {
    let (mut loader, small, large) = underway();
    let other = named("z.yaml", &["z"]);
    let rules = loader
        .load_some(&reading(&[&small, &large, &other]), PART)
        .unwrap();
    assert_eq!(hosts(&rules), "a b z");
    // What is removed is removed at once.
    let rules = loader.load_some(&reading(&[&large, &other]), PART).unwrap();
    assert_eq!(hosts(&rules), "b z");
    let rules = loader.load_some(&reading(&[&large, &other]), PART).unwrap();
    assert_eq!((hosts(&rules).as_str(), loader.waits()), ("b c z", true));
    let rules = loader.load_some(&reading(&[&large, &other]), PART).unwrap();
    assert_eq!((hosts(&rules).as_str(), loader.waits()), ("b c d z", false));
}

#[test]
fn a_change_whose_order_matters_overtakes_nothing() {
    let text = |of: &Arc<SourceFile>| of.text.clone();
    // It narrows, it is about a name that waits, in any letters, or it may contain what waits.
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [v.example], http: [{route: [{destination: {host: d.example}}]}]}\n";
    let others = [
        route.to_owned(),
        text(&named("", &["d2"])).replace("d2.example", "D.Example"),
        text(&named("", &["e"])).replace("e.example", "'*.example'"),
        text(&named("", &["e"])).replace("resolution", "resolutoin"),
    ];
    for other in others {
        let (mut loader, small, large) = underway();
        let file = file("z.yaml", &other);
        let rules = loader
            .load_some(&reading(&[&small, &large, &file]), PART)
            .unwrap();
        assert!(
            hosts(&rules).starts_with("a b c d"),
            "{}: {other}",
            hosts(&rules)
        );
        assert!(!loader.waits());
    }
}

#[test]
fn a_file_that_moves_or_narrows_is_loaded_as_a_whole() {
    let (small, large) = (named("a.yaml", &["a"]), named("b.yaml", &["a", "c", "d"]));
    let mut loader = Loader::default();
    loader.load(&reading(&[&small]));
    let rules = loader.load_some(&reading(&[&large]), PART).unwrap();
    assert_eq!(
        hosts(&rules),
        "a c d",
        "no listed name is denied in between"
    );
    let narrowing = text(&[0, 1, 2, 9]);
    let mut loader = Loader::default();
    let rules = loader.load_some(&reading(&[&file("b.yaml", &narrowing)]), PART);
    assert!(rules.is_some() && !loader.waits());
    // An object that is given twice is never in force.
    let twice = text(&[0, 1, 4, 1]);
    let mut loader = Loader::default();
    let files = reading(&[&file("b.yaml", &twice)]);
    let rules = (0..9).find_map(|_| loader.load_some(&files, PART)).unwrap();
    assert_eq!((hosts(&rules).as_str(), loader.waits()), ("a", false));
    // A long comment is no error.
    let comment = "# no object\n".repeat(PART);
    let mut loader = Loader::default();
    let files = reading(&[&file("b.yaml", &format!("{comment}---\n{}", large.text))]);
    let rules = (0..9).find_map(|_| loader.load_some(&files, PART)).unwrap();
    assert_eq!((hosts(&rules).as_str(), rules.problems.len()), ("a", 0));
    // A waiting file that changes begins again.
    let (mut loader, small, _) = underway();
    let rules = loader
        .load_some(&reading(&[&small, &named("b.yaml", &["c"])]), PART)
        .unwrap();
    assert_eq!((hosts(&rules).as_str(), loader.waits()), ("a c", false));
}

proptest! {
    #[test]
    fn a_change_leads_to_what_a_look_at_everything_does(
        steps in prop::collection::vec(step(), 1..15),
    ) {
        let mut texts: [Option<String>; 3] = [None, None, None];
        let mut failed = Vec::new();
        let mut loader = Loader::default();
        let mut in_parts = Loader::default();
        let mut partly = String::new();
        let mut good: Vec<Arc<Object>> = Vec::new();
        let mut before = Objects::default();
        for step in steps {
            match &step {
                Step::Write(file, pieces) => texts[*file] = Some(text(pieces)),
                Step::Remove(file) => texts[*file] = None,
                Step::Fail(n) => failed.push((["rules", FILES[0], FILES[1], FILES[2]][*n].into(), Unreadable::Changing)),
                Step::Mend => failed.clear(),
            }
            let unreadable = |name: &str| failed.iter().any(|(f, _): &(PathBuf, _)| Path::new(name).starts_with(f));
            let files = FILES.iter().zip(&texts);
            let files = files.filter(|(name, _)| !unreadable(name));
            let reading = Reading {
                files: files.filter_map(|(name, text)| Some(file(name, text.as_ref()?))).collect(),
                failed: failed.clone(),
                ..Reading::default()
            };
            let rules = loader.load(&reading);
            // The model knows the last good versions and nothing else.
            let mut fresh = Loader::after(good.clone());
            let whole = fresh.load(&reading);
            prop_assert_eq!(seen(&rules), seen(&whole), "after {:?}", step);
            // The parts have objects of the whole only, and become the whole.
            loop {
                if let Some(part) = in_parts.load_some(&reading, PART) {
                    // A file that waits may have another copy of an object, which will be in force in its place.
                    let meant = |o: &Object| format!("{o} {:?} {:?}", o.denied, o.spec);
                    let whole: BTreeSet<_> = whole.objects.iter().map(|o| meant(o)).collect();
                    let part_of = part.objects.iter().all(|o| whole.contains(&meant(o)));
                    prop_assert!(part_of, "after {:?}: {:?}, {:?}", step, part.objects, whole);
                    partly = seen(&part);
                }
                if !in_parts.waits() {
                    break;
                }
            }
            prop_assert_eq!(&partly, &seen(&whole), "in parts, after {:?}", step);
            let difference = rules.objects.since(&before);
            let mut held = before.to_vec();
            held.retain(|o| !difference.gone.iter().any(|gone| Arc::ptr_eq(o, gone)));
            held.extend(difference.added);
            let place = |o: &Arc<Object>| Arc::as_ptr(o).addr();
            let sorted = |list: &[Arc<Object>]| {
                let mut places: Vec<_> = list.iter().map(place).collect();
                places.sort_unstable();
                places
            };
            prop_assert_eq!(sorted(&held), sorted(&rules.objects.to_vec()));
            before = rules.objects;
            good = whole.objects.iter().filter(|o| o.denied.is_none()).cloned().collect();
        }
    }
}
