//! Typed reading of a tree of YAML values, with the rules of Istio's JSON decoder.
//!
//! Source of the rules: golang/protobuf `jsonpb/decode.go`, which istiod uses
//! (istio `pkg/util/protomarshal/protomarshal.go`). The structs themselves are in the files of
//! the kinds; the macros of `super::macros` write their reading.

use super::node::{Entry, Node, Value};
use super::suggest::nearest;
use crate::istio::message::{self, Messages, Path, Severity, Step};
use std::collections::BTreeMap;

/// Fields of older APIs, with the field around them, that may be left out: a websocket passes without
/// being asked for, and a fault denies its route whatever its share is.
const IGNORED: [(&str, &str); 3] = [
    ("http", "websocketUpgrade"),
    ("http", "websocket_upgrade"),
    ("abort", "percent"),
];

/// Fields that the API server's schema has in this spelling too (istio `manifests/charts/base/files/crd-all.gen.yaml`).
const IN_SCHEMA: [&str; 1] = ["mirror_percent"];

/// How the error of an unknown field starts.
pub(super) const UNKNOWN_FIELD: &str = "unknown field";
/// How the error of an unknown member of an enum starts.
pub(crate) const UNKNOWN_VALUE: &str = "unknown value";
/// How the error of a value that should be a list or a map ends.
pub(super) const CONTAINERS: [&str; 2] = ["[]json.RawMessage", "map[string]json.RawMessage"];

/// A field that is unknown and is like a known one.
#[derive(Clone, Debug)]
pub(crate) struct Misspelt {
    /// The way to the map that has it.
    pub(super) within: Path,
    /// As it is written.
    pub(super) key: String,
    /// The known field.
    pub(super) meant: String,
}

/// A map that is read as a message of the API.
#[derive(Debug)]
pub struct Message<'n> {
    node: &'n Node,
    /// Members of oneofs that another one overrides.
    overridden: Vec<&'static str>,
}

impl<'n> Message<'n> {
    /// A map that other fields than the known ones may be in.
    pub fn open(node: &'n Node) -> Self {
        Self {
            node,
            overridden: Vec::new(),
        }
    }
}

/// The state of reading one document: where we are, and what was found wrong.
#[derive(Debug, Default)]
pub struct Reader {
    /// Whether an unknown field is an error.
    pub strict: bool,
    /// The way to the value being read.
    pub path: Path,
    /// What was found so far.
    pub messages: Messages,
    /// Fields that may be meant for another.
    pub(super) misspelt: Vec<Misspelt>,
}

impl Reader {
    /// Records a message at a node.
    pub fn say(&mut self, severity: Severity, node: &Node, text: impl Into<String>) {
        if !self.messages.has_room(severity) {
            return;
        }
        self.messages.push(message::Message {
            severity,
            field: self.path.to_string(),
            line: node.mark.line,
            column: node.mark.column,
            text: text.into(),
        });
    }

    /// Records that a value is of the wrong type, in the words of Go's decoder.
    pub fn mismatch(&mut self, node: &Node, wanted: &str) {
        let shown = match &node.value {
            Value::Number(literal) => format!("number {literal}"),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::List(_) | Value::Map(_) => {
                node.value.kind().to_owned()
            }
        };
        self.say(
            Severity::Error,
            node,
            format!("json: cannot unmarshal {shown} into Go value of type {wanted}"),
        );
    }

