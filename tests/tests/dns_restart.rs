//! Queries while the agent is restarted, killed and replaced again and again: no workload gets an answer by another's
//! policy, none connects to an unlisted host, and queries are answered again each time.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::beside;
use egress_tests::background::Background;
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::place::Place;
use egress_tests::probe::Session;
use egress_tests::readiness::spawn;
use egress_tests::{Agent, Lab, agent, queries, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LONG: Duration = Duration::from_secs(20);
/// Nothing is there: the agent answers.
const SERVER: &str = "192.0.2.53:53";

fn lab() -> (Lab, Cgroup) {
    let entry =
        |cgroup, namespace| format!("--workload={{cgroup: {cgroup}, namespace: {namespace}}}");
    let flags = [
        "--dns-intercept=auto".to_owned(),
        entry("client", "one"),
        entry("other", "two"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut lab = Lab::without_agent(LabOptions::flags(&flags)).unwrap();
    let other = lab.workloads().child("other").unwrap();
    for (namespace, name) in [("one", "httpbin.org"), ("two", "echo.example")] {
        let rules = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
             metadata: {{name: own, namespace: {namespace}}}\n\
             spec:\n  hosts: [{name}]\n  exportTo: ['.']\n  resolution: DNS\n  \
             ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
        );
        lab.write_rules(&format!("{namespace}.yaml"), &rules)
            .unwrap();
    }
    lab.start_agent().unwrap();
    (lab, other)
}

fn asker(place: &Place<'_>, own: &str, others: &str) -> Background {
    let mut command = place.command(beside("asker").unwrap()).unwrap();
    command.args(["steady", SERVER, own, others]);
    Background::start(command).unwrap()
}

fn answering(asker: &Background) {
    let answers = |line: &Value| line["answering"].is_u64();
    asker.wait_line("the first answer", LONG, answers).unwrap();
}

fn restart(lab: &mut Lab) {
    lab.agent().unwrap().terminate().unwrap();
    lab.start_agent().unwrap();
}

fn kill(lab: &mut Lab) {
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
}

fn replace(lab: &mut Lab) {
    let mut arguments = lab.agent_arguments();
    arguments.push("--standby".into());
    let binary = agent::binary().unwrap();
    let next = Agent::spawn(&lab.agent_place(), &binary, &arguments).unwrap();
    let waits = |line: &str| line.contains("standby: waiting");
    next.wait_line(0, LONG, "the standby waits", waits).unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let mut former = lab.swap_agent(next).unwrap();
    lab.agent().unwrap().wait_ready().unwrap();
    former.wait_end(LONG).unwrap();
}

#[test]
fn no_restart_answers_by_another_policy_or_lets_out_an_unlisted_connection() {
    let (mut lab, other) = lab();
    let start = |lab: &Lab| {
        let one = Place {
            resolver: None,
            ..lab.client_place()
        };
        let two = Place {
            cgroup: Some(&other),
            ..one
        };
        let askers = [
            asker(&one, "httpbin.org", "echo.example"),
            asker(&two, "echo.example", "httpbin.org"),
        ];
        askers.iter().for_each(answering);
        let unlisted = SocketAddr::new(v4(host::BYSTANDER), 443);
        (askers, Session::connects(&one, unlisted).unwrap())
    };
    let (askers, leaks) = start(&lab);
    for _ in 0..3 {
        restart(&mut lab);
        kill(&mut lab);
        replace(&mut lab);
    }
    // Both are answered by the last agent.
    let (last, _) = start(&lab);
    for asker in last {
        asker.end().unwrap();
    }
    for asker in askers {
        let counts = asker.end().unwrap();
        println!("{counts}");
        let count = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!(count("wrong"), 0, "{counts}");
        assert!(count("resolved") > 500 && count("denied") > 500, "{counts}");
    }
    let tally = leaks.tally().unwrap();
    assert!(tally.all_denied(50), "{tally:?}");
    assert_eq!(lab.bystander.connections(), 0);
}

/// The client gets no address of an answer whose lease no agent puts in force. It asks again soon, and the next agent
/// answers.
#[test]
fn a_new_name_that_is_asked_for_while_one_agent_takes_over_is_answered_by_the_next() {
    let options = LabOptions::flags(&["--dns-intercept=auto"]);
    let mut lab = Lab::start_with(options).unwrap();
    for name in ["before.fresh.example", "between.fresh.example"] {
        lab.dns.set(name, &[v4(host::HTTPBIN)], 30);
    }
    let rule = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: fresh}\n\
                spec:\n  hosts: ['*.fresh.example']\n  \
                ports: [{number: 80, name: http, protocol: HTTP}]\n";
    lab.rules("fresh.yaml", rule).unwrap();
    // As without a resolv.conf: a client that gets no answer asks again after five seconds.
    let resolves = |lab: &Lab, name: &str| {
        let getent = ["RES_OPTIONS=timeout:5", "getent", "ahostsv4", name];
        lab.run("env", &getent).unwrap()
    };
    assert_eq!(resolves(&lab, "before.fresh.example").exit, 0);

    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let mut next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    let hands = |line: &str| line.contains("handing over to another agent");
    let old = lab.agent().unwrap();
    old.wait_line(0, LONG, "it hands over", hands).unwrap();
    next.signal(Signal::STOP).unwrap();
    let start = Instant::now();
    let answer = std::thread::scope(|scope| {
        let client = scope.spawn(|| resolves(&lab, "between.fresh.example"));
        wait_until("the old agent asks", LONG, || {
            let asked = lab.dns.queries();
            let mut names = asked.iter().map(|(name, _)| name.to_lowercase());
            names.any(|name| name.contains("between")).then_some(())
        })
        .unwrap();
        next.signal(Signal::CONT).unwrap();
        next.wait_ready().unwrap();
        client.join().unwrap()
    });
    let took = start.elapsed();
    println!("answered after {took:?}");
    assert_eq!(answer.exit, 0, "{}", answer.stderr);
    assert!(took < Duration::from_secs(4), "{took:?}");
    let mut old = lab.swap_agent(next).unwrap();
    assert!(old.wait_end(LONG).unwrap().success());
}

/// When the lease of a name ends, in seconds since 1970, by what the agent keeps for the next one.
fn kept_until(lab: &Lab, name: &str) -> Option<u64> {
    let text = fs::read_to_string(lab.admin_socket().with_extension("leases")).ok()?;
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name))?;
    line.rsplit_once('@')?.1.parse().ok()
}

