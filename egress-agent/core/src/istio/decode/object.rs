//! Documents to objects: kinds, versions, metadata, lists, and what is skipped.

use std::collections::BTreeMap;
use std::fmt;

use super::node::{Mark, Node, Value};
use super::parse::{Copied, parse};
use super::reader::{self, Decode, Reader};
use super::suggest::nearest;
use crate::istio::destination_rule::DestinationRule;
use crate::istio::message::{Message, Path, Severity, Step};
use crate::istio::service_entry::ServiceEntry;
use crate::istio::sidecar::Sidecar;
use crate::istio::virtual_service::VirtualService;
use crate::istio::workload_entry::WorkloadEntry;

/// Longest file that is read, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Most errors that are kept for a file besides those of its objects.
const MAX_FILE_MESSAGES: usize = 100;
/// The API group of all five kinds.
const GROUP: &str = "networking.istio.io";
/// Its versions, which share one schema (istio `manifests/charts/base/files/crd-all.gen.yaml`).
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// The kinds that the gate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Hosts outside.
    ServiceEntry,
    /// Routes.
    VirtualService,
    /// Connection policies.
    DestinationRule,
    /// Visibility and outbound policy of workloads.
    Sidecar,
    /// Endpoints.
    WorkloadEntry,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::ServiceEntry,
        Self::VirtualService,
        Self::DestinationRule,
        Self::Sidecar,
        Self::WorkloadEntry,
    ];

    /// The name as it stands under `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Sidecar => "Sidecar",
            Self::WorkloadEntry => "WorkloadEntry",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What Kubernetes keeps about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; `default` where the file has none.
    pub namespace: String,
    /// Name; empty where the file has none.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// `creationTimestamp` as it is written (RFC 3339 in UTC, whose order is that of its text).
    /// Files seldom have one.
    pub creation_timestamp: Option<String>,
}

/// The `spec` of an object.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the kinds, described there")]
pub enum Spec {
    ServiceEntry(ServiceEntry),
    VirtualService(VirtualService),
    DestinationRule(DestinationRule),
    Sidecar(Sidecar),
    WorkloadEntry(WorkloadEntry),
}

/// One object of a file.
#[derive(Clone, Debug)]
pub struct Object {
    /// Name of the file, for messages.
    pub source: String,
    /// Number of the document in the file, from 0.
    pub document: usize,
    /// Line that it starts at, from 1.
    pub line: u32,
    /// Its kind.
    pub kind: Kind,
    /// What Kubernetes keeps about it.
    pub meta: Meta,
    /// Its content; `None` if it cannot be decoded, with the errors in `messages`.
    pub spec: Option<Spec>,
    /// What decoding has to say. Validation gives its own.
    pub messages: Vec<Message>,
    root: Node,
}

impl Object {
    /// The place of a field, or of the nearest value around it that the file has.
    pub fn place(&self, path: &Path) -> Mark {
        self.root.place(path)
    }

    /// Whether decoding found an error.
    pub fn is_broken(&self) -> bool {
        self.spec.is_none()
    }

    /// Gives up the tree of marks, the larger part of an object's memory. Places of fields are
    /// unknown afterwards, so validate first.
    pub fn forget_places(&mut self) {
        self.root = Node {
            mark: self.root.mark,
            value: Value::Null,
        };
    }
}

/// A document that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Number of the document in the file, from 0.
    pub document: usize,
    /// Line that it starts at, from 1.
    pub line: u32,
    /// `apiVersion` and `kind` as written.
    pub what: String,
}

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// Objects of the five kinds, in the order of the file.
    pub objects: Vec<Object>,
    /// Documents of other kinds.
    pub skipped: Vec<Skipped>,
    /// What is wrong with the file itself: no YAML, no object, too long.
    pub messages: Vec<Message>,
}

impl Decoded {
    /// Adds an error of the file, unless it has more than anyone would read.
    fn complain(&mut self, message: Message) {
        if self.messages.len() < MAX_FILE_MESSAGES {
            self.messages.push(message);
        }
    }

    /// Whether anything in the file could not be decoded. Validation may still refuse objects.
    pub fn is_broken(&self) -> bool {
        self.messages
            .iter()
            .any(|message| message.severity == Severity::Error)
            || self.objects.iter().any(Object::is_broken)
    }
}

/// Decodes the objects of a file. `source` is its name, used in messages only.
///
/// Never fails as a whole: a document that cannot be read is a message, and the others are read.
pub fn decode(source: &str, text: &str) -> Decoded {
    let mut decoded = Decoded::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > MAX_FILE {
        decoded.complain(error(
            Mark::default(),
            format!("file is longer than {MAX_FILE} bytes"),
        ));
        return decoded;
    }
    let mut number = 0;
    let mut copied = Copied::default();
    for (part, line) in documents(text) {
        match parse(part, line, &mut copied) {
            Ok(nodes) => {
                for node in nodes {
                    if node.value != Value::Null {
                        document(&mut decoded, source, number, node);
                        number += 1;
                    }
                }
            }
            Err(syntax) => {
                decoded.complain(error(syntax.mark, syntax.text));
                number += 1;
            }
        }
    }
    if number == 0 {
        decoded.complain(error(
            Mark { line: 1, column: 1 },
            "file holds no object".to_owned(),
        ));
    }
    decoded
}

fn error(mark: Mark, text: String) -> Message {
    Message {
        severity: Severity::Error,
        field: String::new(),
        line: mark.line,
        column: mark.column,
        text,
    }
}

