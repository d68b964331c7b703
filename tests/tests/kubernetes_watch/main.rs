//! The follower of objects against an API server that lists, watches, disappears and answers nonsense.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod away;
mod following;
mod kubectl;
mod refusals;

use egress_agent::kubernetes::{Freshness, Selection};
use egress_tests::api::{Asked, FakeApi, Fault, Resource, Verb};
use egress_tests::wait_until;
use following::{Following, PODS, SERVICE_ENTRIES, selection};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// A follower that is still away must have tried again by then.
const LATER: Duration = Duration::from_secs(40);

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"nodeName": node},
    })
}

fn put(api: &FakeApi, name: &str) -> Value {
    api.put("pods", pod(name, "here")).unwrap()
}

fn watches(api: &FakeApi) {
    wait_until("a watch runs", SOON, || {
        (api.watches("pods") > 0).then_some(())
    })
    .unwrap();
}

/// A follower of the pods of a server that has the pod `a`.
fn following(api: &FakeApi) -> Following {
    put(api, "a");
    let mut following = Following::start(api, selection(PODS));
    following.until("the pod is known", SOON, |f| f.synced == 1);
    watches(api);
    following
}

#[test]
fn a_list_in_pages_is_followed_by_changes() {
    let api = FakeApi::start().unwrap();
    for n in 0..700 {
        put(&api, &format!("pod-{n:03}"));
    }
    api.put("pods", pod("elsewhere", "there")).unwrap();
    let here = Selection {
        fields: Some("spec.nodeName=here".to_owned()),
        freshness: Freshness::Latest,
        ..selection(PODS)
    };
    let mut following = Following::start(&api, here);
    following.until("the list is complete", SOON, |f| f.synced == 1);
    assert_eq!(following.objects.len(), 700);
    assert_eq!(api.requests(Verb::List, "pods"), 3, "pages of 250");
    assert_eq!(api.lists_of_cache("pods"), 0);
    put(&api, "late");
    following.until("a new pod", SOON, |f| f.objects.contains_key("late"));
    let late = following.objects["late"].clone();
    assert_eq!(
        (
            late.metadata.labels["app"].as_str(),
            late.metadata.generation
        ),
        ("late", 1)
    );
    api.delete("pods", "shop", "pod-000").unwrap();
    following.until("a deletion", SOON, |f| !f.objects.contains_key("pod-000"));
    // A pod of another node, and one that leaves the selector.
    api.put("pods", pod("late", "there")).unwrap();
    following.until("a pod that left", SOON, |f| !f.objects.contains_key("late"));
    assert_eq!(following.objects.len(), 699);
    following.until("the count", SOON, |f| f.standing().objects == 699);
    assert_eq!((following.synced, api.requests(Verb::List, "pods")), (1, 3));
}

/// What no answer may hold, without being an object.
fn too_large() -> Fault {
    Fault::Body(" ".repeat(65 << 20))
}

#[test]
fn a_list_of_the_cache_is_one_answer_and_in_pages_if_that_is_too_large() {
    let api = FakeApi::start().unwrap();
    for n in 0..700 {
        put(&api, &format!("pod-{n:03}"));
    }
    let mut following = Following::start(&api, selection(PODS));
    following.until("the list is complete", SOON, |f| f.synced == 1);
    assert_eq!(following.objects.len(), 700);
    assert_eq!(api.requests(Verb::List, "pods"), 1);
    assert_eq!(api.lists_of_cache("pods"), 1);
    drop(following);
    wait_until("its watch has ended", SOON, || {
        (api.watches("pods") == 0).then_some(())
    })
    .unwrap();
    api.fault(|asked| asked.is_of_cache().then(too_large));
    let mut following = Following::start(&api, selection(PODS));
    following.until("the pages are complete", LATER, |f| f.synced == 1);
    assert_eq!(following.objects.len(), 700);
    assert_eq!(api.requests(Verb::List, "pods"), 1 + 1 + 3);
    // The next list is not asked of the cache either.
    watches(&api);
    api.inject("pods", "nonsense\n");
    following.until("a second list", LATER, |f| f.synced == 2);
    assert_eq!(api.lists_of_cache("pods"), 2);
}

