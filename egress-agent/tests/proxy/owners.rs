//! The policy of a flow is the policy of its owner at each judgement, not the one at the time of the redirect.

use crate::raw::*;
use crate::support::*;
use crate::tls::real_hello;
use egress_agent::proxy::{DenialReason, Limits, Origin};
use egress_core::routing::{PolicyRoutes, PortKind, PortRoutes, RouteTable};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Both names have one address. The narrow policy lists only `a.example`.
const BOTH: PolicyId = PolicyId(1);
const ONLY_A: PolicyId = PolicyId(2);
const DEFAULT: PolicyId = PolicyId(0);
const POD: CgroupId = CgroupId(5);
const CONTAINER: CgroupId = CgroupId(10);
/// The time after a change from which nothing may run under the old policy.
const IN_FORCE: Duration = Duration::from_millis(100);

/// A TLS record that may follow a hello.
const RECORD: &[u8] = &[21, 3, 3, 0, 2, 1, 0];

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: b.example\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";

/// Answers requests and upgrades, and echoes everything else.
async fn origin() -> SocketAddr {
    raw_origin(|_, mut raw| async move {
        let mut http = None;
        while let Some(first) = raw.take(1).await {
            if !*http.get_or_insert(first == b"G") {
                raw.send(&first).await;
                continue;
            }
            let head = raw.head().await.unwrap_or_default();
            let upgrade = head.contains("upgrade: websocket");
            http = Some(!upgrade);
            raw.send(if upgrade {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".as_slice()
            })
            .await;
        }
    })
    .await
}

fn ports(names: &[&str], origin: SocketAddr) -> PortRoutes {
    let hosts = |name: &&str| entries(&http_port(name, &[origin], None).hosts);
    let tls = |name: &&str| entries(&tls_port(PortKind::Tls, name, &[origin]).tls);
    PortRoutes {
        kind: PortKind::Sniff,
        hosts: names.iter().flat_map(hosts).collect::<Vec<_>>().into(),
        tls: names.iter().flat_map(tls).collect::<Vec<_>>().into(),
        ..PortRoutes::default()
    }
}

/// The routes with these owners. The default policy is the wide one.
fn routes(origin: SocketAddr, owners: &[(CgroupId, PolicyId)]) -> RouteTable {
    let policy = |names: &[&str]| {
        Arc::new(PolicyRoutes {
            ports: BTreeMap::from([(PORT, Arc::new(ports(names, origin)))]),
            ..PolicyRoutes::default()
        })
    };
    let both = policy(&["a.example", "b.example"]);
    RouteTable {
        policies: BTreeMap::from([
            (DEFAULT, Arc::clone(&both)),
            (BOTH, both),
            (ONLY_A, policy(&["a.example"])),
        ]),
        owners: Arc::new(owners.iter().copied().collect()),
        ..RouteTable::default()
    }
}

async fn bed(origin: SocketAddr, owners: &[(CgroupId, PolicyId)]) -> Bed {
    let flow = Origin {
        policy: BOTH,
        cgroup: CONTAINER,
        owners: vec![CONTAINER, POD],
        ..destination("192.0.2.1:80")
    };
    let bed = Bed::with(PortRoutes::default(), Some(flow), Limits::default()).await;
    bed.put(routes(origin, owners));
    bed
}

async fn tls(bed: &Bed, name: &str) -> Raw {
    let mut client = bed.client().await;
    let hello = real_hello(name);
    client.send(&hello).await;
    assert_eq!(client.take(hello.len()).await.unwrap(), hello, "{name}");
    client
}

async fn ends_at_once(mut client: Raw, since: Instant) {
    assert!(client.rest().await.is_empty());
    assert!(since.elapsed() < IN_FORCE, "{:?}", since.elapsed());
}

#[tokio::test]
async fn what_a_narrowed_or_recognised_workload_may_not_reach_any_more_ends() {
    let origin = origin().await;
    for (before, after) in [
        // A Sidecar narrows the pod.
        (vec![(POD, BOTH)], vec![(POD, ONLY_A)]),
        // The pod is recognised a moment after its first connections.
        (vec![], vec![(POD, ONLY_A)]),
        // The container gets an entry of its own: the deepest one counts.
        (vec![(POD, BOTH)], vec![(POD, BOTH), (CONTAINER, ONLY_A)]),
        // The policy id of the flow's redirect now stands for another view.
        (vec![(POD, BOTH)], vec![(POD, ONLY_A), (CgroupId(99), BOTH)]),
    ] {
        let bed = bed(origin, &before).await;
        let mut kept = bed.client().await;
        assert_eq!(kept.ask(&get("b.example", "/")).await.status(), 200);
        let (mut a, b) = (tls(&bed, "a.example").await, tls(&bed, "b.example").await);
        let mut websocket = bed.client().await;
        websocket.send(UPGRADE.as_bytes()).await;
        assert!(websocket.head().await.unwrap().contains("101"));

        let since = Instant::now();
        bed.put(routes(origin, &after));
        for client in [kept, b, websocket] {
            ends_at_once(client, since).await;
            assert_eq!(bed.denial().await, DenialReason::Removed);
        }
        a.send(RECORD).await;
        assert_eq!(
            a.take(RECORD.len()).await.as_deref(),
            Some(RECORD),
            "still listed"
        );
        let mut new = bed.client().await;
        assert_eq!(new.ask(&get("a.example", "/")).await.status(), 200);
        assert_eq!(new.ask(&get("b.example", "/")).await.status(), 502);
    }
}

