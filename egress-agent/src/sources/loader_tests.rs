//! A loader that checks only changed files gives the same result as one that checks all files.

use super::*;
use crate::sources::files::Unreadable;
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
    let objects = rules.objects.iter();
    let objects =
        objects.map(|o| format!("{o} {}:{} {:?} {:?}", o.source, o.line, o.denied, o.spec));
    let objects: Vec<_> = objects.collect();
    format!("{objects:#?} {:#?} {:#?}", rules.problems, rules.notes)
}

proptest! {
    #[test]
    fn a_change_leads_to_what_a_look_at_everything_does(
        steps in prop::collection::vec(step(), 1..15),
    ) {
        let mut texts: [Option<String>; 3] = [None, None, None];
        let mut failed = Vec::new();
        let mut loader = Loader::default();
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
                ignored: Vec::new(),
            };
            let rules = loader.load(&reading);
            // The model knows the last good versions and nothing else.
            let mut fresh = Loader::after(good.clone());
            let whole = fresh.load(&reading);
            prop_assert_eq!(seen(&rules), seen(&whole), "after {:?}", step);
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
