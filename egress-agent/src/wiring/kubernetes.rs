//! Starts what reads from the Kubernetes API beside the rules, and what publishes in it.

use super::cluster::Cluster;
use crate::applied::Applied;
use crate::conditions::keep_conditions;
use crate::config::Config;
use crate::kubernetes::{self, Standings};
use crate::observe::pod_denials::PodDenials;
use crate::observe::readiness::Board;
use crate::pod_events::write_pod_events;
use crate::rollout::{Place, publish_rules};
use crate::workloads::PodNews;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What the agent reads from the Kubernetes API.
pub(super) struct Followed {
    /// The pods of this node; closed if they are not read.
    pub pods: mpsc::Receiver<PodNews>,
    /// How the API answers.
    pub standings: Standings,
    /// Takes denials of pods, for Events on them.
    pub denials: PodDenials,
}

/// News of pods that wait for the engine.
const POD_NEWS: usize = 256;

/// Starts what the config asks of the Kubernetes API for this node: follows its pods, and removes its startup taint. The
/// tasks end with the returned set.
pub(super) fn kubernetes(
    config: &Config,
    cluster: &Cluster,
    board: &Board,
) -> (Followed, JoinSet<()>) {
    let mut helpers = JoinSet::new();
    let (news, pods) = mpsc::channel(POD_NEWS);
    let standings = cluster.standings.clone();
    let mut denials = PodDenials::default();
    if let (Some(settings), Some(api)) = (&config.kubernetes, &cluster.api) {
        if settings.startup_taint {
            let (node, board) = (settings.node.clone(), board.clone());
            helpers.spawn(kubernetes::remove_startup_taint(api.clone(), node, board));
        }
        if settings.events {
            denials = PodDenials::gathering();
            let (node, denials) = (settings.node.clone(), denials.clone());
            helpers.spawn(write_pod_events(api.clone(), node, denials));
        }
        if settings.identity {
            let (node, standing) = (settings.node.clone(), standings.add("pods"));
            helpers.spawn(kubernetes::follow_pods(api.clone(), node, standing, news));
        }
    }
    let followed = Followed {
        pods,
        standings,
        denials,
    };
    (followed, helpers)
}

/// Starts what the agent publishes in the Kubernetes API about the rules in force, as the config says.
pub(super) fn publish(
    config: &Config,
    cluster: &Cluster,
    applied: &watch::Receiver<Arc<Applied>>,
    helpers: &mut JoinSet<()>,
) {
    let (Some(settings), Some(api)) = (&config.kubernetes, &cluster.api) else {
        return;
    };
    if !settings.rules {
        if settings.conditions || settings.publish.is_some() {
            tracing::warn!(
                "kubernetes.conditions and kubernetes.publishRules are about the rules of the API and do nothing here: set \
                 kubernetes.rules"
            );
        }
        return;
    }
    if let Some(candidate) = cluster.candidate.clone() {
        helpers.spawn(keep_conditions(api.clone(), candidate, applied.clone()));
    }
    if let Some(within) = settings.publish {
        let place = Place {
            node: settings.node.clone(),
            pod: settings.pod.clone(),
        };
        let applied = applied.clone();
        helpers.spawn(publish_rules(api.clone(), place, within, applied));
    }
}
