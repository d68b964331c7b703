//! Splits a file into objects: documents, lists, and documents of other kinds, which are skipped.
//!
//! One broken document does not hide the others. Errors inside a document of another kind are not
//! reported.

use super::documents::{documents, without_marks};
use super::node::{Mark, Node, Value};
use super::object::{self, GROUP, Kind, OTHER_KINDS, Object, Place};
use super::parse::{SyntaxError, parse};
use super::size::Copied;
use super::suggest::nearest;
use super::template;
use crate::istio::message::{Message, Severity};
use crate::istio::secret::{CredentialKind, Secret};
use std::sync::Arc;

/// Longest file that is read, in bytes.
pub const MAX_FILE: usize = 4 << 20;
/// Most errors that are kept for a file besides those of its objects.
const MAX_FILE_MESSAGES: usize = 100;
/// The only kind of another group that is read.
const SECRET: &str = "v1 Secret";

/// How strictly a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// As istiod decodes: an unknown field is left out with a warning.
    Istio,
    /// As kubectl validates: an unknown field, kind or version makes the object invalid, since it
    /// may be a misspelt one that narrows.
    Files,
}

/// A document of another kind.
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
    /// Kubernetes Secrets with certificates and ConfigMaps with authorities, each with the line that it starts at.
    pub secrets: Vec<(u32, Secret)>,
    /// Documents of other kinds.
    pub skipped: Vec<Skipped>,
    /// What is wrong with documents of which no object could be made: no YAML, no kind, too long.
    pub messages: Vec<Message>,
    /// Where the text ends.
    pub end: At,
}

/// A place between two documents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Line, from 1.
    pub line: u32,
    /// Number of the next document, from 0.
    pub document: usize,
}

impl Default for At {
    fn default() -> Self {
        Self {
            line: 1,
            document: 0,
        }
    }
}

impl Decoded {
    /// Adds an error of the file, unless it has more than anyone would read.
    fn complain(&mut self, message: Message) {
        if self.messages.len() < MAX_FILE_MESSAGES {
            self.messages.push(message);
        }
    }

    /// Whether anything in the file could not be decoded. Validation may still reject objects.
    pub fn is_broken(&self) -> bool {
        self.messages
            .iter()
            .any(|message| message.severity == Severity::Error)
            || self.objects.iter().any(Object::is_broken)
    }
}

/// Decodes the objects of a file as istiod does. `source` is its name, used in messages only.
///
/// Never fails as a whole: a document that cannot be read is a message, and the others are read.
pub fn decode(source: &str, text: &str) -> Decoded {
    decode_as(source, text, Strictness::Istio)
}

/// As [`decode`], as strictly as is asked for.
pub fn decode_as(source: &str, text: &str, strictness: Strictness) -> Decoded {
    decode_part(source, text, At::default(), strictness)
}

/// As [`decode_as`], for whole documents of a file, the first of which begins here.
pub fn decode_part(source: &str, text: &str, begin: At, strictness: Strictness) -> Decoded {
    let mut stream = Stream {
        source,
        strict: strictness == Strictness::Files,
        decoded: Decoded::default(),
        number: begin.document,
    };
    if text.len() > MAX_FILE {
        let text = format!("file is longer than {MAX_FILE} bytes");
        stream.decoded.complain(error(Mark::default(), text));
        return stream.decoded;
    }
    let mut copied = Copied::default();
    for (part, line) in documents(text, begin.line) {
        stream.part(part, line, &mut copied);
    }
    if stream.number == 0 {
        let mark = Mark { line: 1, column: 1 };
        let text = "file holds no object".to_owned();
        stream.decoded.complain(error(mark, text));
    }
    let lines = u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX);
    stream.decoded.end = At {
        line: begin.line.saturating_add(lines),
        document: stream.number,
    };
    stream.decoded
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

