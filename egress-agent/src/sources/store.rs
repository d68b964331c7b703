//! The rules in force on disk, for the next agent: beside the admin socket, like the leases.
//!
//! Stores documents as their files had them; they are decoded and validated again when they are
//! read.

use super::judge::Id;
use crate::state_file;
use anyhow::Context as _;
use egress_core::istio::decode::decode_part;
use egress_core::istio::stand_in::stand_in;
use egress_core::istio::{Object, Severity, Strictness, validate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A larger set is not kept.
const MOST: usize = 64 << 20;
/// The first line; the number is the form's.
const HEAD: &str = "egress-agent rules 1";
/// The last line: a file without it was cut off.
const END: &str = "end";

/// A document with objects in force.
#[derive(Serialize, Deserialize)]
struct Document<'a> {
    source: std::borrow::Cow<'a, str>,
    line: u32,
    text: std::borrow::Cow<'a, str>,
    /// Kind, namespace and name of each object in force; a list may hold others.
    objects: Vec<(String, String, String)>,
}

/// The file of an agent with this admin socket.
pub fn beside(admin_socket: &Path) -> PathBuf {
    admin_socket.with_extension("rules")
}

fn key(object: &Object) -> (String, String, String) {
    let meta = &object.meta;
    (
        object.kind.to_string(),
        meta.namespace.clone(),
        meta.name.clone(),
    )
}

/// The objects that the previous agent had in force. Empty if it left no file, or if the file
/// cannot be trusted.
pub fn read(path: &Path) -> Vec<Arc<Object>> {
    match load(path) {
        Ok(objects) => {
            if !objects.is_empty() {
                let objects = objects.len();
                tracing::info!(
                    objects,
                    "restored the last good rules of the previous agent"
                );
            }
            objects
        }
        Err(error) => {
            let (file, error) = (path.display(), format!("{error:#}"));
            tracing::warn!(%file, error, "the last good rules of the previous agent are not used");
            Vec::new()
        }
    }
}

fn load(path: &Path) -> anyhow::Result<Vec<Arc<Object>>> {
    let Some(text) = state_file::read(path, MOST)? else {
        return Ok(Vec::new());
    };
    let mut lines = text.lines();
    anyhow::ensure!(lines.next() == Some(HEAD), "another form");
    let mut objects = Vec::new();
    let mut known = BTreeSet::new();
    let mut whole = false;
    for line in lines {
        if line == END {
            whole = true;
            break;
        }
        let document: Document<'_> = serde_json::from_str(line).context("reading a document")?;
        let decoded = decode_part(
            &document.source,
            &document.text,
            document.line,
            Strictness::Files,
        );
        for mut object in decoded.objects {
            if !document.objects.contains(&key(&object)) || !known.insert(Id::of(&object)) {
                continue;
            }
            let valid = validate(&object)
                .iter()
                .all(|m| m.severity < Severity::Error);
            if valid {
                object.forget_places();
                objects.push(Arc::new(object));
            } else {
                // What an older agent took and this one does not must not open anything.
                objects.extend(stand_in(&object).map(Arc::new));
            }
        }
    }
    anyhow::ensure!(whole, "it is cut off");
    Ok(objects)
}

/// Writes what is in force. Stand-ins are made again from what they stand for.
pub fn write(path: &Path, objects: &[Arc<Object>]) -> anyhow::Result<()> {
    let mut text = format!("{HEAD}\n");
    let mut documents: Vec<Document<'_>> = Vec::new();
    for object in objects.iter().filter(|o| o.denied.is_none()) {
        match documents.last_mut() {
            Some(last) if last.source == object.source && last.line == object.text_line => {
                last.objects.push(key(object));
            }
            _ => documents.push(Document {
                source: object.source.as_str().into(),
                line: object.text_line,
                text: (&*object.text).into(),
                objects: vec![key(object)],
            }),
        }
    }
    for document in &documents {
        text += &serde_json::to_string(document)?;
        text.push('\n');
        anyhow::ensure!(text.len() <= MOST, "more than {MOST} bytes");
    }
    text += END;
    text.push('\n');
    state_file::write(path, &text, MOST)
}
