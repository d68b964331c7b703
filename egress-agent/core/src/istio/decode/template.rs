//! Whether a document is a Helm template that was not rendered. Does not parse the template
//! language: a pair of double braces is enough.

use super::node::{Mark, Node, Value};
use crate::istio::message::{Path, Step};

/// What to do with a template.
pub(super) const ADVICE: &str =
    "this looks like a Helm template: render the chart first (helm template)";

/// Of a text that is not YAML and looks like a template: what to do with it.
pub(crate) fn hint(text: &str) -> &'static str {
    if text.contains("{{") {
        "; this looks like a Helm template: render the chart first (helm template)"
    } else {
        ""
    }
}

/// The first value or key of an object that is a template, with its place. Annotations may hold
/// templates of other programs.
pub(super) fn find(root: &Node) -> Option<(Path, Mark)> {
    let mut path = Path::default();
    let mark = search(root, &mut path)?;
    Some((path, mark))
}

/// Visits every value. Leaves in `path` the path of the one that it finds.
fn search(node: &Node, path: &mut Path) -> Option<Mark> {
    match &node.value {
        Value::String(text) => is_template(text).then_some(node.mark),
        Value::List(items) => items.iter().enumerate().find_map(|(n, item)| {
            path.0.push(Step::Index(n));
            let found = search(item, path);
            found.or_else(|| {
                path.0.pop();
                None
            })
        }),
        Value::Map(entries) => entries.iter().find_map(|entry| {
            if path.0.len() == 1 && entry.key == "annotations" {
                return None;
            }
            if is_template(&entry.key) {
                return Some(entry.mark);
            }
            path.0.push(Step::Key(entry.key.clone()));
            let found = search(&entry.value, path);
            found.or_else(|| {
                path.0.pop();
                None
            })
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// Whether a text has `{{`, something, and `}}`.
fn is_template(text: &str) -> bool {
    let opened = text.split_once("{{");
    opened.is_some_and(|(_, rest)| rest.find("}}").is_some_and(|end| end > 0))
}