/// What an `apiVersion` and a `kind` stand for.
enum Of<'a> {
    /// One of the five kinds, of this version.
    Ours(Kind, &'a str),
    /// A Kubernetes Secret or ConfigMap.
    Credential(CredentialKind),
    /// Something else.
    Other,
    /// Nothing that there is, and probably one of ours with a mistake.
    Mistaken(String),
}

fn kind_of<'a>(api_version: &'a str, kind: &str, strict: bool) -> Of<'a> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let ours = Kind::ALL.into_iter().find(|k| k.as_str() == kind);
    let names = || Kind::ALL.map(Kind::as_str).into_iter().chain(OTHER_KINDS);
    let meant = |name: Option<&str>| match name {
        Some(name) => format!(", did you mean {name:?}?"),
        None => String::new(),
    };
    if group == GROUP {
        return match ours {
            Some(kind) => Of::Ours(kind, version),
            None if strict && !OTHER_KINDS.contains(&kind) => {
                let meant = meant(nearest(kind, names()));
                Of::Mistaken(format!("the group {GROUP} has no kind {kind:?}{meant}"))
            }
            None => Of::Other,
        };
    }
    let credential = CredentialKind::ALL.into_iter().find(|k| k.as_str() == kind);
    if let Some(kind) = credential.filter(|_| api_version == "v1") {
        return Of::Credential(kind);
    }
    if strict && nearest(group, std::iter::once(GROUP)).is_some() {
        return Of::Mistaken(format!("unknown group {group:?}{}", meant(Some(GROUP))));
    }
    if strict && group.is_empty() && names().any(|name| name == kind) {
        let text = format!("{kind} is of the group {GROUP}: want apiVersion {GROUP}/v1");
        return Of::Mistaken(text);
    }
    Of::Other
}

struct Stream<'a> {
    source: &'a str,
    strict: bool,
    decoded: Decoded,
    /// Of the next document.
    number: usize,
}

