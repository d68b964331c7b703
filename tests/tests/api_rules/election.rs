//! The election of the agent that writes conditions, against an API server.

use egress_agent::conditions::{Election, Times};
use egress_agent::config::Kubernetes;
use egress_agent::kubernetes::{ApiClient, connect};
use egress_tests::api::{FakeApi, Fault, Resource, Verb};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

const LEASE: &str = "egress-agent-conditions";
const TIMES: Times = Times {
    lease: Duration::from_secs(1),
    deadline: Duration::from_millis(600),
    renew: Duration::from_millis(150),
    look: Duration::from_millis(100),
    rush: Duration::from_millis(20),
};
const SOON: Duration = Duration::from_secs(10);
/// Long enough for several looks.
const WHILE: Duration = Duration::from_millis(600);

fn server() -> (FakeApi, Runtime, ApiClient) {
    let api = FakeApi::start().unwrap();
    api.install(Resource::lease());
    let runtime = Runtime::new().unwrap();
    let settings = Kubernetes {
        kubeconfig: Some(api.kubeconfig().unwrap()),
        ..Kubernetes::default()
    };
    let client = runtime.block_on(connect(&settings)).unwrap();
    (api, runtime, client)
}

fn agent(client: &ApiClient, name: &str) -> Election {
    Election::new(client.clone(), name.to_owned(), TIMES)
}

fn lease(api: &FakeApi) -> Value {
    api.get("leases", "default", LEASE).unwrap()["spec"].clone()
}

#[test]
fn one_of_many_wins_and_another_one_follows_when_it_is_gone() {
    let (api, runtime, client) = server();
    runtime.block_on(async {
        let mut tries = JoinSet::new();
        for n in 0..8 {
            let mut agent = agent(&client, &format!("agent-{n}"));
            tries.spawn(async move {
                let won = timeout(WHILE, agent.win()).await.is_ok();
                (n, agent, won)
            });
        }
        let mut agents = tries.join_all().await;
        let winners: Vec<usize> = (0..8).filter(|n| agents[*n].2).collect();
        assert_eq!(winners.len(), 1, "{winners:?}");
        // While it renews, no other one wins.
        let (first, mut holder, _) = agents.remove(winners[0]);
        assert_eq!(lease(&api)["holderIdentity"], format!("agent-{first}"));
        let (_, mut other, _) = agents.remove(0);
        tokio::select! {
            () = holder.hold() => panic!("lost"),
            () = other.win() => panic!("two holders"),
            () = tokio::time::sleep(TIMES.lease * 2) => {}
        }
        // It is killed.
        drop(holder);
        let since = Instant::now();
        timeout(SOON, other.win()).await.unwrap();
        assert!(since.elapsed() > TIMES.lease / 2, "{:?}", since.elapsed());
        assert_eq!(lease(&api)["leaseTransitions"], 1);
    });
}

#[test]
fn a_released_lease_is_taken_over_at_once() {
    const SLOW: Times = Times {
        lease: Duration::from_mins(10),
        deadline: Duration::from_mins(5),
        renew: Duration::from_mins(1),
        look: Duration::from_mins(10),
        rush: Duration::from_millis(50),
    };
    let (api, runtime, client) = server();
    runtime.block_on(async {
        let mut holder = Election::new(client.clone(), "a".to_owned(), SLOW);
        timeout(SOON, holder.win()).await.unwrap();
        let mut other = Election::new(client.clone(), "b".to_owned(), SLOW);
        assert!(timeout(WHILE, other.win()).await.is_err());
        // Only the holder can release it.
        other.release().await.unwrap();
        assert_eq!(lease(&api)["holderIdentity"], "a");
        let mut win = Box::pin(other.win());
        assert!(timeout(WHILE, &mut win).await.is_err());
        holder.release().await.unwrap();
        timeout(SOON, win).await.unwrap();
        assert_eq!(lease(&api)["holderIdentity"], "b");
        assert_eq!(lease(&api)["leaseTransitions"], 1);
        // One that is free and cannot be written is not tried again and again.
        other.release().await.unwrap();
        assert_eq!(lease(&api)["holderIdentity"], "");
        api.fault(|asked| {
            (asked.plural == "leases" && asked.verb == Verb::Update)
                .then_some(Fault::Status(403, "Forbidden"))
        });
        let before = api.requests(Verb::Update, "leases");
        assert!(timeout(WHILE, holder.win()).await.is_err());
        // At once, and after the first list.
        assert!(api.requests(Verb::Update, "leases") - before <= 2);
    });
}

#[test]
fn no_other_clock_counts() {
    let (api, runtime, client) = server();
    for (name, renewed) in [
        ("past", "1999-01-01T00:00:00.000000Z"),
        ("future", "2099-01-01T00:00:00.000000Z"),
    ] {
        let spec = json!({
            "holderIdentity": "other", "leaseDurationSeconds": 1, "renewTime": renewed, "acquireTime": renewed,
            "leaseTransitions": 3,
        });
        let object = json!({"metadata": {"name": LEASE, "namespace": "default"}, "spec": spec});
        api.put("leases", object).unwrap();
        runtime.block_on(async {
            let mut agent = agent(&client, name);
            // A Lease that was just seen for the first time is not free, however old its time is.
            let early = timeout(WHILE, agent.win()).await;
            assert!(early.is_err(), "{name}: taken from a holder that may live");
            timeout(SOON, agent.win()).await.unwrap();
        });
        let spec = lease(&api);
        assert_eq!(
            (&spec["holderIdentity"], &spec["leaseTransitions"]),
            (&json!(name), &json!(4))
        );
    }
}

#[test]
fn a_holder_that_cannot_renew_stops_before_another_one_may_begin() {
    let (api, runtime, client) = server();
    runtime.block_on(async {
        let mut holder = agent(&client, "a");
        timeout(SOON, holder.win()).await.unwrap();
        let since = Instant::now();
        api.fault(|asked| (asked.plural == "leases").then_some(Fault::Hang));
        timeout(SOON, holder.hold()).await.unwrap();
        assert!(since.elapsed() < TIMES.lease, "{:?}", since.elapsed());
        api.no_fault();
        // Errors are no reason to give up at once.
        timeout(SOON, holder.win()).await.unwrap();
        api.fault(|asked| {
            (asked.plural == "leases").then_some(Fault::Status(500, "InternalError"))
        });
        let mut hold = Box::pin(holder.hold());
        assert!(timeout(TIMES.renew * 2, &mut hold).await.is_err());
        api.no_fault();
        assert!(
            timeout(TIMES.lease, &mut hold).await.is_err(),
            "renewed again"
        );
    });
}
