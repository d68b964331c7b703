//! Parses YAML text into a tree of values with marks. Depth, number of nodes and the nodes that
//! aliases copy are bounded.

use super::entries::{Entries, merge_sources};
use super::node::{Entry, Mark, Node, Value};
use super::scalar::resolve;
use super::size::{Copied, MAX_NODES, Size};
use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::collections::BTreeMap;
use thiserror::Error;

/// Values nested deeper than this are rejected. Istio's deepest field is at about 15.
const MAX_DEPTH: usize = 64;

/// Why a text is not a YAML document that could be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct SyntaxError {
    /// Place in the text, with lines counted from the given one.
    pub mark: Mark,
    /// The reason.
    pub text: String,
}

/// A document of a text.
#[derive(Debug)]
pub struct Document {
    /// What it holds. Of a key that is set twice the first value counts.
    pub root: Node,
    /// The first key that is set twice. Whether that matters depends on whose document it is.
    pub twice: Option<SyntaxError>,
}

/// Reads the documents of a text, of which there is usually one. `first_line` is the number of its first line in the
/// file; `copied` is of the whole file.
pub fn parse(
    text: &str,
    first_line: u32,
    copied: &mut Copied,
) -> Result<Vec<Document>, SyntaxError> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        text,
        first_line,
        size: Size::default(),
        copied,
        anchors: BTreeMap::new(),
        cursor: (0, 0),
        twice: None,
    };
    let mut documents = Vec::new();
    loop {
        match builder.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                builder.anchors.clear();
                let (event, span) = builder.next()?;
                let root = builder.node(event, span, 0)?;
                let twice = builder.twice.take();
                documents.push(Document { root, twice });
            }
            _ => {}
        }
    }
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    text: &'t str,
    first_line: u32,
    /// Of the text so far.
    size: Size,
    copied: &'t mut Copied,
    anchors: BTreeMap<usize, (Node, Size)>,
    /// A character of the text, and the byte that it starts at.
    cursor: (usize, usize),
    /// The first key of the document that is set twice in one map.
    twice: Option<SyntaxError>,
}