#[tokio::test]
async fn where_running_connections_are_kept_each_new_request_is_judged_all_the_same() {
    let origin = origin().await;
    let bed = bed(origin, &[(POD, BOTH)]).await;
    let mut kept = bed.client().await;
    assert_eq!(kept.ask(&get("b.example", "/")).await.status(), 200);
    let mut b = tls(&bed, "b.example").await;
    // Running connections are not notified, as with `onRemoval: keep`.
    bed.routes.store(Arc::new(routes(origin, &[(POD, ONLY_A)])));
    assert_eq!(kept.ask(&get("b.example", "/")).await.status(), 502);
    assert_eq!(kept.ask(&get("a.example", "/")).await.status(), 200);
    b.send(RECORD).await;
    assert_eq!(b.take(RECORD.len()).await.as_deref(), Some(RECORD), "kept");
    let mut new = bed.client().await;
    new.send(&real_hello("b.example")).await;
    assert!(new.rest().await.is_empty());
}

#[tokio::test]
async fn a_flow_whose_owner_the_kernel_forgot_is_closed_whatever_it_was_redirected_under() {
    let origin = origin().await;
    for (cgroup, denied) in [(CONTAINER, true), (CgroupId(0), false)] {
        let flow = Origin {
            policy: BOTH,
            cgroup,
            owners: vec![],
            ..destination("192.0.2.1:80")
        };
        let bed = Bed::with(PortRoutes::default(), Some(flow), Limits::default()).await;
        // An entry of the cgroup itself does not show whether a deeper one has an entry.
        bed.put(routes(origin, &[(CONTAINER, BOTH)]));
        let mut client = bed.client().await;
        client.send(get("b.example", "/").as_bytes()).await;
        if denied {
            assert!(client.rest().await.is_empty());
            assert_eq!(bed.denial().await, DenialReason::UnknownOwner);
        } else {
            // In the kernel it has the root's default too.
            assert_eq!(client.message().await.unwrap().status(), 200);
        }
    }
}

/// Stricter than the promised 100 ms: no request that is sent after a change is judged by the former policy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_changes_under_load_let_no_request_through_that_is_not_listed() {
    let changes = std::env::var("EGRESS_POLICY_CHANGES").ok();
    let changes: usize = changes.map_or(300, |text| text.parse().unwrap());
    let origin = origin().await;
    let bed = Arc::new(bed(origin, &[(POD, BOTH)]).await);
    // If odd, the narrow policy is in force. While `settled` is behind, a change is in progress.
    let (begun, settled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (asked, over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (bed, begun, settled) = (bed.clone(), begun.clone(), settled.clone());
        let (asked, over) = (asked.clone(), over.clone());
        clients.spawn(async move {
            let mut judged = [0_usize; 2];
            while !over.load(Ordering::SeqCst) {
                let mut client = bed.client().await;
                loop {
                    let before = settled.load(Ordering::SeqCst);
                    client.send(get("b.example", "/").as_bytes()).await;
                    let answer = client.message().await.map(|message| message.status());
                    let same = begun.load(Ordering::SeqCst) == before;
                    asked.fetch_add(1, Ordering::SeqCst);
                    if same {
                        let narrow = before % 2;
                        judged[narrow] += 1;
                        // A connection whose host was removed by the previous change may be ending.
                        let fits = match answer {
                            Some(status) => status == [200, 502][narrow],
                            None => true,
                        };
                        assert!(fits, "change {before}: {answer:?}");
                    }
                    if answer.is_none() || over.load(Ordering::SeqCst) {
                        break;
                    }
                }
            }
            judged
        });
    }
    for change in 1..=changes {
        let owner = [(POD, [BOTH, ONLY_A][change % 2])];
        begun.store(change, Ordering::SeqCst);
        bed.put(routes(origin, &owner));
        settled.store(change, Ordering::SeqCst);
        let seen = asked.load(Ordering::SeqCst);
        while asked.load(Ordering::SeqCst) < seen + 4 {
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::SeqCst);
    let judged = clients.join_all().await;
    let sums = judged.iter().fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
    println!("requests judged while no change was under way: {sums:?} (wide, narrow)");
    assert!(sums.iter().all(|sum| *sum > changes / 4), "{sums:?}");
}
