//! The rules in force when some files or objects are invalid.

use super::*;
use crate::sources::SourceFile;
use crate::sources::files::Unreadable;
use crate::sources::store::Store;
use egress_core::istio::{Object, Spec};
use egress_core::policy::state::{Settings, State};
use std::sync::Arc;

pub(in crate::sources) fn file(name: &str, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile::new(name.into(), text.into()))
}

pub(in crate::sources) fn reading(files: &[(&str, &str)]) -> Reading {
    Reading {
        files: files.iter().map(|(name, text)| file(name, text)).collect(),
        ..Reading::default()
    }
}

pub(in crate::sources) fn entry(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec:\n  \
         hosts: [{host}]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: DNS\n"
    )
}

/// Hosts of the entries in force, and names of the stand-ins.
fn in_force(rules: &RuleSet) -> Vec<String> {
    let shown = |o: &Arc<Object>| match (&o.spec, &o.denied) {
        (_, Some(_)) => format!("denied {}", o.meta.name),
        (Some(Spec::ServiceEntry(entry)), None) => entry.hosts.join(" "),
        _ => o.meta.name.clone(),
    };
    rules.objects.iter().map(shown).collect()
}

#[test]
fn a_file_that_did_not_change_keeps_its_objects() {
    let mut loader = Loader::default();
    let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
    let first = loader.load(&reading(&[("a.yaml", &a), ("b.yaml", &b)]));
    let edited = b.replace("80", "81");
    let second = loader.load(&reading(&[("a.yaml", &a), ("b.yaml", &edited)]));
    let (first, second) = (first.objects.to_vec(), second.objects.to_vec());
    assert!(Arc::ptr_eq(&first[0], &second[0]));
    assert!(!Arc::ptr_eq(&first[1], &second[1]));
}

#[test]
fn an_object_that_did_not_change_in_its_file_is_the_same_one() {
    let mut loader = Loader::default();
    let (a, b, c) = (
        entry("a", "a.example"),
        entry("b", "b.example"),
        entry("c", "c.example"),
    );
    let all = |texts: &[&str]| reading(&[("r.yaml", &texts.concat())]);
    let first = loader.load(&all(&[&a, &b, &c])).objects;
    let second = loader.load(&all(&[&a, &b.replace("80", "81"), &c])).objects;
    let changed = second.since(&first);
    assert_eq!((changed.added.len(), changed.gone.len()), (1, 1));
    // Its line changed, which messages and `explain` show.
    let third = loader
        .load(&all(&["# moved\n", &a, &b.replace("80", "81"), &c]))
        .objects;
    assert_eq!(third.since(&second).added.len(), 3);
}

#[test]
fn an_invalid_object_is_left_out_and_the_others_apply() {
    let bad = entry("bad", "bad.example").replace("resolution", "resolutoin");
    let text = entry("a", "a.example") + &bad + &entry("b", "b.example");
    let rules = compile(&reading(&[("r.yaml", &text)]));
    assert_eq!(in_force(&rules), ["a.example", "b.example"]);
    assert_eq!(rules.problems.len(), 1);
    let problem = &rules.problems[0];
    assert!(
        problem.starts_with("r.yaml:16: spec.resolutoin: "),
        "{problem}"
    );
    assert!(problem.ends_with("it is left out"), "{problem}");
}

#[test]
fn the_last_good_version_of_an_invalid_object_stays_and_its_mended_one_applies() {
    let mut loader = Loader::default();
    let (a, b) = (entry("a", "a.example"), entry("b", "b.example"));
    loader.load(&reading(&[("a.yaml", &a), ("b.yaml", &b)]));
    let bad = entry("a", "new.example").replace("DNS", "dns");
    let rules = loader.load(&reading(&[
        ("a.yaml", &bad),
        ("b.yaml", &entry("b", "c.example")),
    ]));
    assert_eq!(in_force(&rules), ["a.example", "c.example"]);
    assert!(
        rules.problems[0].ends_with("its last good version stays in force"),
        "{:?}",
        rules.problems
    );
    let rules = loader.load(&reading(&[("a.yaml", &entry("a", "new.example"))]));
    assert_eq!(
        in_force(&rules),
        ["new.example"],
        "and b went with its file"
    );
    assert!(rules.problems.is_empty(), "{:?}", rules.problems);
}

#[test]
fn what_cannot_be_read_keeps_the_objects_that_stood_in_it() {
    let both = entry("a", "a.example") + &entry("b", "b.example");
    for broken in [
        "---\nkind: [\n",
        "---\nkind: VirtualServices\napiVersion: networking.istio.io/v1\n",
        "---\nmetadata: {}\n",
    ] {
        let mut loader = Loader::default();
        loader.load(&reading(&[
            ("r.yaml", &both),
            ("s.yaml", &entry("s", "s.example")),
        ]));
        let text = entry("a", "new.example") + broken;
        let rules = loader.load(&reading(&[("r.yaml", &text)]));
        assert_eq!(in_force(&rules), ["new.example", "b.example"], "{broken}");
        assert!(
            rules.problems[0].starts_with("r.yaml:"),
            "{:?}",
            rules.problems
        );
    }
    for failed in ["rules", "rules/r.yaml"] {
        let mut loader = Loader::default();
        loader.load(&reading(&[
            ("rules/r.yaml", &both),
            ("s.yaml", &entry("s", "s.example")),
        ]));
        let unreadable = Reading {
            failed: vec![(failed.into(), Unreadable::System(libc::EACCES))],
            ..Reading::default()
        };
        let rules = loader.load(&unreadable);
        assert_eq!(in_force(&rules), ["a.example", "b.example"], "{failed}");
        assert!(rules.problems[0].contains("Permission denied"));
    }
}

