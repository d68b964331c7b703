//! An object with decoding errors, mended as its author most likely meant it, so that validation
//! finds its other faults.
//!
//! It is never in force. Owns which findings a fault may cause, so that they are not reported a
//! second time.

use super::node::{Node, Value, snake_case};
use super::object::{Object, Spec, spec_of};
use super::reader::{CONTAINERS, Misspelt, Reader, UNKNOWN_FIELD, UNKNOWN_VALUE};
use super::template;
use crate::istio::message::{Message, Path, Severity, Step};

/// An object with misspelt fields under the names that were meant.
#[derive(Debug)]
pub(crate) struct Mended {
    /// Its document.
    pub(crate) root: Node,
    /// What can be read of it.
    pub(crate) spec: Spec,
    /// Decoding errors inside of fields that were misspelt.
    pub(crate) inside: Vec<Message>,
    faults: Vec<Fault>,
}

/// A value that could not be read, and the error paths that may be due to it.
#[derive(Debug)]
struct Fault {
    path: String,
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The value, what is in it and what is around it.
    Itself,
    /// Fields beside it too: the value says what they may be.
    Beside,
    /// Everything below the value around it: a list or map is missing.
    Around,
}

/// The object mended; `None` for one without decoding errors and for a template that was not
/// rendered.
pub(crate) fn mended(object: &Object) -> Option<Mended> {
    if !object.is_broken() || template::find(&object.root).is_some() {
        return None;
    }
    let mut root = object.root.clone();
    let mut renamed: Vec<String> = Vec::new();
    for field in &object.misspelt {
        if let Some(path) = rename(&mut root, field) {
            renamed.push(path);
        }
    }
    let mut reader = Reader {
        strict: true,
        ..Reader::default()
    };
    let spec = spec_of(object.kind, &root, &mut reader);
    let again = reader.messages.into_vec();
    let is_error = |m: &&Message| m.severity == Severity::Error;
    let faults = again.iter().chain(&object.messages).filter(is_error);
    let faults = faults.filter_map(Fault::of).collect();
    let below = |m: &Message| renamed.iter().any(|path| is_below(&m.field, path));
    let inside = again.into_iter().filter(|m| below(m)).collect();
    Some(Mended {
        root,
        spec,
        inside,
        faults,
    })
}

impl Mended {
    /// Whether an error is one of its own, and not what comes of a value that could not be read.
    pub(crate) fn is_own(&self, error: &Message) -> bool {
        !self.faults.iter().any(|fault| fault.reaches(&error.field))
    }
}

impl Fault {
    fn of(error: &Message) -> Option<Self> {
        let reach = if error.text.starts_with(UNKNOWN_FIELD) {
            return None;
        } else if error.text.starts_with(UNKNOWN_VALUE) {
            Reach::Beside
        } else if CONTAINERS.iter().any(|kind| error.text.ends_with(kind)) {
            Reach::Around
        } else {
            Reach::Itself
        };
        Some(Self {
            path: error.field.clone(),
            reach,
        })
    }

    fn reaches(&self, path: &str) -> bool {
        let own = path == self.path || is_below(path, &self.path) || is_below(&self.path, path);
        let around = self.path.rfind(['.', '[']).map(|at| &self.path[..at]);
        own || around.is_some_and(|around| match self.reach {
            Reach::Itself => false,
            Reach::Beside => {
                let field = path.strip_prefix(around).and_then(|p| p.strip_prefix('.'));
                field.is_some_and(|field| !field.contains(['.', '[']))
            }
            Reach::Around => is_below(path, around),
        })
    }
}

/// Whether a path, as [`Path`] shows it, leads further down than another.
fn is_below(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Renames a misspelt field to its correct name, unless that field exists too. Returns its path.
fn rename(root: &mut Node, field: &Misspelt) -> Option<String> {
    let Value::Map(entries) = &mut root.at_mut(&field.within)?.value else {
        return None;
    };
    let snake = snake_case(&field.meant);
    if entries
        .iter()
        .any(|e| e.key == field.meant || e.key == snake)
    {
        return None;
    }
    let entry = entries.iter_mut().find(|e| e.key == field.key)?;
    entry.key.clone_from(&field.meant);
    let mut path = Path(field.within.0.clone());
    path.0.push(Step::Key(field.meant.clone()));
    Some(path.to_string())
}