#[test]
fn an_address_that_a_connection_uses_stays_allowed_when_the_agent_is_killed() {
    const NAME: &str = "a.wild.example";
    let flags = ["--dns-intercept=auto", "--dns-min-ttl=1s", "--dns-grace=6s"];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let rules = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: wild}\n\
                 spec:\n  hosts: ['*.wild.example']\n  ports: [{number: 7, name: tcp, protocol: TCP}]\n";
    lab.rules("wild.yaml", rules).unwrap();
    lab.dns.set(NAME, &[v4(host::ECHO)], 1);
    let to = SocketAddr::new(v4(host::ECHO), 7);
    queries::ask(&lab.client_place(), "connected", NAME, &["192.0.2.1"]).unwrap();
    let mut session = Session::hold(&lab.client_place(), to).unwrap();
    assert_eq!(session.say("first").unwrap(), "first");
    let first = wait_until("the lease is written", LONG, || kept_until(&lab, NAME)).unwrap();
    wait_until(
        "the lease in use is written anew and the first over",
        LONG,
        || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
            (now > first && kept_until(&lab, NAME)? > now).then_some(())
        },
    )
    .unwrap();
    kill(&mut lab);
    assert_eq!(session.say("again").unwrap(), "again");
    assert!(lab.attempt("tcp", to).unwrap().passed());
}
