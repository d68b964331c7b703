//! What the agent takes from the Kubernetes API: connects, begins to follow, and says what is missing for readiness.
//!
//! Owns no connection. `kubernetes` talks to the server, `sources` makes rules of objects.

use crate::applied::Applied;
use crate::conditions;
use crate::config::Config;
use crate::failure::Failure;
use crate::kernel::canary;
use crate::kubernetes::{self, ApiClient, RangeFinder, Ranges, Standings};
use crate::observe::readiness::{Board, Part};
use crate::observe::trouble::Trouble;
use crate::secret_store::SecretStore;
use crate::sources::{ApiRules, Feed, RuleSet, Sources, follow_api, follow_rules, store};
use egress_core::istio::is_api;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::interval;

/// The time that the start waits for the first lists. An agent whose server does not answer begins with the last good
/// rules.
const FIRST_LISTS: Duration = Duration::from_secs(1);
/// Time between two looks at whether the rules are known, until they are.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// See the module.
pub struct Cluster {
    /// The client; `None` if the API is not used.
    pub api: Option<ApiClient>,
    /// The Secrets that rules may name, of rule files and of the API.
    pub secrets: Arc<SecretStore>,
    /// How current the followed kinds are.
    pub standings: Standings,
    /// The rules of the API; `None` if none are taken from there.
    pub rules: Option<ApiRules>,
    /// How this agent is called among the cluster's agents, if it takes part in an election.
    pub candidate: Option<String>,
    /// The cluster's own ranges; `None` if they are not looked for.
    pub ranges: Option<watch::Receiver<Arc<Ranges>>>,
}

impl Cluster {
    /// Begins to follow what the config says. A server that is away is no error.
    pub async fn begin(config: &Config) -> anyhow::Result<Self> {
        let mut cluster = Self {
            api: None,
            secrets: Arc::default(),
            standings: Standings::default(),
            rules: None,
            candidate: None,
            ranges: None,
        };
        let Some(settings) = &config.kubernetes else {
            return Ok(cluster);
        };
        let client = kubernetes::connect(settings).await?;
        cluster.api = Some(client.clone());
        if settings.cluster_ranges {
            let reserved = canary::TARGETS.map(|target| target.ip());
            let finder = RangeFinder::beside(&config.admin_socket, reserved.to_vec());
            cluster.ranges = Some(finder.ranges());
            tokio::spawn(finder.run(client.clone(), cluster.standings.clone()));
        }
        if settings.rules && settings.conditions {
            let pod = settings.pod.as_ref().map(|pod| pod.uid.clone());
            let own = pod.unwrap_or_else(|| kubernetes::random().to_string());
            cluster.candidate = Some(format!("{}_{own}", settings.node));
        }
        if settings.rules {
            let rules = ApiRules::new(&cluster.standings);
            let secrets = Arc::clone(&cluster.secrets);
            tokio::spawn(follow_api(client, rules.clone(), secrets));
            rules.first_answers(FIRST_LISTS).await;
            cluster.rules = Some(rules);
        }
        Ok(cluster)
    }

    /// Gives up what one agent of the cluster holds, in a bounded time.
    pub async fn resign(&self) {
        if let (Some(api), Some(candidate)) = (&self.api, &self.candidate) {
            conditions::release(api.clone(), candidate.clone()).await;
        }
    }

    /// The ranges for the engine; without a cluster there are none.
    pub fn ranges(&self) -> watch::Receiver<Arc<Ranges>> {
        let none = || watch::Sender::new(Arc::default()).subscribe();
        self.ranges.clone().unwrap_or_else(none)
    }

    /// Loads the rules of files and of the API, and follows them.
    pub fn follow_rules(
        &self,
        config: &Config,
    ) -> Result<(Feed<RuleSet>, impl Future<Output = ()> + Send + use<>), Failure> {
        let sources = Sources {
            paths: config.rules.clone(),
            api: self.rules.clone(),
        };
        let store = store::beside(&config.admin_socket);
        follow_rules(&sources, &store, config.root_namespace(), &self.secrets)
    }

    /// Keeps the agent from being ready until the rules of the API are in force, unless those of a previous agent are
    /// (`first`). Then it returns.
    pub fn first_rules(
        &self,
        first: &RuleSet,
        applied: watch::Receiver<Arc<Applied>>,
        board: Board,
    ) -> impl Future<Output = ()> + use<> {
        let restored = first.objects.iter().any(|object| is_api(&object.source));
        let rules = self.rules.clone().filter(|_| !restored);
        async move {
            let Some(rules) = rules else {
                return;
            };
            let mut look = interval(POLL_INTERVAL);
            loop {
                let missing = rules.missing();
                let trouble = if !missing.is_empty() {
                    Some(Trouble::NoRules(missing))
                } else if !has_answer(&applied.borrow()) {
                    Some(Trouble::RulesNotInForce)
                } else {
                    None
                };
                let ends = trouble.is_none();
                board.set(Part::Rules, trouble);
                if ends {
                    return;
                }
                look.tick().await;
            }
        }
    }
}

/// Whether the rules of the API are in force, or do not fit.
fn has_answer(applied: &Applied) -> bool {
    !applied.api.is_empty() || applied.problem.is_some()
}