#[test]
fn an_invalid_object_that_narrows_closes_what_it_is_about() {
    let open = entry("a", "a.example");
    for (kind, spec) in [
        (
            "VirtualService",
            "{hosts: [a.example], http: [{macth: [{uri: {prefix: /public}}], route: [{destination: {host: a.example}}]}]}",
        ),
        (
            "VirtualService",
            "{hots: [a.example], http: [{route: [{destination: {host: a.example}}]}]}",
        ),
        (
            "VirtualService",
            "{hosts: [a.example], http: [{timeout: 0s, route: [{destination: {host: a.example}}]}]}",
        ),
        (
            "DestinationRule",
            "{host: a.example, trafficPolicy: {tsl: {mode: SIMPLE}}}",
        ),
        ("Sidecar", "{egress: [{host: ['./b.example']}]}"),
    ] {
        let text = format!(
            "{open}---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: own}}\nspec: {spec}\n"
        );
        let rules = compile(&reading(&[("r.yaml", &text)]));
        assert_eq!(in_force(&rules), ["a.example", "denied own"], "{spec}");
        assert!(
            rules.problems[0].ends_with("what it is about serves nothing"),
            "{:?}",
            rules.problems
        );
        let mut state = State::new(Settings::default());
        state.handle_rules(std::time::Instant::now(), &rules.objects.to_vec());
        let question =
            egress_core::policy::explain::Question::parse("http://a.example/admin").unwrap();
        let told = state.explain(egress_ebpf::abi::DEFAULT_POLICY, &question);
        assert!(!told.allowed(), "{spec}: {told:?}");
    }
}

#[test]
fn an_object_in_two_places_applies_only_if_they_are_the_same() {
    let (a, copy) = (entry("a", "a.example"), entry("a", "b.example"));
    let rules = compile(&reading(&[("a.yaml", &a), ("z.yaml", &copy)]));
    assert_eq!(in_force(&rules), [""; 0]);
    assert_eq!(rules.problems.len(), 2, "{:?}", rules.problems);
    for (problem, file) in rules.problems.iter().zip(["a.yaml:2: ", "z.yaml:2: "]) {
        assert!(
            problem.starts_with(file) && problem.contains("a.yaml:2, z.yaml:2"),
            "{problem}"
        );
    }
    let rules = compile(&reading(&[("a.yaml", &a), ("z.yaml", &a)]));
    assert_eq!(in_force(&rules), ["a.example"]);
    assert!(rules.problems.is_empty());
    assert!(
        rules.notes[0].contains("a.yaml:2, z.yaml:2"),
        "{:?}",
        rules.notes
    );
    let other = a.replace("{name: a}", "{name: a, namespace: other}");
    let rules = compile(&reading(&[("a.yaml", &a), ("z.yaml", &other)]));
    assert_eq!(rules.objects.len(), 2);
}

#[test]
fn documents_of_other_kinds_are_skipped_whatever_is_wrong_inside_them() {
    let good = entry("a", "a.example");
    for other in [
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, labels: {a: b, a: c}}\n",
        "apiVersion: v1\nkind: Service\nspec:\n\tports: []\n",
        "{{- if .Values.service }}\napiVersion: v1\nkind: Service\nmetadata:\n  name: {{ .Release.Name }}\n{{- end }}\n",
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nspec: {a: b, a: c}\n",
    ] {
        let text = format!("---\n{other}{good}");
        let rules = compile(&reading(&[("a.yaml", &text)]));
        assert_eq!(in_force(&rules), ["a.example"], "{other}");
        assert!(rules.problems.is_empty(), "{other}: {:?}", rules.problems);
        assert!(rules.notes[0].contains("skipped"), "{:?}", rules.notes);
    }
}

