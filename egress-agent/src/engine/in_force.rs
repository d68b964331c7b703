//! The rules in force: their objects, the copy of them for the next agent, and the log line that
//! announces them. Does not know what a rule means.

use super::rules_file::RulesFile;
use crate::sources::{Difference, Objects};
use egress_core::policy::state::State;
use std::path::Path;

/// See the module.
pub(super) struct InForce {
    /// Of the files.
    objects: Objects,
    file: RulesFile,
    /// They were not announced: names in them are being asked.
    unannounced: bool,
}

impl InForce {
    /// None yet, of an agent with this admin socket.
    pub(super) fn none(admin_socket: &Path) -> Self {
        Self {
            objects: Objects::default(),
            file: RulesFile::beside(admin_socket),
            unannounced: false,
        }
    }

    /// What other rules change.
    pub(super) fn until(&self, objects: &Objects) -> Difference {
        objects.since(&self.objects)
    }

    /// The first rules of this agent.
    pub(super) fn begin(&mut self, objects: Objects) {
        self.file.keep(objects.clone());
        self.objects = objects;
    }

    /// Those of the previous agent, which the copy has.
    pub(super) fn fall_back(&mut self, objects: Objects) {
        self.objects = objects;
    }

    /// Other rules, which [`Self::announce`] announces.
    pub(super) fn change(&mut self, objects: Objects) {
        self.begin(objects);
        self.unannounced = true;
    }

    /// Announces changed rules once each name in them has an answer or a failure.
    pub(super) fn announce(&mut self, state: &State) {
        if self.unannounced && state.unresolved().is_empty() {
            tracing::info!(
                objects = self.objects.len(),
                generation = state.generation().0,
                "rules applied"
            );
            self.unannounced = false;
        }
    }
}