impl<'t> Builder<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let mark = self.mark(error.marker().line(), error.marker().col());
                Err(SyntaxError {
                    mark,
                    text: error.info().to_owned(),
                })
            }
        }
    }

    /// The parser counts lines from 1 and columns from 0.
    fn mark(&self, line: usize, column: usize) -> Mark {
        Mark {
            line: u32::try_from(line.max(1))
                .unwrap_or(u32::MAX)
                .saturating_add(self.first_line)
                .saturating_sub(1),
            column: u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1),
        }
    }

    fn count(&mut self, size: Size, mark: Mark) -> Result<(), SyntaxError> {
        self.size = self.size.plus(size);
        if self.size.nodes > MAX_NODES {
            return Err(SyntaxError {
                mark,
                text: format!("document holds more than {MAX_NODES} values"),
            });
        }
        Ok(())
    }

    /// As [`Self::count`], for a copy of what was counted before. Call it before the copy is made.
    fn count_copy(&mut self, size: Size, mark: Mark) -> Result<(), SyntaxError> {
        let fits = self.copied.add(size);
        fits.map_err(|text| SyntaxError { mark, text })?;
        self.count(size, mark)
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, SyntaxError> {
        let mark = self.mark(span.start.line(), span.start.col());
        if depth > MAX_DEPTH {
            return Err(SyntaxError {
                mark,
                text: format!("values are nested deeper than {MAX_DEPTH}"),
            });
        }
        let before = self.size;
        let bytes = if let Event::Scalar(text, ..) = &event {
            text.len()
        } else {
            0
        };
        self.count(Size { nodes: 1, bytes }, mark)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => (
                scalar(&text, style == ScalarStyle::Plain, tag.as_deref()),
                anchor,
            ),
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let unknown = || SyntaxError {
                    mark,
                    text: "anchor contains itself".to_owned(),
                };
                let size = self.anchors.get(&anchor).ok_or_else(unknown)?.1;
                self.count_copy(size, mark)?;
                let (node, _) = self.anchors.get(&anchor).ok_or_else(unknown)?;
                return Ok(Node {
                    mark,
                    value: node.value.clone(),
                });
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (Value::Null, 0),
        };
        let node = Node { mark, value };
        if anchor != 0 {
            // The copy counts too, or many anchors around one another would grow without bound.
            let size = self.size.since(before);
            self.count_copy(size, mark)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::List(items));
            }
            let pair = matches!(event, Event::MappingStart(0, None));
            let start = span.start.index();
            let mut item = self.node(event, span, depth + 1)?;
            if pair && let Some(text) = self.colon_scalar(&item, start) {
                item.value = resolve(&text);
            }
            items.push(item);
        }
    }

    /// `[1.2.3.4, 001:db8::]`: a colon that ends a plain scalar belongs to it for go-yaml, while
    /// YAML 1.2 sees a key without a value. Gives the text if the item, which starts at a character
    /// of the text, was written so.
    fn colon_scalar(&mut self, item: &Node, start: usize) -> Option<String> {
        let Value::Map(entries) = &item.value else {
            return None;
        };
        let [entry] = entries.as_slice() else {
            return None;
        };
        if entry.value.value != Value::Null || entry.mark != item.mark {
            return None;
        }
        let rest = self
            .text_from(start)
            .strip_prefix(&entry.key)?
            .strip_prefix(':')?;
        rest.starts_with([',', ']', '}'])
            .then(|| format!("{}:", entry.key))
    }

    /// The text from a character on. Pairs without a value come in the order of the text, so the
    /// way to the next one starts at the last.
    fn text_from(&mut self, character: usize) -> &'t str {
        let (passed, bytes) = if character < self.cursor.0 {
            (0, 0)
        } else {
            self.cursor
        };
        let rest = &self.text[bytes..];
        let skipped = rest
            .char_indices()
            .nth(character - passed)
            .map_or(rest.len(), |(at, _)| at);
        self.cursor = (character, bytes + skipped);
        &rest[skipped..]
    }

    fn map(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut entries = Entries::default();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key_node = self.node(event, span, depth + 1)?;
            let mark = key_node.mark;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if is_merge {
                merged.extend(merge_sources(value).ok_or_else(|| SyntaxError {
                    mark,
                    text: "map merge requires map or sequence of maps as the value".to_owned(),
                })?);
                continue;
            }
            let key = match key_node.value {
                Value::String(text) | Value::Number(text) => text,
                Value::Bool(value) => value.to_string(),
                Value::Null | Value::List(_) | Value::Map(_) => {
                    return Err(SyntaxError {
                        mark,
                        text: "a map key must be a string".to_owned(),
                    });
                }
            };
            if let Some(line) = entries.line_of(&key) {
                let missing = depth == 0 && key == "apiVersion";
                let hint = if missing {
                    "; is a --- line missing before this object?"
                } else {
                    ""
                };
                let text = format!("key {key:?} already set in map, on line {line}{hint}");
                let error = SyntaxError { mark, text };
                if depth == 0 && ["apiVersion", "kind"].contains(&key.as_str()) {
                    // The document's kind cannot be determined.
                    return Err(error);
                }
                self.twice.get_or_insert(error);
                continue;
            }
            entries.push(Entry { key, mark, value });
        }
        for entry in merged {
            if entries.line_of(&entry.key).is_none() {
                entries.push(entry);
            }
        }
        Ok(Value::Map(entries.list))
    }
}

fn scalar(text: &str, plain: bool, tag: Option<&Tag>) -> Value {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix != "str" && tag.suffix != "binary" => {
            resolve(text)
        }
        None if plain => resolve(text),
        Some(_) | None => Value::String(text.to_owned()),
    }
}