impl Stream<'_> {
    /// Reads what stands between two `---` lines.
    fn part(&mut self, part: &str, line: u32, copied: &mut Copied) {
        let bare = without_marks(part);
        let part = bare.as_deref().unwrap_or(part);
        match parse(part, line, copied) {
            Ok(documents) => {
                let text: Arc<str> = part.into();
                for document in documents {
                    if document.root.value != Value::Null {
                        let root = document.root;
                        self.document(root, document.twice.as_ref(), (&text, line));
                        self.number += 1;
                    }
                }
            }
            Err(syntax) => {
                match self.other_by_its_lines(part) {
                    Some(what) if what == SECRET => self.wrong_secret(
                        Mark { line, column: 1 },
                        format!("the Secret is not valid YAML (line {})", syntax.mark.line),
                    ),
                    Some(what) => self.skip(line, format!("{what} ({syntax})")),
                    None => self.decoded.complain(error(
                        syntax.mark,
                        format!("{}{}", syntax.text, template::hint(part)),
                    )),
                }
                self.number += 1;
            }
        }
    }

    /// Says what is wrong with a Secret or ConfigMap, at its start: no message shows a line with a value.
    fn wrong_secret(&mut self, start: Mark, text: String) {
        self.decoded.complain(error(start, text));
    }

    fn secret(&mut self, kind: CredentialKind, root: &Node, in_list: bool, twice: bool) {
        let of = kind.as_str();
        let what = match Secret::decode(kind, root) {
            Err(wrong) => return self.wrong_secret(root.mark, wrong),
            Ok(Some(_)) if twice => {
                return self.wrong_secret(root.mark, format!("the {of} sets a key twice"));
            }
            // A list is kept with the rules in it over a restart. Keys are not.
            Ok(Some(_)) if in_list => "in a list (give it a document of its own)",
            Ok(Some(secret)) => return self.decoded.secrets.push((root.mark.line, secret)),
            Ok(None) => "without certificates",
        };
        self.skip(root.mark.line, format!("v1 {of} {what}"));
    }

    fn skip(&mut self, line: u32, what: String) {
        self.decoded.skipped.push(Skipped {
            document: self.number,
            line,
            what,
        });
    }

    /// `apiVersion` and `kind` of a document that is not YAML, where its lines say that it is none of
    /// ours.
    fn other_by_its_lines(&self, part: &str) -> Option<String> {
        let of = |key: &'static str| {
            part.lines()
                .filter_map(move |line| line.strip_prefix(key)?.strip_prefix(':'))
                .map(|value| value.trim().trim_matches(['"', '\'']))
        };
        let (versions, kinds): (Vec<_>, Vec<_>) =
            (of("apiVersion").collect(), of("kind").collect());
        let (version, kind) = (versions.first()?, kinds.first()?);
        let other = |v: &&str| {
            kinds
                .iter()
                .all(|k| matches!(kind_of(v, k, self.strict), Of::Other | Of::Credential(_)))
        };
        let lists = kinds.iter().any(|k| k.ends_with("List"));
        (!lists && versions.iter().all(other)).then(|| format!("{version} {kind}"))
    }

    fn document(&mut self, root: Node, twice: Option<&SyntaxError>, text: (&Arc<str>, u32)) {
        let kind = root.get("kind").and_then(Node::text).unwrap_or_default();
        let items = root.get("items").map(|items| &items.value);
        if !kind.ends_with("List") || !matches!(items, Some(Value::List(_))) {
            return self.object(root, twice, text, false);
        }
        let Value::Map(entries) = root.value else {
            return;
        };
        for entry in entries {
            if let ("items", Value::List(items)) = (entry.key.as_str(), entry.value.value) {
                for item in items {
                    self.object(item, twice, text, true);
                }
            }
        }
    }

    fn object(
        &mut self,
        root: Node,
        twice: Option<&SyntaxError>,
        (text, line): (&Arc<str>, u32),
        in_list: bool,
    ) {
        let Value::Map(entries) = &root.value else {
            let text = format!("document is {}, not an object", root.value.in_words());
            return self.decoded.complain(error(root.mark, text));
        };
        let of = |key: &str| root.get(key).and_then(Node::text).unwrap_or_default();
        let (api_version, kind) = (of("apiVersion"), of("kind"));
        let missing = ["kind", "apiVersion"]
            .into_iter()
            .find(|key| of(key).is_empty());
        if let Some(missing) = missing {
            if let Some(twice) = twice {
                return self.decoded.complain(error(twice.mark, twice.text.clone()));
            }
            let keys = entries.iter().map(|e| e.key.as_str());
            let meant = nearest(missing, keys.filter(|k| *k != missing));
            let hint = meant.map_or(String::new(), |key| format!("; {key:?} is something else"));
            let want = if missing == "apiVersion" {
                "; want networking.istio.io/v1"
            } else {
                ""
            };
            return self.decoded.complain(Message {
                field: missing.to_owned(),
                ..error(root.mark, format!("is not set{hint}{want}"))
            });
        }
        match kind_of(api_version, kind, self.strict) {
            Of::Ours(kind, version) => {
                let at = Place {
                    source: self.source,
                    document: self.number,
                    text,
                    text_line: line,
                };
                let version = version.to_owned();
                let twice = twice.map(|t| error(t.mark, t.text.clone()));
                let object = object::object(&at, kind, &version, root, self.strict, twice);
                self.decoded.objects.push(object);
            }
            Of::Credential(kind) => self.secret(kind, &root, in_list, twice.is_some()),
            Of::Other => {
                let what = format!("{api_version} {kind}");
                self.skip(root.mark.line, what);
            }
            Of::Mistaken(text) => {
                let key = if text.contains("has no kind") {
                    "kind"
                } else {
                    "apiVersion"
                };
                let mark = root.get(key).map_or(root.mark, |node| node.mark);
                self.decoded.complain(Message {
                    field: key.to_owned(),
                    ..error(mark, text)
                });
            }
        }
    }
}
