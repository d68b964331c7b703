//! The rules in force: their objects, the copy of them for the next agent, the log line that announces them, and what is
//! published about them. Does not know what a rule means.

use super::rules_file::RulesFile;
use crate::applied::Applied;
use crate::sources::{Difference, Objects, RuleSet};
use egress_core::policy::state::State;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
pub(super) struct InForce {
    objects: Objects,
    file: RulesFile,
    /// The log does not have the line yet, because the agent still asks for names in the rules.
    unannounced: bool,
    /// A published set, and the names that had no answer when it was taken.
    resolving: Option<(Applied, BTreeSet<Arc<str>>)>,
    /// The latest set, while the names of an earlier one have no answer.
    next: Option<Applied>,
    applied: watch::Sender<Arc<Applied>>,
}

impl InForce {
    /// No rules yet. The copy is beside the admin socket.
    pub(super) fn none(admin_socket: &Path) -> Self {
        Self {
            objects: Objects::default(),
            file: RulesFile::beside(admin_socket),
            unannounced: false,
            resolving: None,
            next: None,
            applied: watch::Sender::default(),
        }
    }

    /// The rules that are in force, with the answers for their names.
    pub(super) fn applied(&self) -> watch::Receiver<Arc<Applied>> {
        self.applied.subscribe()
    }

    /// The difference between the rules in force and other ones.
    pub(super) fn until(&self, objects: &Objects) -> Difference {
        objects.since(&self.objects)
    }

    /// Takes the first rules of this agent.
    pub(super) fn begin(&mut self, rules: &RuleSet) {
        self.file.keep(rules.objects.clone());
        self.objects = rules.objects.clone();
        self.next = Some(Applied {
            objects: rules.objects.clone(),
            api: rules.api.clone(),
            refused: Arc::clone(&rules.refused),
            problem: None,
        });
    }

    /// Takes the rules of the previous agent. They are in the copy already.
    pub(super) fn fall_back(&mut self, objects: Objects, problem: String) {
        self.objects = objects.clone();
        self.next = Some(Applied {
            objects,
            problem: Some(problem),
            ..Applied::default()
        });
    }

    /// Takes other rules. [`Self::announce`] announces them.
    pub(super) fn change(&mut self, rules: &RuleSet) {
        self.begin(rules);
        self.unannounced = true;
    }

    /// Other rules were not taken.
    pub(super) fn does_not_fit(&self, problem: String) {
        self.applied.send_modify(|applied| {
            let same = Applied::clone(applied);
            *applied = Arc::new(Applied {
                problem: Some(problem),
                ..same
            });
        });
    }

    /// Announces and publishes changed rules once each name in them has an answer or a failure. The tables of the kernel
    /// have these rules.
    pub(super) fn announce(&mut self, state: &State) {
        let unresolved = state.unresolved();
        if self.unannounced && unresolved.is_empty() {
            tracing::info!(
                objects = self.objects.len(),
                generation = state.generation().0,
                "rules applied"
            );
            self.unannounced = false;
        }
        // Names of later rules do not hold up earlier ones, so that rules which change all the time are published too.
        while let Some((set, mut names)) = self.resolving.take().or_else(|| {
            let set = self.next.take()?;
            Some((set, unresolved.clone()))
        }) {
            // One look for each call and each name: this runs after each answer.
            while let Some(first) = names.first() {
                if unresolved.contains(first) {
                    self.resolving = Some((set, names));
                    return;
                }
                names.pop_first();
            }
            self.applied.send_replace(Arc::new(set));
        }
    }
}
