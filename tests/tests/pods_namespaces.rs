//! Pods in namespaces and cgroups of their own with one agent: what each reaches, from which address, and what remains
//! after them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::lab::{host, v4, v6};
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use egress_tests::pods::held::Held;
use egress_tests::pods::{self, Pod, Pods, Stack};
use egress_tests::rules::{ECHO, HTTPBIN, TIMEOUT};
use egress_tests::{Lab, Load, Session, pinned, probe, wait_until};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

/// Long enough for an agent that shares the machine with other tests.
const SOON: Duration = Duration::from_secs(5);

fn lab() -> Lab {
    let lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    lab.rules("timeout.yaml", TIMEOUT).unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    lab
}

/// The status of a request, once the proxy is in the pod's namespace.
fn get(pod: &Pod, arguments: &[&str]) -> u16 {
    let served = || {
        let reply = pod.curl(arguments).unwrap();
        (reply.code != 0).then_some(reply.code)
    };
    wait_until("the pod gets an answer", SOON, served).unwrap()
}

#[test]
fn each_pod_is_served_in_its_own_namespace_and_seen_by_its_own_address() {
    let lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let (a, b) = (pods.create(&lab).unwrap(), pods.create(&lab).unwrap());
    for pod in [&a, &b] {
        for (flag, address) in [("-4", pod.v4), ("-6", pod.v6)] {
            assert_eq!(get(pod, &[flag, "http://httpbin.org/get"]), 200);
            let seen = lab.httpbin.requests().pop().unwrap();
            assert_eq!(seen.peer.ip(), address, "{flag}");
        }
        let late = pod.curl(&["http://httpbin.org/delay/5"]).unwrap();
        assert_eq!(
            (late.code, late.body.as_str()),
            (504, "upstream request timeout")
        );
        let other = pod
            .curl(&["-H", "Host: bystander.example", "http://httpbin.org/"])
            .unwrap();
        assert_eq!(other.code, 502);
        for to in [v4(host::BYSTANDER), v6(host::BYSTANDER)] {
            let answer = probe::attempt(&pod.place(), "tcp", SocketAddr::new(to, 80)).unwrap();
            assert!(
                answer.denied() && answer.elapsed < Duration::from_millis(50),
                "{answer:?}"
            );
            let direct = SocketAddr::new(
                if to.is_ipv4() {
                    v4(host::ECHO)
                } else {
                    v6(host::ECHO)
                },
                7,
            );
            assert!(
                probe::attempt(&pod.place(), "tcp-echo", direct)
                    .unwrap()
                    .passed()
            );
        }
    }
    assert_eq!(lab.bystander.connections(), 0);
}

#[test]
fn a_removed_rule_ends_the_flows_of_every_pod() {
    let lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let (a, b) = (pods.create(&lab).unwrap(), pods.create(&lab).unwrap());
    let hold = |pod: &Pod, to: IpAddr| {
        // The agent knows its namespace once the proxy answers there.
        assert_eq!(get(pod, &["http://httpbin.org/get"]), 200);
        let to = SocketAddr::new(to, 7).to_string();
        Load::start(&pod.place(), &["hold", &to]).unwrap()
    };
    let flows = [hold(&a, v4(host::ECHO)), hold(&b, v6(host::ECHO))];
    lab.remove_rules("echo.yaml").unwrap();
    wait_until("the flows are ended", SOON, || {
        let ended = lab.status().unwrap()["rules"]["flowsEnded"].as_u64();
        (ended == Some(2)).then_some(())
    })
    .unwrap();
    for flow in flows {
        let counts = flow.stop().unwrap();
        assert_eq!(counts["hold.errno103"], 1, "ECONNABORTED: {counts:?}");
    }
}

#[test]
fn a_pod_of_one_family_and_a_pod_that_uses_the_port_are_served() {
    let lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let (four, six) = (
        pods.create_in(&lab, NetNs::new().unwrap(), Stack::V4)
            .unwrap(),
        pods.create_in(&lab, NetNs::new().unwrap(), Stack::V6)
            .unwrap(),
    );
    assert_eq!(get(&four, &["-4", "http://httpbin.org/get"]), 200);
    let resolve = format!("httpbin.org:80:[{}]", v6(host::HTTPBIN));
    assert_eq!(
        get(&six, &["--resolve", &resolve, "http://httpbin.org/get"]),
        200
    );
    assert_eq!(lab.httpbin.requests().pop().unwrap().peer.ip(), six.v6);

    // A namespace in which the proxy's usual port is in use before the agent enters it.
    let netns = NetNs::new().unwrap();
    let _taken = netns
        .run(|| TcpListener::bind("127.0.0.1:15001").unwrap())
        .unwrap();
    let pod = pods.create_in(&lab, netns, Stack::Dual).unwrap();
    assert_eq!(get(&pod, &["-4", "http://httpbin.org/get"]), 200);
}

