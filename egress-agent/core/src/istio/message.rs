//! A message of decoding or validation about an object: severity, place and reason.

use std::fmt;

/// How bad a message is. An object with an error is not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; changes nothing.
    Note,
    /// Istio's validator warns too, or a field has no effect.
    Warning,
    /// Istio rejects the object.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One finding, with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// How bad it is.
    pub severity: Severity,
    /// Path of the field, as in `spec.http[0].timeout`; empty if it concerns the whole document.
    pub field: String,
    /// Line in the file, from 1; 0 if there is none.
    pub line: u32,
    /// Column in the line, in characters from 1; 0 if there is none.
    pub column: u32,
    /// The reason, in Istio's words where Istio has one.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: ", self.line, self.column, self.severity)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.text)
    }
}

/// Most messages of one severity that are kept for an object; a file of garbage must not grow one
/// message a line.
const MAX_MESSAGES: usize = 100;
/// Longest text of a message, in bytes.
const MAX_TEXT: usize = 4096;
/// Longest path of a message, in bytes. Keys of maps are a part of it.
const MAX_FIELD: usize = 1024;

/// Messages as they are found, bounded in number and length. An error is never lost to warnings.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    found: Vec<Message>,
    counts: [usize; 3],
}

impl Messages {
    /// Whether there is room for one more of this severity.
    pub fn has_room(&self, severity: Severity) -> bool {
        self.counts[severity as usize] < MAX_MESSAGES
    }

    /// Adds a message, unless there are too many.
    pub fn push(&mut self, mut message: Message) {
        let count = &mut self.counts[message.severity as usize];
        *count += 1;
        if *count > MAX_MESSAGES {
            return;
        }
        if *count == MAX_MESSAGES {
            "too many messages; more of this kind are not shown".clone_into(&mut message.text);
        }
        shorten(&mut message.text, MAX_TEXT);
        shorten(&mut message.field, MAX_FIELD);
        self.found.push(message);
    }

    /// The messages, in the order of finding.
    pub fn into_vec(self) -> Vec<Message> {
        self.found
    }
}

fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str("...");
        // Thousands of these may be kept.
        text.shrink_to_fit();
    }
}

/// A step from a value to one inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A field of the API, by its camelCase name.
    Field(&'static str),
    /// Any key of a map.
    Key(String),
    /// The n-th element of a list.
    Index(usize),
}

/// The way from the root of a document to a value, shown as `spec.http[0].headers["a.b"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(pub Vec<Step>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            let key = match step {
                Step::Index(index) => {
                    write!(f, "[{index}]")?;
                    continue;
                }
                Step::Field(name) => name,
                Step::Key(key) => key.as_str(),
            };
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            if key.is_empty() || !key.bytes().all(is_plain) {
                write!(f, "[{key:?}]")?;
                continue;
            }
            if position > 0 {
                f.write_str(".")?;
            }
            f.write_str(key)?;
        }
        Ok(())
    }
}
