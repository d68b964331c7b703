//! The rules in force on disk, for the next agent: beside the admin socket, like the leases.
//!
//! Stores documents as their files had them; they are decoded and validated again when they are
//! read. The file is a log. A change appends the documents that it touches, and a line with a checksum
//! of everything before it. A reader uses what precedes the last valid checksum: an agent that is
//! killed while it writes leaves the rules before the change or after it. Nothing is synced to disk,
//! because the file, like the pins, does not survive a reboot.

use super::judge::Id;
use super::objects::{Difference, Objects};
use crate::state_file;
use anyhow::Context as _;
use crc32fast::Hasher;
use egress_core::istio::decode::{At, decode_part};
use egress_core::istio::stand_in::stand_in;
use egress_core::istio::{Object, Severity, Strictness, validate};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A larger set is not kept.
const MAX_SIZE: usize = 64 << 20;
/// The first line, with the number of the format.
const HEAD: &str = "egress-agent rules 2\n";
/// The log is rewritten once it has grown by the size of the rules, and at least by this.
const SLACK: usize = 1 << 20;

/// A line of the file.
#[derive(Serialize, Deserialize)]
enum Entry<'a> {
    /// Adds or replaces a document with objects in force.
    #[serde(rename = "put", borrow)]
    Put(Document<'a>),
    /// Removes a document.
    #[serde(rename = "drop")]
    Drop(u64),
    /// Everything before is whole. CRC-32 of everything before this line.
    #[serde(rename = "whole")]
    Whole(u32),
}

/// A document with objects in force.
#[derive(Debug, Serialize, Deserialize)]
struct Document<'a> {
    number: u64,
    #[serde(borrow)]
    source: Cow<'a, str>,
    line: u32,
    #[serde(borrow)]
    text: Cow<'a, str>,
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

/// The rules that the previous agent had in force, not decoded yet.
#[derive(Debug, Default)]
pub struct Previous(Vec<Document<'static>>);

/// The rules that the previous agent had in force. Empty if it left no file, or if the file cannot be trusted.
pub fn read(path: &Path) -> Previous {
    load(path).unwrap_or_else(|error| {
        let (file, error) = (path.display(), format!("{error:#}"));
        tracing::warn!(%file, error, "the last good rules of the previous agent are not used");
        Previous::default()
    })
}

fn load(path: &Path) -> anyhow::Result<Previous> {
    let Some(bytes) = state_file::read_bytes(path, MAX_SIZE)? else {
        return Ok(Previous::default());
    };
    // A write may have been cut off inside a character.
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(cut) => std::str::from_utf8(&bytes[..cut.valid_up_to()])?,
    };
    let documents = documents(text)?.into_values();
    Ok(Previous(documents.map(Document::into_owned).collect()))
}

impl Previous {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The objects. `valid` returns the valid objects of a document that was decoded already, by its file, line and
    /// text; other documents are decoded here.
    pub(super) fn objects(
        self,
        valid: impl Fn(&str, u32, &str) -> Option<Vec<Arc<Object>>>,
    ) -> Vec<Arc<Object>> {
        let mut objects = Vec::new();
        let mut known = BTreeSet::new();
        for document in self.0 {
            let (source, line, text) = (&document.source, document.line, &document.text);
            let decoded = valid(source, line, text);
            for object in decoded.unwrap_or_else(|| document.decoded()) {
                if document.objects.contains(&key(&object)) && known.insert(Id::of(&object)) {
                    objects.push(object);
                }
            }
        }
        if !objects.is_empty() {
            let objects = objects.len();
            tracing::info!(
                objects,
                "restored the last good rules of the previous agent"
            );
        }
        objects
    }
}

impl Document<'_> {
    fn into_owned(self) -> Document<'static> {
        Document {
            source: self.source.into_owned().into(),
            text: self.text.into_owned().into(),
            ..self
        }
    }

    fn decoded(&self) -> Vec<Arc<Object>> {
        let begin = At {
            line: self.line,
            ..At::default()
        };
        let decoded = decode_part(&self.source, &self.text, begin, Strictness::Files);
        let judged = decoded.objects.into_iter().filter_map(|mut object| {
            let valid = validate(&object)
                .iter()
                .all(|m| m.severity < Severity::Error);
            if !valid {
                // An object that an older agent accepted and this one rejects must not open anything.
                return stand_in(&object);
            }
            object.forget_places();
            Some(object)
        });
        judged.map(Arc::new).collect()
    }
}

/// The documents after the last whole change.
fn documents(text: &str) -> anyhow::Result<BTreeMap<u64, Document<'_>>> {
    let entries = text.strip_prefix(HEAD).context("another form")?;
    let mut sum = Hasher::new();
    sum.update(HEAD.as_bytes());
    let mut documents = BTreeMap::new();
    let mut change = Vec::new();
    let mut whole = false;
    for line in entries.split_inclusive('\n') {
        // A line without an end is from a write that was cut off.
        let entry = line.ends_with('\n').then(|| serde_json::from_str(line));
        match entry {
            Some(Ok(Entry::Whole(written))) if written == sum.clone().finalize() => {
                whole = true;
                for (number, document) in change.drain(..) {
                    match document {
                        Some(document) => documents.insert(number, document),
                        None => documents.remove(&number),
                    };
                }
            }
            Some(Ok(Entry::Put(document))) => change.push((document.number, Some(document))),
            Some(Ok(Entry::Drop(number))) => change.push((number, None)),
            Some(Ok(Entry::Whole(_)) | Err(_)) | None => break,
        }
        sum.update(line.as_bytes());
    }
    anyhow::ensure!(whole, "it is cut off");
    Ok(documents)
}

