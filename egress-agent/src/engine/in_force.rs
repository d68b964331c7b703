//! The rules in force: their objects, the copy of them for the next agent, and the log line that
//! announces them. Does not know what a rule means.

use super::rules_file::RulesFile;
use crate::sources::{Difference, Objects};
use egress_core::policy::state::State;
use std::path::Path;

/// See the module.
pub(super) struct InForce {
    objects: Objects,
    file: RulesFile,
    /// The log does not have the line yet, because the agent still asks for names in the rules.
    unannounced: bool,
}

impl InForce {
    /// No rules yet. The copy is beside the admin socket.
    pub(super) fn none(admin_socket: &Path) -> Self {
        Self {
            objects: Objects::default(),
            file: RulesFile::beside(admin_socket),
            unannounced: false,
        }
    }

    /// The difference between the rules in force and other ones.
    pub(super) fn until(&self, objects: &Objects) -> Difference {
        objects.since(&self.objects)
    }

    /// Takes the first rules of this agent.
    pub(super) fn begin(&mut self, objects: Objects) {
        self.file.keep(objects.clone());
        self.objects = objects;
    }

    /// Takes the rules of the previous agent. They are in the copy already.
    pub(super) fn fall_back(&mut self, objects: Objects) {
        self.objects = objects;
    }

    /// Takes other rules. [`Self::announce`] announces them.
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
