//! Which nodes have a rule in force, by the objects of its kind, the agents' pods and the agents' reports. Asks nobody.
//!
//! A node's report has the digest of the versions that it has. A digest stands for one state of the kind's objects; it
//! counts if the rule is in that state as the user wants it. So a node that is behind by another object's change counts as
//! well, and no node needs to list its objects.

use super::report::Report;
use crate::kubernetes::Key;
use crate::sources::Digest;
use egress_core::istio::RuleName;
use std::collections::{BTreeMap, BTreeSet};

/// The most nodes that a message names.
const NAMED: usize = 20;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// This generation or a later one is in force; without a number, the version that exists.
    InForce(Option<i64>),
    /// The object does not exist, and is in force nowhere.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    rule: RuleName,
    goal: Goal,
    /// The objects of the kind: the uid, and the generation.
    objects: BTreeMap<Key, (String, i64)>,
    /// Their versions.
    digest: Digest,
    /// The states in which the rule is as it should be.
    good: BTreeSet<Digest>,
    /// The node of each of the agents' pods.
    agents: BTreeMap<Key, Option<String>>,
    /// By node.
    reports: BTreeMap<String, Report>,
}

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All nodes have it: their number.
    Done(usize),
    /// It will not be so without a change.
    Never(String),
    /// Not yet.
    NotYet(String),
}

impl Tally {
    pub(super) fn new(rule: RuleName, goal: Goal) -> Self {
        Self {
            rule,
            goal,
            objects: BTreeMap::new(),
            digest: Digest::default(),
            good: BTreeSet::new(),
            agents: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }

    /// An object of the kind was created or changed.
    pub(super) fn put(&mut self, key: Key, uid: String, generation: i64) {
        self.digest = self.digest.with(Digest::of(&uid, generation));
        let before = self.objects.insert(key, (uid, generation));
        self.lose(before);
    }

    /// An object of the kind was deleted.
    pub(super) fn remove(&mut self, key: &Key) {
        let before = self.objects.remove(key);
        self.lose(before);
    }

    fn lose(&mut self, before: Option<(String, i64)>) {
        if let Some((uid, generation)) = before {
            self.digest = self.digest.without(Digest::of(&uid, generation));
        }
    }

    /// The objects are those of the server.
    pub(super) fn settled(&mut self) {
        let generation = self.generation();
        let good = match self.goal {
            Goal::Gone => generation.is_none(),
            Goal::InForce(least) => generation.is_some_and(|now| least.is_none_or(|n| n <= now)),
        };
        if good {
            self.good.insert(self.digest);
        } else {
            // A node that has a state from before the rule was changed back has not read the present one.
            self.good.clear();
        }
    }

    fn generation(&self) -> Option<i64> {
        let RuleName {
            namespace, name, ..
        } = &self.rule;
        let (namespace, name) = (namespace.clone(), name.clone());
        let object = self.objects.get(&Key { namespace, name });
        object.map(|(_, generation)| *generation)
    }

    /// A pod of an agent, and its node once it has one.
    pub(super) fn agent(&mut self, pod: Key, node: Option<String>) {
        self.agents.insert(pod, node);
    }

    /// A pod that ends, or is gone.
    pub(super) fn no_agent(&mut self, pod: &Key) {
        self.agents.remove(pod);
    }

    /// The report of a node; `None` if it is gone.
    pub(super) fn report(&mut self, node: String, report: Option<Report>) {
        match report {
            Some(report) => drop(self.reports.insert(node, report)),
            None => drop(self.reports.remove(&node)),
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        if let Some(why) = self.not_there() {
            return Verdict::NotYet(why);
        }
        if self.agents.is_empty() {
            return Verdict::NotYet("there is no pod of an agent: name its namespace with --namespace and its labels with --selector".to_owned());
        }
        let nodes: BTreeSet<&str> = self.agents.values().flatten().map(String::as_str).collect();
        let mut missing = Vec::new();
        let mut refused = Vec::new();
        for node in &nodes {
            match self.lacks(node) {
                Some(Lack::Refused(why)) => refused.push(format!("{node}: {why}")),
                Some(Lack::Behind(why)) => missing.push(format!("{node}: {why}")),
                None => {}
            }
        }
        let placeless = self.agents.iter().filter(|(_, node)| node.is_none());
        missing.extend(placeless.map(|(pod, _)| format!("pod {pod}: it is on no node yet")));
        let all = nodes.len();
        if !refused.is_empty() {
            let (count, named) = (refused.len(), named(&refused));
            return Verdict::Never(format!(
                "{} is refused on {count} of {all} nodes: {named}",
                self.rule
            ));
        }
        if missing.is_empty() {
            return Verdict::Done(all);
        }
        let state = match self.goal {
            Goal::Gone => "may still be in force",
            Goal::InForce(_) => "is not in force",
        };
        let count = missing.len();
        let mut text = format!(
            "{} {state} on {count} of {all} nodes: {}",
            self.rule,
            named(&missing)
        );
        if self.reports.is_empty() {
            text.push_str("; no agent publishes which rules it has: set kubernetes.publishRules");
        }
        Verdict::NotYet(text)
    }

    /// Why the object itself is not as it should be.
    fn not_there(&self) -> Option<String> {
        let rule = &self.rule;
        match (self.goal, self.generation()) {
            (Goal::Gone, Some(_)) => Some(format!("{rule} exists")),
            (Goal::InForce(_), None) => Some(format!("{rule} does not exist")),
            (Goal::InForce(Some(least)), Some(now)) if now < least => {
                Some(format!("{rule} has generation {now}"))
            }
            (Goal::Gone, None) | (Goal::InForce(_), Some(_)) => None,
        }
    }

    fn lacks(&self, node: &str) -> Option<Lack> {
        let behind = |text: &str| Some(Lack::Behind(text.to_owned()));
        let Some(report) = self.reports.get(node) else {
            return behind("its agent has published nothing");
        };
        let Some(versions) = report.versions(self.rule.kind) else {
            return behind("its agent has not read the objects of the Kubernetes API");
        };
        if !self.good.contains(&versions) {
            return behind(
                report
                    .problem()
                    .unwrap_or("it has an earlier state of the rules"),
            );
        }
        match self.goal {
            Goal::Gone => None,
            Goal::InForce(_) => report.refused(&self.rule).map(Lack::Refused),
        }
    }
}

/// Why a node does not count.
enum Lack {
    /// It may follow.
    Behind(String),
    /// It has read the object.
    Refused(String),
}

fn named(all: &[String]) -> String {
    let shown = all.iter().take(NAMED).cloned().collect::<Vec<_>>();
    let more = all.len().saturating_sub(NAMED);
    let text = shown.join("; ");
    if more > 0 {
        format!("{text}; and {more} more")
    } else {
        text
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
