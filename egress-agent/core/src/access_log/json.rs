//! A format in JSON: an object whose strings have commands (Envoy `json_formatter`).
//!
//! Keys are sorted, as Envoy sorts them. A string that is one command has the type of its value, and is `null` without
//! a value.

use super::command::Command;
use super::entry::Entry;
use super::escape;
use super::text::{BadFormat, commands, push_pieces};
use crate::http::format::{Piece, pieces};
use serde_json::Value;

/// A value of the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Command(Command),
    Text(Vec<Piece<Command>>),
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
    /// Without commands.
    Plain(String),
}

impl Node {
    /// Parses the text of an object.
    pub(super) fn new(text: &str) -> Result<Self, BadFormat> {
        match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => Self::of(object),
            Ok(_) => Err(BadFormat::NoObject),
            Err(error) => Err(BadFormat::Json(error.to_string())),
        }
    }

    fn of(value: Value) -> Result<Self, BadFormat> {
        Ok(match value {
            Value::String(text) => {
                let mut found = pieces(&text, Command::known)?;
                match found.pop() {
                    Some(Piece::Command(only)) if found.is_empty() => Self::Command(only),
                    last => {
                        found.extend(last);
                        Self::Text(found)
                    }
                }
            }
            Value::Object(fields) => {
                let of = |(key, value): (String, Value)| Ok((quoted(&key), Self::of(value)?));
                Self::Object(
                    fields
                        .into_iter()
                        .map(of)
                        .collect::<Result<_, BadFormat>>()?,
                )
            }
            Value::Array(list) => {
                Self::List(list.into_iter().map(Self::of).collect::<Result<_, _>>()?)
            }
            other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
                Self::Plain(other.to_string())
            }
        })
    }

    /// All commands.
    pub(super) fn commands(&self, to: &mut impl FnMut(&Command)) {
        match self {
            Self::Command(command) => to(command),
            Self::Text(pieces) => commands(pieces, to),
            Self::Object(fields) => fields.iter().for_each(|(_, node)| node.commands(to)),
            Self::List(nodes) => nodes.iter().for_each(|node| node.commands(to)),
            Self::Plain(_) => {}
        }
    }

    pub(super) fn push(&self, entry: &Entry<'_>, to: &mut String) {
        match self {
            Self::Command(command) if command.is_number() => {
                if !command.push(entry, to) {
                    to.push_str("null");
                }
            }
            Self::Command(command) => {
                let before = to.len();
                to.push('"');
                if command.push(entry, to) {
                    to.push('"');
                } else {
                    to.truncate(before);
                    to.push_str("null");
                }
            }
            Self::Text(pieces) => {
                to.push('"');
                push_pieces(pieces, entry, to, escape::push);
                to.push('"');
            }
            Self::Object(fields) => {
                list(to, ['{', '}'], fields, |(key, node), to| {
                    to.push_str(key);
                    to.push(':');
                    node.push(entry, to);
                });
            }
            Self::List(nodes) => list(to, ['[', ']'], nodes, |node, to| node.push(entry, to)),
            Self::Plain(text) => to.push_str(text),
        }
    }
}

fn quoted(key: &str) -> String {
    let mut to = String::with_capacity(key.len() + 2);
    to.push('"');
    escape::push(&mut to, key);
    to.push('"');
    to
}

fn list<T>(to: &mut String, ends: [char; 2], all: &[T], push: impl Fn(&T, &mut String)) {
    to.push(ends[0]);
    for (number, one) in all.iter().enumerate() {
        if number > 0 {
            to.push(',');
        }
        push(one, to);
    }
    to.push(ends[1]);
}
