//! The entries of a YAML map while it is read: which keys are set already, and what `<<` merges in.
//! Which keys a map may have is not decided here.

use super::node::{Entry, Node, Value};
use std::collections::HashMap;

/// The entries of a map that is being read.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) list: Vec<Entry>,
    /// Lines by key, once there are more than a look at each is good for.
    lines: HashMap<String, u32>,
}

impl Entries {
    const FEW: usize = 32;

    /// The line on which a key is set already.
    pub(super) fn line_of(&self, key: &str) -> Option<u32> {
        if self.list.len() > Self::FEW {
            return self.lines.get(key).copied();
        }
        self.list
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.mark.line)
    }

    /// Adds one whose key is not set yet.
    pub(super) fn push(&mut self, entry: Entry) {
        self.list.push(entry);
        if self.list.len() > Self::FEW {
            let known = self.lines.len();
            self.lines.extend(
                self.list[known..]
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.mark.line)),
            );
        }
    }
}

/// The entries that `<<` brings in: of one map, or of several of which the first wins.
pub(super) fn merge_sources(node: Node) -> Option<Vec<Entry>> {
    match node.value {
        Value::Map(entries) => Some(entries),
        Value::List(items) => items
            .into_iter()
            .map(|item| match item.value {
                Value::Map(entries) => Some(entries),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::List(_) => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(|maps| maps.into_iter().flatten().collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
