//! The agent is replaced under load while it takes rules, identities and ranges from the Kubernetes API.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::api::FakeApi;
use egress_tests::lab::{host, v4};
use egress_tests::pods::cluster::{NODE, object};
use egress_tests::pods::{Pod, Pods};
use egress_tests::readiness::spawn;
use egress_tests::takeover::{self, Load, SOON};
use egress_tests::{Lab, LabOptions, steady, wait_until};
use rustix::process::Signal;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long listed HTTP may be denied.
const DENIED: Duration = Duration::from_millis(200);
/// The pause between two direct flows of a kind.
const PAUSE: Duration = Duration::from_millis(5);
/// Names in the rules, beside those of the load.
const NAMES: usize = 300;

/// A direct destination of one namespace only: the agent must know who a pod is.
fn of_namespace(text: &str) -> String {
    let private = text.replace("metadata: {", "metadata: {namespace: shop, ");
    private.replace("spec:", "spec:\n  exportTo: ['.']")
}

/// The node, two pods in `shop`, and the server. The agent ends first.
struct Site {
    pods: [Pod; 2],
    late: Vec<Pod>,
    here: Pods,
    lab: Lab,
    api: FakeApi,
    _turn: MutexGuard<'static, ()>,
}

/// The load of one test is enough for a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// Creates a pod and waits until the agent serves it.
fn join(lab: &Lab, api: &FakeApi, here: &Pods, name: &str) -> Pod {
    let pod = here.create(lab).unwrap();
    let object = object(&pod.uid, "shop", name, &json!({"app": "web"}));
    api.put("pods", object).unwrap();
    wait_until("the pod is known and served", SOON, || {
        let echo = SocketAddr::new(v4(host::ECHO), 7);
        let known = egress_tests::probe::attempt(&pod.place(), "tcp", echo)
            .ok()?
            .passed();
        (known && pod.curl(&["http://httpbin.org/get"]).ok()?.code == 200).then_some(())
    })
    .unwrap();
    pod
}

impl Site {
    fn start() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lab = Lab::without_agent(LabOptions {
            files: false,
            ..LabOptions::default()
        })
        .unwrap();
        let api = FakeApi::start_in(lab.node()).unwrap();
        let kubeconfig = api.kubeconfig().unwrap().display().to_string();
        lab.add_flags(&[
            "--kubernetes-rules",
            "--kubernetes-node",
            NODE,
            "--kubeconfig",
            &kubeconfig,
        ]);
        api.install_istio();
        api.install_ranges();
        api.install_service_ranges();
        let node = json!({
            "metadata": {"name": NODE}, "spec": {"podCIDR": "10.244.1.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "203.0.113.251"}]},
        });
        api.put("nodes", node).unwrap();
        steady::prepare(&lab).unwrap();
        for (name, text) in steady::LISTED {
            let text = if name.starts_with("echo") {
                of_namespace(text)
            } else {
                text.to_owned()
            };
            api.apply(&text).unwrap();
        }
        lab.start_agent().unwrap();
        takeover::list_by(&lab, NAMES, |_, text| api.apply(text)).unwrap();
        let here = Pods::on(&lab).unwrap();
        let pods = ["web-0", "web-1"].map(|name| join(&lab, &api, &here, name));
        Self {
            pods,
            late: Vec::new(),
            here,
            lab,
            api,
            _turn: turn,
        }
    }

    /// A pod gets its policy at the last moment: a check of the flows of such pods is due while the next agent takes
    /// over.
    fn join(&mut self, name: &str) {
        let pod = join(&self.lab, &self.api, &self.here, name);
        self.late.push(pod);
    }

    /// As a DaemonSet with `maxSurge` does: the next agent starts, and then the last one is told to end.
    fn roll(&mut self) {
        let mut next = spawn(&self.lab, &self.lab.agent_place(), &[]).unwrap();
        self.lab.agent().unwrap().signal(Signal::TERM).unwrap();
        next.wait_ready().unwrap();
        let mut old = self.lab.swap_agent(next).unwrap();
        let ended = old.wait_end(SOON).unwrap();
        assert!(ended.success(), "{ended}");
    }

    fn under_load(&mut self, how: &str, act: impl FnOnce(&mut Self)) {
        let [first, second] = &self.pods;
        let direct = steady::slow_load(&first.place(), PAUSE).unwrap();
        let http = Load::start_in(&self.lab, &second.place()).unwrap();
        act(self);
        let noticed = http.end(&self.lab).unwrap();
        println!("{how}: {noticed:?}");
        assert_eq!(noticed.tls, 200, "{noticed:?}");
        assert!(noticed.count("/fresh/ok").unwrap() > 50, "{noticed:?}");
        assert!(noticed.denied_for().unwrap() <= DENIED, "{noticed:?}");
        assert_eq!(noticed.count("/kept/cut").unwrap(), 0, "{noticed:?}");
        assert!(noticed.nothing_leaked(), "{noticed:?}");
        let counts = direct.stop().unwrap();
        println!("{how}: {counts:?}");
        steady::assert_held(&self.lab, &counts);
        let echo = SocketAddr::new(v4(host::ECHO), 7);
        let stranger = self.lab.attempt("tcp", echo).unwrap();
        assert!(
            stranger.denied(),
            "{how}: not of the namespace: {stranger:?}"
        );
    }
}

#[test]
fn a_rolling_update_denies_listed_http_for_a_moment_only_and_a_rule_that_changes_meanwhile_is_in_force()
 {
    let mut site = Site::start();
    site.under_load("two rolling updates", |site| {
        site.join("late-0");
        site.roll();
        site.api.apply(&of_namespace(ADDED)).unwrap();
        site.join("late-1");
        site.roll();
    });
    let added = SocketAddr::new(v4(host::HTTPBIN), 443);
    let reached = egress_tests::probe::attempt(&site.pods[0].place(), "tcp", added).unwrap();
    // Nothing listens there.
    assert!(!reached.denied(), "{reached:?}");
}

/// A port of a host that the load uses otherwise.
const ADDED: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: added}
spec:
  hosts: [added.example]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.10}]
";

#[test]
fn a_rolling_update_while_the_server_is_away_keeps_rules_identities_and_ranges() {
    let mut site = Site::start();
    site.api.stop().unwrap();
    site.under_load("a rolling update without the server", Site::roll);
    let status = site.lab.status().unwrap();
    let ranges = status["cluster"]["found"]["pods"].to_string();
    assert!(ranges.contains("10.244.1.0/24"), "{status}");
}
