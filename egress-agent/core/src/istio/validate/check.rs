//! The state of validating one object: the current field and the findings.

use crate::istio::decode::Object;
use crate::istio::decode::node::Node;
use crate::istio::message::{Message, Messages, Path, Severity, Step};
use std::collections::BTreeMap;

/// A rule's outcome: the reason why a value is rejected.
pub type Rule = Result<(), String>;

/// Walks an object's fields and collects messages with their places.
pub struct Check<'o> {
    object: &'o Object,
    /// Its document, for places.
    root: &'o Node,
    path: Path,
    messages: Messages,
    errors_only: bool,
}

impl<'o> Check<'o> {
    /// Starts at `spec`.
    pub fn new(object: &'o Object, root: &'o Node) -> Self {
        Self {
            object,
            root,
            path: Path(vec![Step::Field("spec")]),
            messages: Messages::default(),
            errors_only: false,
        }
    }

    /// The object that is checked.
    pub fn object(&self) -> &'o Object {
        self.object
    }

    /// What was found.
    pub fn finish(self) -> Vec<Message> {
        self.messages.into_vec()
    }

    fn say(&mut self, severity: Severity, text: impl FnOnce() -> String) {
        // Finding a place costs time in the size of the maps on the way, which a file of nothing
        // but mistakes is not given.
        if !self.messages.has_room(severity) {
            return;
        }
        let message = self.root.message(severity, &self.path, text());
        self.messages.push(message);
    }

    /// Records an error at the current field.
    pub fn error(&mut self, text: impl Into<String>) {
        self.say(Severity::Error, || text.into());
    }

    /// As [`Self::error`], for a text that grows with more than the field: it is made only if it is
    /// kept.
    pub fn error_with(&mut self, text: impl FnOnce() -> String) {
        self.say(Severity::Error, text);
    }

    /// Records a warning at the current field, unless the surroundings drop them.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warn_with(|| text.into());
    }

    /// As [`Self::warn`], for a text that grows with more than the field: it is made only if it is
    /// kept.
    pub fn warn_with(&mut self, text: impl FnOnce() -> String) {
        if !self.errors_only {
            self.say(Severity::Warning, text);
        }
    }

    /// Records the reason of a rule that failed.
    pub fn require(&mut self, rule: Rule) {
        if let Err(reason) = rule {
            self.error(reason);
        }
    }

    /// Goes into a field.
    pub fn at<T>(&mut self, key: &'static str, check: impl FnOnce(&mut Self) -> T) -> T {
        self.within(Step::Field(key), check)
    }

    /// Goes into a field that may be unset.
    pub fn some<T>(
        &mut self,
        key: &'static str,
        value: Option<&T>,
        check: impl FnOnce(&mut Self, &T),
    ) {
        if let Some(value) = value {
            self.at(key, |this| check(this, value));
        }
    }

    /// Goes into each element of a list.
    pub fn each<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        mut check: impl FnMut(&mut Self, &T),
    ) {
        self.at(key, |this| {
            for (index, item) in items.iter().enumerate() {
                this.within(Step::Index(index), |this| check(this, item));
            }
        });
    }

    /// Goes into each entry of a map.
    pub fn each_entry<T>(
        &mut self,
        key: &'static str,
        map: &BTreeMap<String, T>,
        mut check: impl FnMut(&mut Self, &str, &T),
    ) {
        self.at(key, |this| {
            for (name, value) in map {
                this.within(Step::Key(name.clone()), |this| {
                    check(this, name, value);
                });
            }
        });
    }

    /// Goes into one element of a list.
    pub fn element<T>(
        &mut self,
        key: &'static str,
        index: usize,
        check: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.at(key, |this| this.within(Step::Index(index), check))
    }

    /// Drops warnings of what is checked inside. Istio collects the findings of some blocks as plain
    /// errors, which loses their warnings; the verdict must be the same here.
    pub fn errors_only(&mut self, check: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.errors_only, true);
        check(self);
        self.errors_only = before;
    }

    fn within<T>(&mut self, step: Step, check: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let value = check(self);
        self.path.0.pop();
        value
    }
}
