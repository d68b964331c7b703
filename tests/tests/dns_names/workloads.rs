//! Whose query it is: two workloads with different rules in one network namespace, sockets that change hands, and pods in
//! namespaces of their own.

use crate::setting::{addresses, ask, lab, python};
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::pods::Pod;
use egress_tests::pods::cluster::Cluster;
use egress_tests::probe::attempt;
use egress_tests::queries::{NO_ERROR, REFUSED, script};
use egress_tests::{Background, Lab, pinned, wait_until};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A host for the workloads of one namespace.
fn only_for(namespace: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: own, namespace: {namespace}}}
spec:
  exportTo: ['.']
  hosts: [{namespace}.example]
  resolution: DNS
  ports: [{{number: 7, name: tcp, protocol: TCP}}]
"
    )
}

/// Two workloads in the node's network namespace: `a` may ask for `a.example`, `b` for `b.example`.
fn two() -> (Lab, Cgroup, Cgroup) {
    let entry = |name: &str| format!("--workload={{cgroup: '**/only-{name}', namespace: {name}}}");
    let lab = lab(&[&entry("a"), &entry("b")]);
    let cgroups = ["a", "b"].map(|name| {
        lab.dns
            .set(&format!("{name}.example"), &[v4(host::ECHO)], 1);
        lab.rules(&format!("{name}.yaml"), &only_for(name)).unwrap();
        lab.workloads().child(&format!("only-{name}")).unwrap()
    });
    for cgroup in &cgroups {
        owned(&lab, cgroup);
    }
    let [a, b] = cgroups;
    (lab, a, b)
}

/// Waits until the agent has a policy for a workload of its own.
fn owned(lab: &Lab, cgroup: &Cgroup) {
    let id = cgroup.id().unwrap();
    wait_until("the workload has an identity", SOON, || {
        pinned::has_owner(lab.bpf_dir(), id).unwrap().then_some(())
    })
    .unwrap();
}

fn place<'a>(lab: &'a Lab, cgroup: &'a Cgroup) -> Place<'a> {
    Place {
        cgroup: Some(cgroup),
        ..lab.client_place()
    }
}

#[test]
fn each_workload_of_a_namespace_gets_the_answers_of_its_own_rules() {
    let (lab, a, b) = two();
    for (cgroup, own, other) in [
        (&a, "a.example", "b.example"),
        (&b, "b.example", "a.example"),
    ] {
        let place = place(&lab, cgroup);
        for way in ["connected", "unconnected", "tcp"] {
            assert_eq!(
                addresses(&ask(&place, way, own, "192.0.2.1")),
                [v4(host::ECHO)]
            );
            assert_eq!(
                ask(&place, way, other, "192.0.2.1")["code"],
                REFUSED,
                "{way}"
            );
        }
    }
}

#[test]
fn explain_says_what_a_query_of_each_workload_gets() {
    let (lab, a, b) = two();
    let socket = lab.admin_socket().display().to_string();
    for (cgroup, own) in [(&a, "a.example"), (&b, "b.example")] {
        let workload = cgroup.path().display().to_string();
        for name in ["a.example", "B.Example", "deep.a.example", "c.example"] {
            let told = lab
                .verb(&[
                    "explain",
                    "--admin-socket",
                    &socket,
                    "--workload",
                    &workload,
                    "--query",
                    name,
                ])
                .unwrap();
            let listed = name.eq_ignore_ascii_case(own);
            let code = &ask(&place(&lab, cgroup), "connected", name, "192.0.2.1")["code"];
            assert_eq!(*code == NO_ERROR, listed, "{name} of {own}: {code}");
            assert_eq!(told.exit == 0, listed, "{name} of {own}: {told:?}");
            let because = if listed {
                format!("listed by ServiceEntry {}/own", &own[..1])
            } else {
                "reason=\"dns-not-listed\"".to_owned()
            };
            assert!(told.stdout.contains(&because), "{name} of {own}: {told:?}");
        }
    }
}

#[test]
fn a_socket_that_changes_hands_asks_as_the_workload_that_made_it() {
    let (lab, a, b) = two();
    let procs = b.path().join("cgroup.procs").display().to_string();
    let place = place(&lab, &a);
    let ended = python(
        &place,
        "moved.py",
        &[&procs, "192.0.2.1", "a.example", "b.example"],
    );
    let codes: Value = serde_json::from_str(&ended.stdout).expect(&ended.stderr);
    let expected = json!({
        "before": {"a.example": [NO_ERROR, NO_ERROR], "b.example": [REFUSED, REFUSED]},
        "after": {"a.example": [REFUSED, REFUSED], "b.example": [NO_ERROR, NO_ERROR]},
    });
    assert_eq!(codes, expected);
}

