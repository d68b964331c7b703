//! Tests of the text of `status`.

use super::*;
use crate::operate::status::FollowedStatus;

fn short(status: &Status) -> String {
    let verbose = false;
    Text { status, verbose }.to_string()
}

#[test]
fn readiness_is_the_first_line() {
    let mut status = Status::default();
    assert_eq!(short(&status), "NOT READY   not proven yet\n");
    status.ready = true;
    assert_eq!(short(&status), "ready       the gate is closed\n");
    status.rules.mode = Mode::Audit;
    assert!(short(&status).starts_with("ready       the gate is in place, audits"));
    status.workloads.push(WorkloadStatus {
        mode: Some(Mode::Enforce),
        ..WorkloadStatus::default()
    });
    assert!(short(&status).starts_with("ready       the gate is closed\n"));
    status.trouble = Some("an unlisted connect went through".into());
    assert!(short(&status).starts_with("NOT READY   an unlisted connect went through\n"));
}

#[test]
fn what_unfiltered_queries_leave_open_is_said() {
    let status = Status {
        running: true,
        ..Status::default()
    };
    let text = short(&status);
    let open = text.lines().find(|line| line.starts_with("open"));
    assert!(open.unwrap().contains("dns.intercept: auto"), "{text}");
}

#[test]
fn a_name_server_over_tls_opens_nothing_and_is_shown_when_it_fails() {
    let mut status = Status {
        running: true,
        ..Status::default()
    };
    let server = |server: &str, failing: Option<&str>| ServerState {
        server: server.to_owned(),
        failing: failing.map(str::to_owned),
    };
    let tls = "tls://192.0.2.53:853#dns.example";
    status.dns.servers = vec![server(tls, None)];
    let text = short(&status);
    assert!(!text.contains("open") && !text.contains(tls), "{text}");
    let failing = server(tls, Some("its certificate has expired"));
    status.dns.servers = vec![failing, server("192.0.2.53:53", None)];
    let text = short(&status);
    let line = format!("dns server  {tls} cannot be asked: its certificate has expired\n");
    assert!(text.contains(&line) && text.contains("open "), "{text}");
}

#[test]
fn what_is_wrong_comes_before_what_is_in_force_and_zeros_are_left_out() {
    let mut status = Status {
        running: true,
        ready: true,
        roots: vec!["/sys/fs/cgroup/pods".into()],
        canary_age_seconds: Some(1.25),
        ..Status::default()
    };
    status.dns.intercept = Intercept::Auto;
    status.rules.objects = 3;
    for key in ["denied", "wouldDeny"] {
        status.counters.insert(key.into(), 0);
        status.proxy.insert(key.into(), 0);
    }
    status.rules.counters.insert("leftOut".into(), 0);
    assert_eq!(
        short(&status),
        "ready       the gate is closed\n\
         canary      last passed 1.2 s ago\n\
         root        /sys/fs/cgroup/pods\n\
         rules       3 objects, mode enforce\n"
    );
    status.proxy.insert("denied".into(), 2);
    status.rules.counters.insert("leftOut".into(), 4);
    status.rules.without_policy = 1;
    let failing = &mut status.rules.failing;
    failing.insert("a.example".into(), "no such name".into());
    status.rules.too_deep.cgroups = 2;
    status.rules.too_deep.first = Some("/pods/a".into());
    let text = short(&status);
    let words: Vec<&str> = text.lines().map(|line| line[..11].trim_end()).collect();
    assert_eq!(
        words,
        [
            "ready",
            "canary",
            "failing",
            "too deep",
            "no policy",
            "table full",
            "root",
            "rules",
            "denied"
        ]
    );
    assert!(
        text.contains("denied      0 by the kernel, 2 by the proxy\n"),
        "{text}"
    );
    assert!(text.contains("(cgroup-depth): /pods/a\n"), "{text}");
}

#[test]
fn a_pod_is_shown_by_its_names_and_its_cgroup_on_request() {
    let mut status = Status::default();
    status.workloads.push(WorkloadStatus {
        cgroup: "/kubepods/pod1".into(),
        identity: Some("shop/client".into()),
        pod_name: Some("shop/client-5d4f-x".into()),
        owner: Some("Deployment/client".into()),
        mode: Some(Mode::Audit),
        ..WorkloadStatus::default()
    });
    let pod = "workload    shop/client pod shop/client-5d4f-x (Deployment/client)";
    assert!(
        short(&status).contains(&format!("{pod}, mode audit\n")),
        "{}",
        short(&status)
    );
    let verbose = Text {
        status: &status,
        verbose: true,
    }
    .to_string();
    assert!(
        verbose.contains(&format!("{pod} /kubepods/pod1, mode audit\n")),
        "{verbose}"
    );
}

#[test]
fn a_kind_that_is_not_followed_is_a_problem_with_its_age() {
    let mut status = Status::default();
    status.kubernetes.push(FollowedStatus {
        kind: "pods".into(),
        synced: true,
        objects: 7,
        away_seconds: Some(12.3),
        problem: Some("access denied".into()),
        ..FollowedStatus::default()
    });
    let text = short(&status);
    let line =
        "kubernetes  pods not followed for 12 s, the 7 known ones stay in force: access denied\n";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("kubernetes  7 pods\n"), "{text}");
}

#[test]
fn counters_come_with_their_meaning_where_they_are_asked_for() {
    let mut status = Status::default();
    status.counters.insert("eventsLost".into(), 0);
    let text = Text {
        status: &status,
        verbose: true,
    };
    let text = text.to_string();
    let line = text.lines().last().unwrap_or_default();
    assert!(
        line.starts_with("counters    eventsLost            0  Denials whose event"),
        "{text}"
    );
    assert!(!short(&status).contains("eventsLost"));
}