/// Writes the rules in force. It stores the original of a stand-in; the reader makes the stand-in again.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// The objects in the file.
    written: Objects,
    /// Documents by the place of their text in memory, which the objects of a document share.
    documents: HashMap<usize, Written>,
    next: u64,
    /// `None` before the first write, and after a failed one.
    log: Option<Log>,
}

/// A document in the file.
#[derive(Debug)]
struct Written {
    number: u64,
    /// Its objects in force; at least one.
    objects: Vec<Arc<Object>>,
}

/// The file, open at its end.
#[derive(Debug)]
struct Log {
    file: File,
    sum: Hasher,
    len: usize,
    /// Above this size it is rewritten.
    most: usize,
}

impl Store {
    /// Does not read or write yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: Objects::default(),
            documents: HashMap::new(),
            next: 0,
            log: None,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores these rules for the next agent. After an error the file keeps the former rules.
    pub fn keep(&mut self, objects: &Objects) -> anyhow::Result<()> {
        let mut touched = BTreeSet::new();
        let difference = objects.since(&self.written);
        for object in &difference.gone {
            let at = object.text.as_ptr().addr();
            if let Some(document) = self.documents.get_mut(&at) {
                document.objects.retain(|o| !Arc::ptr_eq(o, object));
                touched.insert(at);
            }
        }
        // The removed objects live until the end, so that no new text can have the place of a removed one in memory.
        let Difference { added, gone } = difference;
        for object in added.into_iter().filter(|o| o.denied.is_none()) {
            let at = object.text.as_ptr().addr();
            let next = &mut self.next;
            let document = self.documents.entry(at).or_insert_with(|| {
                *next += 1;
                Written {
                    number: *next,
                    objects: Vec::new(),
                }
            });
            document.objects.push(object);
            touched.insert(at);
        }
        self.written = objects.clone();
        let written = self.write(&touched);
        if written.is_err() {
            self.log = None;
        }
        self.documents
            .retain(|_, document| !document.objects.is_empty());
        drop(gone);
        written
    }

    fn write(&mut self, touched: &BTreeSet<usize>) -> anyhow::Result<()> {
        let own = |log: &&mut Log| log.is_at(&self.path);
        if let Some(log) = self.log.as_mut().filter(own) {
            let mut text = String::new();
            for document in touched.iter().filter_map(|at| self.documents.get(at)) {
                add(&mut text, &document.entry())?;
            }
            if text.is_empty() {
                return Ok(());
            }
            if log.len + text.len() <= log.most {
                return log.append(text);
            }
        }
        self.log = Some(self.write_anew()?);
        Ok(())
    }

    fn write_anew(&self) -> anyhow::Result<Log> {
        let documents = self.documents.values();
        let mut documents: Vec<_> = documents.filter(|d| !d.objects.is_empty()).collect();
        documents.sort_by_key(|document| document.number);
        let mut text = HEAD.to_owned();
        for document in documents {
            add(&mut text, &document.entry())?;
            anyhow::ensure!(text.len() <= MAX_SIZE, "more than {MAX_SIZE} bytes");
        }
        let mut sum = Hasher::new();
        end(&mut sum, &mut text)?;
        Ok(Log {
            file: state_file::write(&self.path, &text, MAX_SIZE)?,
            sum,
            len: text.len(),
            most: MAX_SIZE.min(2 * text.len() + SLACK),
        })
    }
}

impl Written {
    fn entry(&self) -> Entry<'_> {
        let Some(first) = self.objects.first() else {
            return Entry::Drop(self.number);
        };
        let document = Document {
            number: self.number,
            source: first.source.as_str().into(),
            line: first.text_line,
            text: (&*first.text).into(),
            objects: self.objects.iter().map(|o| key(o)).collect(),
        };
        Entry::Put(document)
    }
}

impl Log {
    /// Whether this path still is the file with what was written.
    fn is_at(&self, path: &Path) -> bool {
        let own = self.file.metadata().map(|m| (m.dev(), m.ino(), m.len()));
        let there = fs::symlink_metadata(path).map(|m| (m.dev(), m.ino(), m.len()));
        let is_same = |own| there.is_ok_and(|there| there == own);
        own.is_ok_and(|own| own.2 == self.len as u64 && is_same(own))
    }

    /// Appends a change.
    fn append(&mut self, mut text: String) -> anyhow::Result<()> {
        end(&mut self.sum, &mut text)?;
        self.file.write_all(text.as_bytes())?;
        self.len += text.len();
        Ok(())
    }
}

fn add(text: &mut String, entry: &Entry<'_>) -> anyhow::Result<()> {
    *text += &serde_json::to_string(entry)?;
    text.push('\n');
    Ok(())
}

/// Ends a text with a checksum that continues `sum`.
fn end(sum: &mut Hasher, text: &mut String) -> anyhow::Result<()> {
    sum.update(text.as_bytes());
    let begin = text.len();
    add(text, &Entry::Whole(sum.clone().finalize()))?;
    sum.update(&text.as_bytes()[begin..]);
    Ok(())
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