#[test]
fn a_broken_watch_goes_on_where_it_was_and_a_bookmark_moves_it() {
    let api = FakeApi::start().unwrap();
    let mut following = following(&api);
    // Versions grow by writes of other kinds, which only bookmarks tell of.
    for n in 0..5 {
        api.put("namespaces", json!({"metadata": {"name": format!("n{n}")}}))
            .unwrap();
    }
    api.bookmark();
    // A change after the bookmark proves that it was read.
    put(&api, "b");
    following.until("b", SOON, |f| f.objects.contains_key("b"));
    api.compact();
    api.cut();
    put(&api, "c");
    following.until("c", SOON, |f| f.objects.contains_key("c"));
    assert_eq!(
        api.requests(Verb::List, "pods"),
        1,
        "the position was not lost"
    );
}

#[test]
fn a_position_that_is_gone_leads_to_one_list_and_no_object_is_reported_twice() {
    let api = FakeApi::start().unwrap();
    let mut following = following(&api);
    put(&api, "b");
    following.until("b", SOON, |f| f.objects.len() == 2);
    api.fault(|_| Some(Fault::Cut));
    api.cut();
    api.delete("pods", "shop", "a").unwrap();
    put(&api, "c");
    api.compact();
    api.no_fault();
    following.until("a new list", LATER, |f| f.synced == 2);
    assert_eq!(following.names(), ["b", "c"]);
    assert_eq!(following.puts, 3, "b was known");
    assert_eq!(api.requests(Verb::List, "pods"), 2);
}

#[test]
fn a_page_that_is_gone_starts_the_list_again() {
    let api = FakeApi::start().unwrap();
    for n in 0..600 {
        put(&api, &format!("pod-{n:03}"));
    }
    let once = AtomicBool::new(true);
    api.fault(move |asked: &Asked| {
        let is_page = asked.query.contains_key("continue");
        (is_page && once.swap(false, Ordering::Relaxed)).then_some(Fault::Status(410, "Expired"))
    });
    let in_pages = Selection {
        freshness: Freshness::Latest,
        ..selection(PODS)
    };
    let mut following = Following::start(&api, in_pages);
    following.until("the list", SOON, |f| f.synced == 1);
    assert_eq!((following.objects.len(), following.puts), (600, 600));
    assert_eq!(api.requests(Verb::List, "pods"), 5);
}

#[test]
fn a_kind_may_be_installed_late_removed_and_served_in_another_version() {
    let api = FakeApi::start().unwrap();
    let mut following = Following::start(&api, selection(SERVICE_ENTRIES));
    following.until("not served", SOON, |f| f.not_served == 1);
    let asked = api.requests(Verb::List, "serviceentries");
    assert_eq!(asked, 3, "each version once");
    following.until("the problem", SOON, |f| f.problem().contains("404"));
    let mut resource = Resource::istio("ServiceEntry", "serviceentries");
    resource.versions = vec!["v1beta1".to_owned()];
    api.install(resource);
    let entry =
        json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"hosts": ["a.example"]}});
    api.put("serviceentries", entry).unwrap();
    following.until("installed", LATER, |f| {
        f.synced == 1 && f.objects.len() == 1
    });
    assert_eq!(following.objects["a"].spec["hosts"][0], "a.example");
    wait_until("a watch runs", SOON, || {
        (api.watches("serviceentries") > 0).then_some(())
    })
    .unwrap();
    api.uninstall("serviceentries");
    following.until("uninstalled", SOON, |f| f.objects.is_empty());
    following.until("not served", LATER, |f| f.not_served == 2);
    following.until("the count", SOON, |f| f.standing().objects == 0);
}

/// A kind may be uninstalled while the follower is away: then no deletion of its objects is seen.
#[test]
fn the_objects_of_a_kind_that_is_gone_for_some_time_are_gone() {
    let api = FakeApi::start().unwrap();
    let mut following = following(&api);
    api.fault(|_| Some(Fault::Status(404, "NotFound")));
    api.cut();
    following.until("not served", SOON, |f| f.not_served == 1);
    assert_eq!(following.names(), ["a"], "another server may be late");
    following.until("gone", LATER, |f| f.objects.is_empty());
    api.no_fault();
    following.until("served again", LATER, |f| f.names() == ["a"]);
}