#[test]
fn what_is_in_force_outlives_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("agent.rules");
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.istio.io/v1\n  kind: ServiceEntry\n  metadata: {name: l}\n  spec: {hosts: [l.example], resolution: DNS}\n";
    let text = entry("a", "a.example") + &entry("b", "b.example") + "---\n" + list;
    let mut loader = Loader::default();
    let rules = loader.load(&reading(&[("r.yaml", &text)]));
    Store::new(store.clone()).keep(&rules.objects).unwrap();
    // The next agent finds an invalid object and an unreadable file.
    let previous = crate::sources::store::read(&store).objects(|_, _, _| None);
    assert_eq!(previous.len(), 3);
    let lines: Vec<_> = previous.iter().map(|o| o.line).collect();
    assert_eq!(lines, [2, 10, 21], "as in the file");
    let mut next = Loader::after(previous);
    let bad = entry("a", "new.example").replace("DNS", "dns");
    let rules = next.load(&reading(&[("r.yaml", &bad)]));
    assert_eq!(
        in_force(&rules),
        ["a.example"],
        "what is gone from the file is gone"
    );
    let mut next = Loader::restoring(crate::sources::store::read(&store));
    let gone = Reading {
        failed: vec![("r.yaml".into(), Unreadable::System(libc::ENOENT))],
        ..Reading::default()
    };
    assert_eq!(
        in_force(&next.load(&gone)),
        ["a.example", "b.example", "l.example"]
    );
    // Documents that did not change are decoded once, and are last good versions too.
    let mut next = Loader::restoring(crate::sources::store::read(&store));
    let rules = next.load(&reading(&[("r.yaml", &text)]));
    let place = |o: &Arc<Object>| Arc::as_ptr(o).addr();
    let places: Vec<_> = rules.objects.iter().map(place).collect();
    assert_eq!(rules.previous.iter().map(place).collect::<Vec<_>>(), places);
    let bad = text.replacen("DNS", "dns", 1);
    let rules = next.load(&reading(&[("r.yaml", &bad)]));
    assert_eq!(in_force(&rules), ["a.example", "b.example", "l.example"]);
}

const OBJECT: &str = "kubernetes:serviceentry/default/a";

#[test]
fn a_rule_file_outweighs_the_api_whatever_is_wrong_with_the_file() {
    let mut loader = Loader::default();
    let (own, of_api) = (entry("a", "file.example"), entry("a", "api.example"));
    let both = |own: &str| reading(&[("/r/a.yaml", own), (OBJECT, &of_api)]);
    let rules = loader.load(&both(&own));
    assert_eq!(in_force(&rules), ["file.example"]);
    assert_eq!(rules.problems.len(), 0);
    let note = "kubernetes:serviceentry/default/a: a rule file has ServiceEntry default/a too; the one in /r/a.yaml applies";
    assert_eq!(&*rules.notes[0], note);
    // The document is invalid, the file is no YAML, and it cannot be read.
    let rules = loader.load(&both(&own.replace("resolution", "resolutoin")));
    assert_eq!(in_force(&rules), ["file.example"]);
    let rules = loader.load(&both("kind: ["));
    assert_eq!(in_force(&rules), ["file.example"]);
    assert!(
        rules.notes[0].contains("its last good version, of /r/a.yaml, stays in force"),
        "{:?}",
        rules.notes
    );
    let unreadable = Reading {
        failed: vec![("/r".into(), Unreadable::Changing)],
        ..reading(&[(OBJECT, &of_api)])
    };
    assert_eq!(in_force(&loader.load(&unreadable)), ["file.example"]);
    // The file is there again and has something else.
    let rules = loader.load(&both(&entry("b", "b.example")));
    assert_eq!(in_force(&rules), ["b.example", "api.example"]);
    assert_eq!(rules.notes.len(), 0, "{:?}", rules.notes);
    let rules = loader.load(&both(&own));
    assert_eq!(in_force(&rules), ["file.example"]);
    let rules = loader.load(&reading(&[(OBJECT, &of_api)]));
    assert_eq!(in_force(&rules), ["api.example"]);
}

#[test]
fn the_last_good_objects_of_the_api_stay_until_it_gives_a_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.rules");
    let of_api = entry("a", "api.example");
    let rules = Loader::default().load(&reading(&[
        (OBJECT, &of_api),
        ("/r/b.yaml", &entry("b", "b.example")),
    ]));
    Store::new(path.clone()).keep(&rules.objects).unwrap();
    let mut loader = Loader::restoring(store::read(&path));
    let away = Reading {
        failed: vec![
            ("kubernetes:serviceentry".into(), Unreadable::NotListed),
            ("kubernetes:sidecar".into(), Unreadable::NotListed),
        ],
        ..Reading::default()
    };
    let rules = loader.load(&away);
    assert_eq!(in_force(&rules), ["api.example"], "the file is gone");
    let problem = "kubernetes:serviceentry: the Kubernetes API server has not listed it since the agent's start; \
                   the last good versions of its objects stay in force";
    assert_eq!(
        rules.problems.iter().map(|p| &**p).collect::<Vec<_>>(),
        [problem]
    );
    let rules = loader.load(&reading(&[(
        "kubernetes:serviceentry/default/c",
        &entry("c", "c.example"),
    )]));
    assert_eq!(
        (in_force(&rules), rules.problems.len()),
        (vec!["c.example".to_owned()], 0)
    );
}

#[test]
fn a_message_about_an_object_of_the_api_has_no_line() {
    let bad = entry("a", "a.example").replace("resolution", "resolutoin");
    let rules = compile(&reading(&[(OBJECT, &bad)]));
    let problem = &rules.problems[0];
    assert!(
        problem.starts_with(&format!("{OBJECT}: spec.resolutoin: ")),
        "{problem}"
    );
}