#[test]
fn the_same_source_port_in_two_pods_is_told_apart() {
    let lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let (a, b) = (pods.create(&lab).unwrap(), pods.create(&lab).unwrap());
    for pod in [&a, &b] {
        let sysctl = |key, value| pod.netns.sysctl(key, value).unwrap();
        sysctl("ipv4/ip_local_port_range", "40000 40003");
        // Ports are free again at once, so that each can be used many times.
        sysctl("ipv4/tcp_max_tw_buckets", "0");
    }
    let host = format!("httpbin.org:80:{}", v4(host::HTTPBIN));
    assert_eq!(
        get(&a, &["--resolve", &host, "http://httpbin.org/get"]),
        200
    );
    assert_eq!(
        get(&b, &["--resolve", &host, "http://httpbin.org/get"]),
        200
    );
    std::thread::scope(|scope| {
        for pod in [&a, &b] {
            let host = &host;
            scope.spawn(move || {
                for _ in 0..20 {
                    let reply = pod
                        .curl(&["--resolve", host, "http://httpbin.org/get"])
                        .unwrap();
                    let address = format!("\"origin\": \"{}\"", pod.v4);
                    assert!(reply.body.contains(&address), "{reply:?}");
                }
            });
        }
    });
}

#[test]
fn nothing_is_left_of_pods_that_have_gone() {
    let mut lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let proxied = |lab: &Lab, want: usize| {
        wait_until("a proxy in each namespace", SOON, || {
            (pinned::proxies(lab.bpf_dir()).unwrap() == want).then_some(())
        })
        .unwrap();
    };
    let empty = Held::now(&mut lab).unwrap();
    // The first pod causes the thread that makes sockets, and its curl the proxy's workers.
    assert_eq!(
        get(&pods.create(&lab).unwrap(), &["http://httpbin.org/get"]),
        200
    );
    let before = empty.wait_empty(&mut lab, SOON).unwrap();
    for _ in 0..5 {
        let some: Vec<Pod> = (0..20).map(|_| pods.create(&lab).unwrap()).collect();
        proxied(&lab, 21);
        assert_eq!(get(&some[7], &["http://httpbin.org/get"]), 200);
        drop(some);
        proxied(&lab, 1);
    }
    before.wait_back(&mut lab, 100, SOON).unwrap();
}

#[test]
fn a_killed_agent_leaves_pods_closed_and_the_next_one_takes_over() {
    let mut lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let pod = pods.create(&lab).unwrap();
    assert_eq!(get(&pod, &["http://httpbin.org/get"]), 200);
    let mut direct = Session::hold(&pod.place(), SocketAddr::new(v4(host::ECHO), 7)).unwrap();
    let leaks = [v4(host::BYSTANDER), v6(host::BYSTANDER)]
        .map(|ip| Session::connects(&pod.place(), SocketAddr::new(ip, 80)).unwrap());

    lab.agent().unwrap().kill().unwrap();
    assert_eq!(direct.say("still here").unwrap(), "still here");
    let to = SocketAddr::new(v4(host::HTTPBIN), 80);
    let answer = probe::attempt(&pod.place(), "tcp", to).unwrap();
    assert!(answer.denied(), "{answer:?}");
    lab.start_agent().unwrap();
    assert_eq!(get(&pod, &["http://httpbin.org/get"]), 200);
    assert_eq!(direct.say("and after").unwrap(), "and after");
    for leak in leaks {
        let tally = leak.tally().unwrap();
        assert!(tally.all_denied(100), "{tally:?}");
    }
}

/// The host is for the namespace `shop` only.
const FOR_SHOP: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin, namespace: shop}
spec:
  hosts: [httpbin.org]
  exportTo: ['.']
  ports:
  - {number: 80, name: http, protocol: HTTP}
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo, namespace: shop}
spec:
  hosts: [echo.example]
  exportTo: ['.']
  ports:
  - {number: 7, name: tcp-echo, protocol: TCP}
  resolution: DNS
";