/// Splits a stream at its `---` lines, so that one broken document does not hide the others.
fn documents(text: &str) -> Vec<(&str, u32)> {
    let mut parts = Vec::new();
    let (mut start, mut offset, mut first_line) = (0, 0, 1);
    for (line, number) in text.split_inclusive('\n').zip(1_u32..) {
        let separates = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']));
        if separates && offset > start {
            parts.push((&text[start..offset], first_line));
            (start, first_line) = (offset, number);
        }
        offset += line.len();
    }
    parts.push((&text[start..], first_line));
    parts
}

fn document(decoded: &mut Decoded, source: &str, number: usize, node: Node) {
    let kind = node.get("kind").and_then(Node::text).unwrap_or_default();
    let has_items = matches!(
        node.get("items"),
        Some(Node {
            value: Value::List(_),
            ..
        })
    );
    if !kind.ends_with("List") || !has_items {
        object(decoded, source, number, node);
        return;
    }
    let Value::Map(entries) = node.value else {
        return;
    };
    for entry in entries {
        if let ("items", Value::List(items)) = (entry.key.as_str(), entry.value.value) {
            for item in items {
                object(decoded, source, number, item);
            }
        }
    }
}

fn object(decoded: &mut Decoded, source: &str, document: usize, root: Node) {
    let line = root.mark.line;
    if !matches!(root.value, Value::Map(_)) {
        decoded.complain(error(
            root.mark,
            format!("document is no object but a {}", root.value.kind()),
        ));
        return;
    }
    let text = |key: &str| root.get(key).and_then(Node::text).unwrap_or_default();
    let (api_version, kind_name) = (text("apiVersion"), text("kind"));
    if api_version.is_empty() || kind_name.is_empty() {
        let missing = if kind_name.is_empty() {
            "kind"
        } else {
            "apiVersion"
        };
        decoded.complain(Message {
            field: missing.to_owned(),
            ..error(root.mark, format!("{missing} is not set"))
        });
        return;
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == kind_name);
    let (Some(kind), GROUP) = (kind, group) else {
        decoded.skipped.push(Skipped {
            document,
            line,
            what: format!("{api_version} {kind_name}"),
        });
        return;
    };
    let mut reader = Reader::default();
    if !VERSIONS.contains(&version) {
        reader.within(Step::Field("apiVersion"), |reader| {
            let node = root.get("apiVersion").unwrap_or(&root);
            reader.say(
                Severity::Note,
                node,
                format!("Istio serves v1, v1beta1 and v1alpha3 of {kind_name}, not {version}; read as v1"),
            );
        });
    }
    let meta = reader.within(Step::Field("metadata"), |reader| {
        meta(root.get("metadata"), reader)
    });
    top_level_fields(&root, &mut reader);
    let empty = Node {
        mark: root.mark,
        value: Value::Null,
    };
    let node = root.get("spec").unwrap_or(&empty);
    let spec = reader.within(Step::Field("spec"), |reader| match kind {
        Kind::ServiceEntry => Spec::ServiceEntry(Decode::decode(node, reader)),
        Kind::VirtualService => Spec::VirtualService(Decode::decode(node, reader)),
        Kind::DestinationRule => Spec::DestinationRule(Decode::decode(node, reader)),
        Kind::Sidecar => Spec::Sidecar(Decode::decode(node, reader)),
        Kind::WorkloadEntry => Spec::WorkloadEntry(Decode::decode(node, reader)),
    });
    let messages = reader.messages.into_vec();
    let broken = messages
        .iter()
        .any(|message| message.severity == Severity::Error);
    decoded.objects.push(Object {
        source: source.to_owned(),
        document,
        line,
        kind,
        meta,
        spec: (!broken).then_some(spec),
        messages,
        root,
    });
}

fn top_level_fields(root: &Node, reader: &mut Reader) {
    const KNOWN: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    let Value::Map(entries) = &root.value else {
        return;
    };
    for entry in entries
        .iter()
        .filter(|entry| !KNOWN.contains(&entry.key.as_str()))
    {
        let at = Node {
            mark: entry.mark,
            value: Value::Null,
        };
        if !reader.messages.has_room(Severity::Warning) {
            return;
        }
        let hint =
            nearest(&entry.key, KNOWN.into_iter()).map(|name| format!(", did you mean {name:?}?"));
        reader.within(Step::Key(entry.key.clone()), |reader| {
            reader.say(
                Severity::Warning,
                &at,
                format!("unknown field {:?}{}", entry.key, hint.unwrap_or_default()),
            );
        });
    }
}

fn meta(node: Option<&Node>, reader: &mut Reader) -> Meta {
    let mut meta = Meta {
        namespace: "default".to_owned(),
        ..Meta::default()
    };
    let Some(node) = node else { return meta };
    if !matches!(node.value, Value::Map(_) | Value::Null) {
        reader.mismatch(node, "v1.ObjectMeta");
        return meta;
    }
    let node = &reader::Message::open(node);
    let namespace: String = reader.field(node, "namespace", "namespace");
    if !namespace.is_empty() {
        meta.namespace = namespace;
    }
    meta.name = reader.field(node, "name", "name");
    meta.labels = reader.field(node, "labels", "labels");
    meta.annotations = reader.field(node, "annotations", "annotations");
    meta.creation_timestamp = reader.field(node, "creationTimestamp", "creationTimestamp");
    meta
}
