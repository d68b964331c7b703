//! Selectors of fields and labels: equality, inequality and existence.

use super::answers::Refusal;
use super::asked::Asked;
use serde_json::Value;

/// Which objects a request is about.
#[derive(Clone, Debug)]
pub(super) struct Selectors {
    namespace: String,
    /// Path, value, whether equal.
    fields: Vec<(String, String, bool)>,
    labels: Vec<Label>,
}

#[derive(Clone, Debug)]
struct Label {
    name: String,
    /// `None`: any value.
    value: Option<String>,
    holds: bool,
}

impl Selectors {
    pub(super) fn of(asked: &Asked) -> Result<Self, Refusal> {
        let mut fields = Vec::new();
        for term in terms(asked.parameter("fieldSelector")) {
            let (path, value, equal) = equation(term).ok_or_else(|| {
                Refusal::new(400, "BadRequest", format!("invalid selector: '{term}'"))
            })?;
            let known = match path {
                "metadata.name" | "metadata.namespace" => true,
                "spec.nodeName" | "status.phase" => asked.plural == "pods",
                _ => false,
            };
            if !known {
                let text = format!("field label not supported: {path}");
                return Err(Refusal::new(400, "BadRequest", text));
            }
            fields.push((path.to_owned(), value.to_owned(), equal));
        }
        let label = |term: &str| match equation(term) {
            Some((name, value, holds)) => Label {
                name: name.to_owned(),
                value: Some(value.to_owned()),
                holds,
            },
            None => Label {
                name: term.trim_start_matches('!').to_owned(),
                value: None,
                holds: !term.starts_with('!'),
            },
        };
        Ok(Self {
            namespace: asked.namespace.clone(),
            fields,
            labels: terms(asked.parameter("labelSelector")).map(label).collect(),
        })
    }

    pub(super) fn fits(&self, object: &Value) -> bool {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let in_place = self.namespace.is_empty() || self.namespace == namespace;
        let field = |(path, value, equal): &(String, String, bool)| {
            let found = path.split('.').fold(object, |at, part| &at[part]);
            (found.as_str().unwrap_or_default() == value) == *equal
        };
        let label = |label: &Label| {
            let found = object["metadata"]["labels"][&*label.name].as_str();
            let holds = match &label.value {
                Some(value) => found == Some(value),
                None => found.is_some(),
            };
            holds == label.holds
        };
        in_place && self.fields.iter().all(field) && self.labels.iter().all(label)
    }
}

fn terms(selector: Option<&str>) -> impl Iterator<Item = &str> {
    selector.into_iter().flat_map(|text| text.split(','))
}

fn equation(term: &str) -> Option<(&str, &str, bool)> {
    if let Some((name, value)) = term.split_once("!=") {
        return Some((name, value, false));
    }
    let (name, value) = term.split_once("==").or_else(|| term.split_once('='))?;
    Some((name, value, true))
}