    /// Runs a closure one step further down.
    pub fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let value = read(self);
        self.path.0.pop();
        value
    }

    /// Checks that a node is a map with known fields. `None` for null (an empty message) and for
    /// anything else (an error).
    ///
    /// Of several members of a oneof, the decoder keeps the one that the .proto file has last. The
    /// API server's schema would have rejected the object.
    pub fn message<'n>(
        &mut self,
        node: &'n Node,
        fields: &[(&'static str, &str)],
        oneofs: &[&[&str]],
    ) -> Option<Message<'n>> {
        let Value::Map(entries) = &node.value else {
            if node.value != Value::Null {
                self.mismatch(node, "map[string]json.RawMessage");
            }
            return None;
        };
        for entry in entries {
            let known = |(camel, snake): &&(&str, &str)| entry.key == *camel || entry.key == *snake;
            match fields.iter().find(known) {
                Some((camel, _)) if entry.key == *camel => {}
                Some((camel, _)) => self.snake_case(entry, camel),
                None => self.unknown(entry, fields.iter().map(|(camel, _)| *camel)),
            }
        }
        let mut overridden = Vec::new();
        for group in oneofs {
            let mut set: Vec<&'static str> = fields
                .iter()
                .filter(|(camel, snake)| {
                    group.contains(camel)
                        && field_of(node, camel, snake)
                            .is_some_and(|value| value.value != Value::Null)
                })
                .map(|(camel, _)| *camel)
                .collect();
            if let Some(last) = set.pop().filter(|_| !set.is_empty()) {
                let text = format!(
                    "only one of {}, {last} may be set; Istio uses {last}",
                    set.join(", ")
                );
                let severity = if self.strict {
                    Severity::Error
                } else {
                    Severity::Note
                };
                self.say(severity, node, text);
                overridden.append(&mut set);
            }
        }
        Some(Message { node, overridden })
    }

    /// Reports a field in the spelling of the .proto file. Istio's decoder reads it. The API server's schema has the
    /// other one only: it rejects the object (kubectl's default validation), or drops the field.
    fn snake_case(&mut self, entry: &Entry, camel: &str) {
        let in_schema = IN_SCHEMA.contains(&entry.key.as_str());
        if !self.strict || in_schema || !self.messages.has_room(Severity::Note) {
            return;
        }
        let at = Node {
            mark: entry.mark,
            value: Value::Null,
        };
        let text = format!("kubectl does not accept this spelling: write {camel}");
        self.within(Step::Key(entry.key.clone()), |reader| {
            reader.say(Severity::Note, &at, text);
        });
    }

    /// Reports an unknown field.
    pub fn unknown<'f>(&mut self, entry: &Entry, known: impl Iterator<Item = &'f str>) {
        let around = self.path.0.iter().rev().find_map(|step| match step {
            Step::Field(name) => Some(*name),
            Step::Key(_) | Step::Index(_) => None,
        });
        let ignored = around.is_some_and(|name| IGNORED.contains(&(name, entry.key.as_str())));
        let severity = if self.strict && !ignored {
            Severity::Error
        } else {
            Severity::Warning
        };
        // Finding the nearest name costs time, which a file of nothing but mistakes is not given.
        if !self.messages.has_room(severity) {
            return;
        }
        let at = Node {
            mark: entry.mark,
            value: Value::Null,
        };
        let mut text = format!("{UNKNOWN_FIELD} {:?}", entry.key);
        if ignored {
            text += " of an older API, which changes nothing";
        } else if let Some(name) = nearest(&entry.key, known) {
            text = format!("{text}, did you mean {name:?}?");
            self.misspelt.push(Misspelt {
                within: self.path.clone(),
                key: entry.key.clone(),
                meant: name.to_owned(),
            });
        }
        self.within(Step::Key(entry.key.clone()), |reader| {
            reader.say(severity, &at, text);
        });
    }

    /// Reads one field; absent and null give the default.
    pub fn field<T: Decode>(
        &mut self,
        message: &Message<'_>,
        camel: &'static str,
        snake: &str,
    ) -> T {
        match field_of(message.node, camel, snake) {
            None => T::default(),
            Some(_) if message.overridden.contains(&camel) => T::default(),
            Some(node) if node.value == Value::Null => T::default(),
            Some(node) => self.within(Step::Field(camel), |reader| T::decode(node, reader)),
        }
    }
}

/// A field by either name; the camelCase one wins, as in the decoder.
fn field_of<'n>(message: &'n Node, camel: &str, snake: &str) -> Option<&'n Node> {
    message.get(camel).or_else(|| message.get(snake))
}

/// A type that can be read from a YAML value. What cannot be read is reported to the [`Reader`]
/// and gives the default.
pub trait Decode: Default {
    /// Reads the value.
    fn decode(node: &Node, reader: &mut Reader) -> Self;
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        Some(T::decode(node, reader))
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        Box::new(T::decode(node, reader))
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let Value::List(items) = &node.value else {
            reader.mismatch(node, "[]json.RawMessage");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                reader.within(Step::Index(index), |reader| T::decode(item, reader))
            })
            .collect()
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let Value::Map(entries) = &node.value else {
            reader.mismatch(node, "map[string]json.RawMessage");
            return BTreeMap::new();
        };
        entries
            .iter()
            .map(|entry| {
                let step = Step::Key(entry.key.clone());
                (
                    entry.key.clone(),
                    reader.within(step, |reader| T::decode(&entry.value, reader)),
                )
            })
            .collect()
    }
}
