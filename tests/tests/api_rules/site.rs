//! A lab whose agent takes its rules from an API server.

use egress_tests::api::FakeApi;
pub use egress_tests::crowd::BYSTANDER;
use egress_tests::lab::{host, v4};
pub use egress_tests::watcher::now;
use egress_tests::{Background, Lab, LabOptions, wait_until};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

const BUSY: &str = env!("CARGO_BIN_EXE_busy");

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
        self.api.install_istio();
    }

    /// With an agent that is ready.
    pub fn start(options: LabOptions) -> Self {
        let mut site = Self::without_agent(options);
        site.lab.start_agent().unwrap();
        site
    }

    /// As `kubectl apply` does, without waiting for the agent.
    pub fn put(&self, text: &str) {
        self.api.apply(text).unwrap();
    }

    /// The same for `kubectl delete`.
    pub fn take(&self, text: &str) {
        self.api.unapply(text).unwrap();
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
