//! The rules that are in force: the kernel's tables and the routes contain them, and each of their names has a DNS answer
//! or a failure. The engine publishes them; who waits for a rule reads them.

use crate::sources::{Objects, Refusals, Versions};
use egress_core::istio::RuleName;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The objects.
    pub objects: Objects,
    /// Which versions of the API's objects were read for them.
    pub api: Versions,
    /// The objects of the API whose version is not in force.
    pub refused: Arc<Refusals>,
    /// Why later rules are not in force as a whole.
    pub problem: Option<String>,
}

/// What is in force of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleState {
    /// A version of it is in force.
    pub in_force: bool,
    /// `metadata.generation` of that version; rule files seldom have one.
    pub generation: Option<i64>,
    /// The version that the agent refused, if it did.
    pub refused: Option<RefusedVersion>,
    /// Why later rules are not in force as a whole.
    pub problem: Option<String>,
}

/// `refused` of [`RuleState`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedVersion {
    /// Its `metadata.generation`.
    pub generation: Option<i64>,
    /// The reasons.
    pub reason: String,
}

impl Applied {
    /// What is in force of an object.
    pub fn state_of(&self, name: &RuleName) -> RuleState {
        let mut objects = self.objects.iter();
        let object = objects.find(|object| {
            let meta = &object.meta;
            object.kind == name.kind && meta.name == name.name && meta.namespace == name.namespace
        });
        let in_force = object.filter(|object| object.denied.is_none());
        RuleState {
            in_force: in_force.is_some(),
            generation: in_force.and_then(|object| object.generation),
            refused: self.refused.get(name).map(|refusal| RefusedVersion {
                generation: refusal.generation,
                reason: refusal.text(),
            }),
            problem: self.problem.clone(),
        }
    }
}
