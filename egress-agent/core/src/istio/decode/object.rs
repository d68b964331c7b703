//! One object: its kind, version and metadata, and its spec. `stream` splits a file into documents.

use super::node::{Entry, Node, Value};
use super::reader::{self, Decode, Misspelt, Reader};
use super::template;
use crate::istio::destination_rule::DestinationRule;
use crate::istio::message::{Message, Path, Severity, Step};
use crate::istio::place::place;
use crate::istio::service_entry::ServiceEntry;
use crate::istio::sidecar::Sidecar;
use crate::istio::virtual_service::VirtualService;
use crate::istio::workload_entry::WorkloadEntry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The API group of all five kinds.
pub const GROUP: &str = "networking.istio.io";
/// Kinds of the group that the gate does not read.
pub(super) const OTHER_KINDS: [&str; 4] =
    ["Gateway", "EnvoyFilter", "WorkloadGroup", "ProxyConfig"];
/// Its versions, which share one schema (istio `manifests/charts/base/files/crd-all.gen.yaml`). The newest is first.
pub const VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

/// Fields of an object (Kubernetes API conventions).
const TOP_LEVEL: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// Fields of `metadata` (Kubernetes `meta/v1` `ObjectMeta`); `clusterName` is of older versions.
const METADATA: [&str; 16] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "clusterName",
];

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
    /// All of them.
    pub const ALL: [Self; 5] = [
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
    /// `metadata.generation`, by which the API server numbers the versions of its `spec`. Files seldom have one.
    pub generation: Option<i64>,
    /// Its content; `None` if it cannot be decoded, with the errors in `messages`.
    pub spec: Option<Spec>,
    /// What decoding has to say. Validation gives its own.
    pub messages: Vec<Message>,
    /// The document that it is in, by which it can be decoded again.
    pub text: Arc<str>,
    /// Line of the file that `text` starts at.
    pub text_line: u32,
    /// Why what it is about serves nothing: this is the stand-in of an object that is invalid and
    /// narrows or protects. See [`super::super::stand_in`].
    pub denied: Option<Arc<str>>,
    /// What could be decoded of a spec that is broken.
    pub(crate) draft: Option<Spec>,
    /// Unknown fields that may be meant for another.
    pub(crate) misspelt: Vec<Misspelt>,
    pub(crate) root: Node,
}

/// `Kind namespace/name`.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{}",
            self.kind, self.meta.namespace, self.meta.name
        )
    }
}

impl Object {
    /// A message about a field, at the nearest value around it that the file has.
    pub fn message(&self, severity: Severity, path: &Path, text: String) -> Message {
        self.root.message(severity, path, text)
    }

    /// Its source and line, as messages show them.
    pub fn place(&self) -> String {
        place(&self.source, self.line)
    }

    /// Whether decoding found an error.
    pub fn is_broken(&self) -> bool {
        self.spec.is_none()
    }

    /// Gives up the tree of marks, the larger part of an object's memory. Places of fields are
    /// unknown afterwards, so validate first.
    pub fn forget_places(&mut self) {
        self.draft = None;
        self.misspelt = Vec::new();
        self.root = Node {
            mark: self.root.mark,
            value: Value::Null,
        };
    }
}

/// Where an object stands.
pub(super) struct Place<'a> {
    pub(super) source: &'a str,
    pub(super) document: usize,
    pub(super) text: &'a Arc<str>,
    pub(super) text_line: u32,
}

/// Decodes an object of a known kind; `version` is that of its `apiVersion`, `twice` is the error of
/// a key that its document sets twice.
pub(super) fn object(
    at: &Place<'_>,
    kind: Kind,
    version: &str,
    root: Node,
    strict: bool,
    twice: Option<Message>,
) -> Object {
    let mut reader = Reader {
        strict,
        ..Reader::default()
    };
    if let Some(error) = twice {
        reader.messages.push(error);
    }
    if !VERSIONS.contains(&version) {
        let (severity, end) = if strict {
            (Severity::Error, "")
        } else {
            (Severity::Note, "; read as v1")
        };
        reader.within(Step::Field("apiVersion"), |reader| {
            let node = root.get("apiVersion").unwrap_or(&root);
            let text =
                format!("Istio serves v1, v1beta1 and v1alpha3 of {kind}, not {version}{end}");
            reader.say(severity, node, text);
        });
    }
    let meta = reader.within(Step::Field("metadata"), |reader| {
        if strict {
            named(&root, reader);
        }
        meta(root.get("metadata"), reader)
    });
    if let Value::Map(entries) = &root.value {
        let unknown = |e: &&Entry| !TOP_LEVEL.contains(&e.key.as_str());
        for entry in entries.iter().filter(unknown) {
            reader.unknown(entry, TOP_LEVEL.into_iter());
        }
    }
    let spec = spec_of(kind, &root, &mut reader);
    let mut messages = reader.messages.into_vec();
    if strict && let Some((path, mark)) = template::find(&root) {
        // What else is wrong with a template is nothing that its author wrote.
        messages = vec![Message {
            severity: Severity::Error,
            field: path.to_string(),
            line: mark.line,
            column: mark.column,
            text: template::ADVICE.to_owned(),
        }];
    }
    let is_error = |message: &Message| message.severity == Severity::Error;
    let (spec, draft) = if messages.iter().any(is_error) {
        (None, Some(spec))
    } else {
        (Some(spec), None)
    };
    Object {
        source: at.source.to_owned(),
        document: at.document,
        line: root.mark.line,
        kind,
        meta,
        generation: generation(&root),
        spec,
        messages,
        text: Arc::clone(at.text),
        text_line: at.text_line,
        denied: None,
        draft,
        misspelt: reader.misspelt,
        root,
    }
}

/// The spec of an object.
pub(super) fn spec_of(kind: Kind, root: &Node, reader: &mut Reader) -> Spec {
    let empty = Node {
        mark: root.mark,
        value: Value::Null,
    };
    let node = root.get("spec").unwrap_or(&empty);
    reader.within(Step::Field("spec"), |reader| match kind {
        Kind::ServiceEntry => Spec::ServiceEntry(Decode::decode(node, reader)),
        Kind::VirtualService => Spec::VirtualService(Decode::decode(node, reader)),
        Kind::DestinationRule => Spec::DestinationRule(Decode::decode(node, reader)),
        Kind::Sidecar => Spec::Sidecar(Decode::decode(node, reader)),
        Kind::WorkloadEntry => Spec::WorkloadEntry(Decode::decode(node, reader)),
    })
}

fn generation(root: &Node) -> Option<i64> {
    match &root.get("metadata")?.get("generation")?.value {
        Value::Number(number) => number.parse().ok(),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::List(_) | Value::Map(_) => None,
    }
}

/// Says that an object has no name. The API server rejects such an object; istiod's validation does not look at it.
fn named(root: &Node, reader: &mut Reader) {
    let metadata = root.get("metadata");
    let set = |key: &str| {
        let value = metadata.and_then(|m| m.get(key)).map(|node| &node.value);
        value.is_some_and(|value| {
            !matches!(value, Value::Null) && *value != Value::String(String::new())
        })
    };
    if !set("name") && !set("generateName") {
        reader.within(Step::Field("name"), |reader| {
            reader.say(Severity::Error, metadata.unwrap_or(root), "is not set");
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
    if let Value::Map(entries) = &node.value {
        let unknown = |e: &&Entry| !METADATA.contains(&e.key.as_str());
        for entry in entries.iter().filter(unknown) {
            reader.unknown(entry, METADATA.into_iter());
        }
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
