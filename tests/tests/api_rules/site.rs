//! A lab whose agent takes its rules from an API server.

use egress_tests::api::{FakeApi, Resource};
use egress_tests::lab::{host, v4};
use egress_tests::{Background, Lab, LabOptions, wait_until};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BUSY: &str = env!("CARGO_BIN_EXE_busy");

/// Kinds and their names in paths.
pub const KINDS: [(&str, &str); 5] = [
    ("ServiceEntry", "serviceentries"),
    ("VirtualService", "virtualservices"),
    ("DestinationRule", "destinationrules"),
    ("Sidecar", "sidecars"),
    ("WorkloadEntry", "workloadentries"),
];

/// The bystander's TLS port as plain TCP, so that a connect shows the kernel's verdict.
pub const BYSTANDER: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bystander, namespace: shop}
spec:
  hosts: [bystander.example]
  ports: [{number: 443, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.99}, {address: '2001:db8:2::99'}]
";

/// The lab and the server. The agent ends first.
pub struct Site {
    pub lab: Lab,
    pub api: FakeApi,
    _turn: Turn,
}

/// A test that measures runs alone: the clients of others use whole processors.
static TURN: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held until the site is gone")]
enum Turn {
    Beside(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// Only the API has rules.
pub fn api_only() -> LabOptions {
    LabOptions {
        files: false,
        ..LabOptions::default()
    }
}

impl Site {
    /// Without an agent. The server serves all kinds.
    pub fn without_agent(options: LabOptions) -> Self {
        let site = Self::without_kinds(options);
        site.install();
        site
    }

    /// The same, while no other test of the suite runs.
    pub fn alone(options: LabOptions) -> Self {
        let turn = TURN.write().unwrap_or_else(PoisonError::into_inner);
        let site = Self::with_turn(options, Turn::Alone(turn));
        site.install();
        site
    }

    /// Without an agent. The server serves no kind of Istio's.
    pub fn without_kinds(options: LabOptions) -> Self {
        let turn = TURN.read().unwrap_or_else(PoisonError::into_inner);
        Self::with_turn(options, Turn::Beside(turn))
    }

    fn with_turn(options: LabOptions, turn: Turn) -> Self {
        let mut lab = Lab::without_agent(options).unwrap();
        let api = FakeApi::start_in(lab.node()).unwrap();
        let kubeconfig = api.kubeconfig().unwrap().display().to_string();
        lab.add_flags(&[
            "--kubernetes-rules",
            "--kubernetes-identity=false",
            "--kubernetes-cluster-ranges=false",
            "--kubeconfig",
            &kubeconfig,
        ]);
        Self {
            lab,
            api,
            _turn: turn,
        }
    }

    /// Installs the definitions of all kinds.
    pub fn install(&self) {
        for (kind, plural) in KINDS {
            self.api.install(Resource::istio(kind, plural));
        }
        self.api.install(Resource::core("Secret", "secrets", true));
    }

    /// With an agent that is ready.
    pub fn start(options: LabOptions) -> Self {
        let mut site = Self::without_agent(options);
        site.lab.start_agent().unwrap();
        site
    }

    /// As `kubectl apply` does, without waiting for the agent.
    pub fn put(&self, text: &str) {
        for object in objects(text) {
            self.api.put(plural(&object), object).unwrap();
        }
    }

    /// The same for `kubectl delete`.
    pub fn take(&self, text: &str) {
        for object in objects(text) {
            let metadata = &object["metadata"];
            let text = |key: &str| metadata[key].as_str().unwrap();
            self.api
                .delete(plural(&object), text("namespace"), text("name"))
                .unwrap();
        }
    }

    /// Applies, and waits until the agent has.
    pub fn apply(&self, text: &str) {
        let put = || {
            self.put(text);
            Ok(())
        };
        self.lab.applied(put).unwrap();
    }

    /// The code of an HTTP response; 0 if there is none.
    pub fn code(&self, url: &str) -> u16 {
        self.lab.curl(&["-m", "10", url]).unwrap().code
    }

    /// Waits for this code.
    pub fn wait_code(&self, url: &str, code: u16) {
        let mut last = None;
        let seen = || {
            last = Some(self.code(url));
            (last == Some(code)).then_some(())
        };
        let seen = wait_until("the code", Duration::from_secs(20), seen);
        seen.unwrap_or_else(|error| panic!("{url}: {error}: {last:?} instead of {code}"));
    }

    /// Connects to a host's port again and again.
    pub fn watch(&self, host: u8, port: u16) -> Background {
        let mut command = self.lab.command(BUSY).unwrap();
        command.args(["watch", &SocketAddr::new(v4(host), port).to_string()]);
        Background::start(command).unwrap()
    }

    /// The same for the bystander's port of [`BYSTANDER`].
    pub fn watch_bystander(&self) -> Background {
        self.watch(host::BYSTANDER, 443)
    }
}

/// The objects of a text, in the namespace `default` if they name none.
fn objects(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let objects = documents.map(|document| {
        let mut object = Value::deserialize(document).unwrap();
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!("default");
        }
        object
    });
    objects.collect()
}

fn plural(object: &Value) -> &'static str {
    let kind = object["kind"].as_str().unwrap();
    let found = KINDS.iter().find(|(of, _)| *of == kind);
    found.map_or("secrets", |(_, plural)| plural)
}

/// Microseconds since 1970, as `busy` reports them.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// The time from `since` until a client first saw `outcome`, in microseconds.
pub fn seen_after(client: &Background, outcome: &str, since: u64) -> u64 {
    let fits = |line: &Value| line["outcome"] == outcome && line["at"].as_u64() > Some(since);
    let line = client
        .wait_line(outcome, Duration::from_secs(20), fits)
        .unwrap();
    line["at"].as_u64().unwrap() - since
}

/// The outcomes that a client saw.
pub fn outcomes(client: &Background) -> Vec<String> {
    let lines = client.lines();
    let outcomes = lines.iter().filter_map(|line| line["outcome"].as_str());
    outcomes.map(str::to_owned).collect()
}
