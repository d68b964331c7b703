//! Findings across objects, as `istioctl analyze` has them: every object is valid, but together
//! they do not do what their author seems to want.
//!
//! `look` has the checks; `linter` has the dependences.

mod destinations;
mod linter;
mod look;
mod names;
mod parts;

use crate::istio::{Message, Object};
use std::collections::HashMap;
use std::sync::Arc;

pub use linter::Linter;
pub use look::Found;

/// A finding about one of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Place of the object in the list that was given.
    pub object: usize,
    /// The finding; a warning or a note.
    pub message: Message,
    /// A port is open to any address.
    pub opens: bool,
}

/// All findings about these objects together, in the order of the objects.
pub fn lint(objects: &[Arc<Object>]) -> Vec<Finding> {
    let mut linter = Linter::default();
    linter.change(objects, &[]);
    let places: HashMap<usize, usize> = objects
        .iter()
        .enumerate()
        .map(|(n, o)| (Arc::as_ptr(o).addr(), n))
        .collect();
    let mut found: Vec<_> = linter
        .findings()
        .filter_map(|found| {
            Some(Finding {
                object: *places.get(&Arc::as_ptr(&found.object).addr())?,
                message: found.message.clone(),
                opens: found.opens,
            })
        })
        .collect();
    found.sort_by_key(|f| f.object);
    found
}

#[cfg(test)]
mod tests;