#[test]
fn two_pods_in_two_namespaces_are_under_their_own_rules() {
    let mut lab = Lab::start_with(pods::in_namespaces(&[(1, "shop"), (2, "blog")])).unwrap();
    lab.rules("rules.yaml", FOR_SHOP).unwrap();
    let pods = Pods::on(&lab).unwrap();
    let (shop, blog) = (pods.create(&lab).unwrap(), pods.create(&lab).unwrap());
    let unknown = pods.create(&lab).unwrap();
    let see_their_own = |lab: &Lab| {
        assert_eq!(get(&shop, &["http://httpbin.org/get"]), 200);
        for ip in [v4(host::ECHO), v6(host::ECHO)] {
            let to = SocketAddr::new(ip, 7);
            assert!(
                probe::attempt(&shop.place(), "tcp-echo", to)
                    .unwrap()
                    .passed()
            );
        }
        let before = lab.httpbin.connections();
        for pod in [&blog, &unknown] {
            for (last, port) in [(host::HTTPBIN, 80), (host::ECHO, 7)] {
                for ip in [v4(last), v6(last)] {
                    let to = SocketAddr::new(ip, port);
                    let answer = probe::attempt(&pod.place(), "tcp", to).unwrap();
                    assert!(answer.denied(), "{to}: {answer:?}");
                }
            }
        }
        assert_eq!(lab.httpbin.connections(), before);
    };
    see_their_own(&lab);
    let status = lab.status().unwrap();
    let of = |pod: &Pod| {
        let all = status["workloads"].as_array().unwrap().iter();
        let mut own = all.filter(|w| w["pod"] == pod.uid.as_str());
        let whole = own.clone().find(|w| w["container"].is_null()).cloned();
        (
            whole,
            own.any(|w| w["networkNamespaces"] == 1 && w["proxied"] == 1),
        )
    };
    for (pod, identity) in [(&shop, "shop/default"), (&blog, "blog/default")] {
        let (whole, proxied) = of(pod);
        assert_eq!(whole.unwrap()["identity"], identity);
        assert!(proxied, "{status}");
    }
    assert!(of(&unknown).0.is_none() && of(&unknown).1, "{status}");

    // The next agent finds the cgroups with the policies of the last agent. At no moment may one have the rules of the
    // other.
    let refused = [v4(host::ECHO), v6(host::ECHO)]
        .map(|ip| Session::connects(&blog.place(), SocketAddr::new(ip, 7)).unwrap());
    let allowed = Session::connects(&shop.place(), SocketAddr::new(v4(host::ECHO), 7)).unwrap();
    for _ in 0..3 {
        lab.agent().unwrap().kill().unwrap();
        lab.start_agent().unwrap();
    }
    let tally = allowed.tally().unwrap();
    assert!(tally.connected > 100 && tally.denied == 0, "{tally:?}");
    for session in refused {
        let tally = session.tally().unwrap();
        assert!(tally.all_denied(100), "{tally:?}");
    }
    see_their_own(&lab);
}

/// Network namespaces of one workload that the agent serves.
const SERVED: usize = 64;

/// A process in each of `count` network namespaces of its own, all in one cgroup.
fn unshared(lab: &Lab, cgroup: &Cgroup, count: usize) -> Guarded {
    let place = Place {
        cgroup: Some(cgroup),
        ..lab.client_place()
    };
    let script = format!("for n in $(seq {count}); do unshare --net sleep 600 & done; wait");
    let mut shell = place.command("sh").unwrap();
    Guarded::spawn(shell.args(["-c", &script])).unwrap()
}

#[test]
fn the_namespaces_of_a_workload_are_bounded_over_all_cgroups_that_it_makes() {
    let mut lab = lab();
    let workload = lab.workloads().child("hog").unwrap();
    let made = ["a", "b", "c"].map(|name| workload.child(name).unwrap());
    // Each of them alone is within the limit.
    let hogs = made.each_ref().map(|cgroup| unshared(&lab, cgroup, 40));
    let crowded = |line: &str| line.contains("too many network namespaces in one workload");
    let agent = lab.agent().unwrap();
    agent.wait_line(0, SOON, "it says so", crowded).unwrap();
    // The lab's own namespace is served too.
    let all = || pinned::proxies(lab.bpf_dir()).unwrap();
    wait_until("as many as may be", SOON, || (all() > SERVED).then_some(())).unwrap();
    let beside = lab.workloads().child("beside").unwrap();
    let _neighbour = unshared(&lab, &beside, 1);
    wait_until("a neighbour is served", SOON, || {
        (all() > SERVED + 1).then_some(())
    })
    .unwrap();
    assert_eq!(all(), SERVED + 2);
    // When some of them end, others are served.
    drop(hogs);
    drop(made);
    let again = workload.child("d").unwrap();
    let _hog = unshared(&lab, &again, 2);
    wait_until("the new ones alone", SOON, || (all() == 4).then_some(())).unwrap();
}