#[test]
fn nonsense_changes_nothing_and_is_no_reason_to_spin() {
    let api = FakeApi::start().unwrap();
    let mut following = following(&api);
    let list = |items: Value, version: &str| {
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
            .to_string()
    };
    let lies = [
        String::new(),
        "<html>".to_owned(),
        "{}".to_owned(),
        list(json!([]), ""),
        list(json!([{"metadata": {"name": ""}}]), "1"),
        list(json!([{"metadata": {"name": "x", "labels": [1]}}]), "1"),
        list(json!("x"), "1"),
        json!({"metadata": {"resourceVersion": "1", "continue": "x"}, "items": []}).to_string(),
    ];
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    let count = lies.len();
    api.fault(move |_| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Body(lies[n % lies.len()].clone()))
    });
    // The watch is broken by a line that is no event; from then on lists and watches are nonsense.
    api.inject("pods", "{\"type\":\"ADDED\",\"object\":\n");
    following.until("it is noticed", SOON, |f| f.problem().contains("malformed"));
    let asked = told.load(Ordering::Relaxed);
    following.until("time passes", SOON, |f| {
        f.standing()
            .away
            .is_some_and(|(since, _)| since > Duration::from_secs(4))
    });
    let asked = told.load(Ordering::Relaxed) - asked;
    assert!((1..=count).contains(&asked), "{asked} requests in 4 s");
    assert_eq!(following.names(), ["a"]);
    api.no_fault();
    put(&api, "b");
    following.until("the truth", LATER, |f| f.names() == ["a", "b"]);
}

#[test]
fn a_watch_that_ends_at_once_is_tried_again_with_pauses() {
    let api = FakeApi::start().unwrap();
    put(&api, "a");
    let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "1001"}}});
    api.fault(move |asked| {
        let body = format!("{bookmark}\n");
        (asked.verb == Verb::Watch).then_some(Fault::Body(body))
    });
    let mut following = Following::start(&api, selection(PODS));
    following.until("it is noticed", SOON, |f| {
        f.problem().contains("ends each watch")
    });
    following.until("time passes", SOON, |f| {
        f.standing()
            .away
            .is_some_and(|(since, _)| since > Duration::from_secs(4))
    });
    let watches = api.requests(Verb::Watch, "pods");
    assert!((2..=6).contains(&watches), "{watches} watches in 4 s");
    assert_eq!(api.requests(Verb::List, "pods"), 1);
}

#[test]
fn a_history_that_is_always_gone_is_no_reason_to_spin() {
    let api = FakeApi::start().unwrap();
    put(&api, "a");
    api.fault(|asked| (asked.verb == Verb::Watch).then_some(Fault::Status(410, "Expired")));
    let mut following = Following::start(&api, selection(PODS));
    following.until("it is noticed", SOON, |f| f.problem().contains("410"));
    following.until("time passes", LATER, |f| f.synced == 4);
    let began = Instant::now();
    following.until("time passes", LATER, |f| f.synced == 5);
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn old_and_repeated_events_change_nothing() {
    let api = FakeApi::start().unwrap();
    let first = put(&api, "a");
    let mut following = Following::start(&api, selection(PODS));
    following.until("the list", SOON, |f| f.synced == 1);
    watches(&api);
    let mut newer = pod("a", "here");
    newer["metadata"]["labels"]["app"] = json!("newer");
    api.put("pods", newer).unwrap();
    following.until("the change", SOON, |f| {
        f.objects["a"].metadata.labels["app"] == "newer"
    });
    let event =
        |kind: &str, object: &Value| json!({"type": kind, "object": object}).to_string() + "\n";
    // The old version as a change and as a deletion, the position before it, and a former pod's deletion.
    let mut former = first.clone();
    former["metadata"]["uid"] = json!("former");
    former["metadata"]["resourceVersion"] = json!("999999");
    let bookmark = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}});
    for line in [
        event("MODIFIED", &first),
        event("DELETED", &first),
        event("BOOKMARK", &bookmark),
        event("DELETED", &former),
    ] {
        api.inject("pods", &line);
    }
    api.inject(
        "pods",
        &event("ADDED", &{
            let mut last = pod("last", "here");
            last["metadata"]["resourceVersion"] = json!("1999999");
            last
        }),
    );
    following.until("all were read", SOON, |f| f.objects.contains_key("last"));
    assert_eq!(following.objects["a"].metadata.labels["app"], "newer");
    assert_eq!(following.puts, 3);
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let api = FakeApi::start().unwrap();
    let mut following = following(&api);
    let first = following.objects["a"].metadata.uid.clone();
    api.fault(|_| Some(Fault::Cut));
    api.cut();
    api.delete("pods", "shop", "a").unwrap();
    put(&api, "a");
    api.compact();
    api.no_fault();
    // Its deletion was not seen: the list has the other uid. `Following` checks the removal's uid.
    let is_other = |f: &Following| f.objects.get("a").is_some_and(|a| a.metadata.uid != first);
    following.until("the other", LATER, is_other);
}