#[test]
fn two_workloads_on_one_port_are_each_judged_by_their_own_rules() {
    const COUNT: u64 = 400;
    /// The ids of the second workload begin here.
    const SECOND: u64 = 32_768;
    let (lab, a, b) = two();
    // Both ask for the name of the first one.
    let running = [(&a, 0), (&b, SECOND)].map(|(cgroup, first)| {
        let mut command = place(&lab, cgroup).command("python3").unwrap();
        command.arg(script("shared_port.py")).args([
            "40053",
            &COUNT.to_string(),
            &first.to_string(),
            "a.example",
            "192.0.2.1",
        ]);
        let asks = Background::start(command).unwrap();
        asks.wait_line("its socket is bound", SOON, |line| line == "bound")
            .unwrap();
        asks
    });
    let running = running.map(|mut asks| {
        asks.say("go\n").unwrap();
        asks
    });
    for asks in &running {
        asks.wait_line("it has asked", SOON, |line| line == "asked")
            .unwrap();
    }
    let replies: Vec<Value> = running
        .into_iter()
        .flat_map(|asks| asks.end().unwrap().as_array().unwrap().clone())
        .collect();
    let of = |second: bool, code: u64| {
        let is = |reply: &&Value| (reply[0].as_u64() >= Some(SECOND)) == second && reply[1] == code;
        replies.iter().filter(is).count()
    };
    println!(
        "first: {} answered; second: {} denied",
        of(false, NO_ERROR),
        of(true, REFUSED)
    );
    assert_eq!(
        of(true, NO_ERROR),
        0,
        "the second workload got the answer of the first"
    );
    assert_eq!(
        of(false, REFUSED),
        0,
        "the first workload was judged as the second"
    );
    // A datagram whose entry another socket took meanwhile is dropped. Most are not.
    assert!(
        of(false, NO_ERROR) > 100 && of(true, REFUSED) > 100,
        "{replies:?}"
    );
}

/// The cluster's DNS server.
const CLUSTER_DNS: u8 = 54;

#[test]
fn pods_reach_the_clusters_dns_as_before_and_egress_names_by_their_namespaces_rules() {
    let internal = format!("--internal={}/32", v4(CLUSTER_DNS));
    let cluster = Cluster::start(&["--dns-intercept=auto", &internal]).unwrap();
    let lab = &cluster.lab;
    let dns = lab.world().dns(&[v4(CLUSTER_DNS)]).unwrap();
    let service: IpAddr = "10.96.1.2".parse().unwrap();
    dns.set("api.shop.svc.cluster.local", &[service], 5);
    for namespace in ["shop", "blog"] {
        lab.dns
            .set(&format!("{namespace}.example"), &[v4(host::ECHO)], 30);
        lab.rules(&format!("{namespace}.yaml"), &only_for(namespace))
            .unwrap();
    }
    let server = v4(CLUSTER_DNS).to_string();
    let app = json!({"app": "client"});
    let pods = ["shop", "blog"].map(|namespace| cluster.pod(namespace, "client", &app).unwrap());
    let ask = |pod: &Pod, way: &str, name: &str| ask(&pod.place(), way, name, &server);
    for (pod, [own, other]) in pods.iter().zip([["shop", "blog"], ["blog", "shop"]]) {
        owned(lab, pod.cgroup());
        let way = "connected";
        wait_until("the agent serves in the pod's namespace", SOON, || {
            let ended = python(&pod.place(), "dns.py", &[way, "localhost", &server]);
            (ended.exit == 0).then_some(())
        })
        .unwrap();
        for way in ["connected", "unconnected", "tcp"] {
            let inside = ask(pod, way, "api.shop.svc.cluster.local");
            assert_eq!(
                (addresses(&inside), inside["from"].as_str()),
                (vec![service], Some(server.as_str()))
            );
            assert_eq!(ask(pod, way, "none.shop.svc.cluster.local")["code"], 3);
            assert_eq!(
                addresses(&ask(pod, way, &format!("{own}.example"))),
                [v4(host::ECHO)]
            );
            assert_eq!(ask(pod, way, &format!("{other}.example"))["code"], REFUSED);
            assert_eq!(ask(pod, way, "secret.evil.example")["code"], REFUSED);
        }
        assert!(
            dns.peers().contains(&pod.v4),
            "asked from the pod's own address: {:?}",
            dns.peers()
        );
    }
    // A server in `internal` could be a workload's own: its answers for listed names open nothing.
    let (pod, bystander) = (&pods[0], v4(host::BYSTANDER));
    let listed = only_for("shop").replace("shop.example", "ext.shop.svc.cluster.local");
    lab.rules("ext.yaml", &listed.replace("name: own", "name: ext"))
        .unwrap();
    dns.set("ext.shop.svc.cluster.local", &[bystander], 5);
    for way in ["connected", "tcp"] {
        wait_until("the cluster's server answers", SOON, || {
            let answer = ask(pod, way, "ext.shop.svc.cluster.local");
            (addresses(&answer) == [bystander]).then_some(())
        })
        .unwrap();
    }
    let connected = attempt(&pod.place(), "tcp", SocketAddr::new(bystander, 7)).unwrap();
    assert_eq!(connected.errno, Some(libc::EPERM));
    let outside = dns
        .queries()
        .into_iter()
        .filter(|(name, _)| !name.ends_with(".cluster.local"));
    assert_eq!(
        outside.collect::<Vec<_>>(),
        [],
        "the cluster's server sees the cluster's names only"
    );
}
