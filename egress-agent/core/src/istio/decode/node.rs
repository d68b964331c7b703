//! A YAML document as a tree of values with their places. Does not interpret the values.

use crate::istio::message::{Message, Path, Severity, Step};
use std::collections::BTreeMap;

/// Where a value starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Line from 1.
    pub line: u32,
    /// Column from 1, in characters.
    pub column: u32,
}

/// A value and its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Where it starts.
    pub mark: Mark,
    /// What it holds.
    pub value: Value,
}

/// A value as JSON has it; YAML's richer forms are folded into these.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing at all.
    #[default]
    Null,
    /// A YAML 1.1 boolean.
    Bool(bool),
    /// A number as a JSON literal: an integer in decimal, any other as it was written.
    Number(String),
    /// Everything else that is a scalar.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the file; keys are unique.
    Map(Vec<Entry>),
}

/// One key of a map with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key; other scalars than strings are spelt as JSON spells them.
    pub key: String,
    /// Where the key starts.
    pub mark: Mark,
    /// The value.
    pub value: Node,
}

impl Value {
    /// The name that Go's JSON decoder gives to this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }

    /// The kind of this value in YAML's words, with its article.
    pub fn in_words(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}

impl Node {
    /// The value under a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of a key, if this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::List(_) => {
                None
            }
        }
    }

    /// The text, if this is a string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                None
            }
        }
    }

    /// A map of strings, as labels are; `None` if any value is something else.
    pub fn string_map(&self) -> Option<BTreeMap<String, String>> {
        match &self.value {
            Value::Null => Some(BTreeMap::new()),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| match &entry.value.value {
                    Value::String(text) => Some((entry.key.clone(), text.clone())),
                    Value::Null => Some((entry.key.clone(), String::new())),
                    Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => None,
                })
                .collect(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::List(_) => None,
        }
    }

    /// The place of the value that a path leads to, or of the nearest one on the way that exists. A
    /// scalar is found at its own place; a map or list, at its key's.
    fn place(&self, path: &Path) -> Mark {
        let mut node = self;
        let mut mark = self.mark;
        for step in &path.0 {
            (node, mark) = match (&node.value, node.child(step)) {
                (Value::List(items), Some(index)) => (&items[index], items[index].mark),
                (Value::Map(entries), Some(index)) => {
                    let Entry { mark, value, .. } = &entries[index];
                    (value, if value.is_scalar() { value.mark } else { *mark })
                }
                _ => break,
            };
        }
        mark
    }

    /// The value that a path leads to.
    pub fn at_mut(&mut self, path: &Path) -> Option<&mut Node> {
        path.0.iter().try_fold(self, |node, step| {
            let index = node.child(step)?;
            match &mut node.value {
                Value::List(items) => items.get_mut(index),
                Value::Map(entries) => entries.get_mut(index).map(|entry| &mut entry.value),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
            }
        })
    }

    /// The number of the element or the entry that a step leads to. Of a field's two names, camelCase comes
    /// before `snake_case`.
    fn child(&self, step: &Step) -> Option<usize> {
        match (&self.value, step) {
            (Value::List(items), Step::Index(index)) => Some(*index).filter(|n| *n < items.len()),
            (Value::Map(entries), Step::Field(name)) => {
                let of = |name: &str| entries.iter().position(|entry| entry.key == name);
                of(name).or_else(|| of(&snake_case(name)))
            }
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter().position(|entry| entry.key == *key)
            }
            _ => None,
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(
            self.value,
            Value::Bool(_) | Value::Number(_) | Value::String(_)
        )
    }

    /// A message about the value that a path leads to, or about the nearest one on the way.
    pub fn message(&self, severity: Severity, path: &Path, text: String) -> Message {
        let Mark { line, column } = self.place(path);
        Message {
            severity,
            field: path.to_string(),
            line,
            column,
            text,
        }
    }
}

/// `perTryTimeout` as `per_try_timeout`: the name of the field in Istio's .proto files.
pub fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}
