//! The verdict on each object of one file: valid, or the reason why not.
//!
//! Knows neither other files nor the rules in force.

use super::files::SourceFile;
use egress_core::istio::decode::{At, decode_part};
use egress_core::istio::stand_in::stand_in;
use egress_core::istio::{Kind, Message, Object, Secret, Severity, Strictness, place, validate};
use egress_core::registry::not_done::not_done;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

/// The identity of an object: two documents with the same identity are the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    kind: Kind,
    namespace: String,
    name: String,
    /// For an object without a name: its place in the file.
    nameless: Option<(String, usize, u32)>,
}

impl Id {
    pub(crate) fn of(object: &Object) -> Self {
        let meta = &object.meta;
        let place = || (object.source.clone(), object.document, object.line);
        Self {
            kind: object.kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            nameless: meta.name.is_empty().then(place),
        }
    }
}

/// One object of a file.
#[derive(Clone, Debug)]
pub(super) struct One {
    pub(super) id: Id,
    pub(super) object: Arc<Object>,
    /// Why the object is invalid, one line for each reason; empty if it is valid.
    pub(super) errors: Vec<String>,
    /// The stand-in for an invalid object whose omission would open something.
    pub(super) stand_in: Option<Arc<Object>>,
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Judged {
    pub(super) objects: Vec<One>,
    pub(super) secrets: Vec<Arc<Secret>>,
    /// Errors of documents that are not objects.
    pub(super) errors: Vec<String>,
    pub(super) notes: Vec<String>,
    /// Where the documents end.
    pub(super) end: At,
}

impl Judged {
    /// Adds the documents that follow.
    pub(super) fn extend(&mut self, more: Self) {
        self.objects.extend(more.objects);
        self.secrets.extend(more.secrets);
        self.errors.extend(more.errors);
        self.notes.extend(more.notes);
        self.end = more.end;
    }
}

pub(in crate::sources) fn judge(file: &SourceFile) -> Judged {
    judge_part(file, &file.text, At::default())
}

/// The verdicts on several files, made by this many threads.
pub(super) fn judge_all(files: &[&Arc<SourceFile>], threads: usize) -> Vec<Judged> {
    let verdicts: Vec<OnceLock<Judged>> = files.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let number = next.fetch_add(1, Ordering::Relaxed)
            && let (Some(file), Some(verdict)) = (files.get(number), verdicts.get(number))
        {
            verdict.get_or_init(|| judge(file));
        }
    };
    // A panic of a thread is a panic here.
    thread::scope(|scope| {
        (1..threads.min(files.len())).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let verdicts = verdicts.into_iter().zip(files);
    verdicts
        .map(|(verdict, file)| verdict.into_inner().unwrap_or_else(|| judge(file)))
        .collect()
}

/// The same for documents of a file, the first of which begins at `begin`.
pub(super) fn judge_part(file: &SourceFile, text: &str, begin: At) -> Judged {
    let name = file.path.display().to_string();
    let decoded = decode_part(&name, text, begin, Strictness::Files);
    let mut judged = Judged {
        end: decoded.end,
        ..Judged::default()
    };
    for message in &decoded.messages {
        let line = line(&name, message);
        judged.errors.push(format!(
            "{line}; this document is ignored, and the last good versions of the objects that it may contain stay in force"
        ));
    }
    for mut object in decoded.objects {
        let (errors, notes): (Vec<_>, Vec<_>) = validate(&object)
            .into_iter()
            .partition(|m| m.severity == Severity::Error);
        let errors: Vec<_> = errors.iter().map(|m| line(&name, m)).collect();
        let stand_in = if errors.is_empty() {
            // Most objects of a mesh have fields about inbound traffic; lines about them would hide others.
            let not_done = not_done(&object).into_iter();
            let not_done = not_done.filter(|m| m.severity > Severity::Note);
            let notes = notes.into_iter().chain(not_done);
            judged.notes.extend(notes.map(|m| line(&name, &m)));
            None
        } else {
            stand_in(&object).map(Arc::new)
        };
        // Only messages need the places, and they are the larger part of an object.
        object.forget_places();
        judged.objects.push(One {
            id: Id::of(&object),
            object: Arc::new(object),
            errors,
            stand_in,
        });
    }
    let secrets = decoded.secrets.into_iter();
    judged.secrets = secrets.map(|(_, secret)| Arc::new(secret)).collect();
    let skipped = decoded.skipped.iter();
    judged.notes.extend(
        skipped.map(|s| format!("{}: {}: not a rule; skipped", place(&name, s.line), s.what)),
    );
    judged
}

fn line(file: &str, message: &Message) -> String {
    let field = if message.field.is_empty() {
        String::new()
    } else {
        format!("{}: ", message.field)
    };
    format!("{}: {field}{}", place(file, message.line), message.text)
}

/// An object that is in more than one valid document.
#[derive(Clone, Debug)]
pub(crate) struct Again {
    /// All copies are equal, which is harmless. Otherwise none of them is in force, because a forgotten copy must not
    /// decide.
    pub(crate) same: bool,
    places: String,
}

impl Again {
    pub(crate) fn text(&self, object: &Object) -> String {
        let (name, places) = (object.to_string(), &self.places);
        if self.same {
            format!("{name} is given more than once, the same each time ({places})")
        } else {
            format!("{name} is given more than once ({places}): remove all but one")
        }
    }
}

/// Whether valid objects with the same kind, namespace and name are given more than once.
pub(super) fn again(ones: &[&Object]) -> Option<Again> {
    let first = ones.first().filter(|_| ones.len() > 1)?;
    let alike = |o: &&Object| o.spec == first.spec && o.meta == first.meta;
    let places = ones.iter().map(|o| o.place());
    Some(Again {
        same: ones.iter().all(alike),
        places: places.collect::<Vec<_>>().join(", "),
    })
}

/// The valid objects that are in more than one document.
pub(crate) fn twice<'a>(objects: impl Iterator<Item = (Id, &'a Object)>) -> BTreeMap<Id, Again> {
    let mut all: BTreeMap<Id, Vec<&Object>> = BTreeMap::new();
    for (id, object) in objects {
        all.entry(id).or_default().push(object);
    }
    all.into_iter()
        .filter_map(|(id, ones)| Some((id, again(&ones)?)))
        .collect()
}
