//! The name of an object of the rules, as people type it: `serviceentry/shop/a`.

use super::decode::{Kind, Object};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Kind, namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A text that names no object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleNameError {
    /// The number of parts is wrong, or one is empty.
    #[error("want KIND/NAMESPACE/NAME, such as serviceentry/shop/a")]
    Form,
    /// The kind does not exist.
    #[error(
        "{0:?} is no kind of rules: want serviceentry, virtualservice, destinationrule, sidecar or workloadentry"
    )]
    Kind(String),
}

impl RuleName {
    /// The name of an object.
    pub fn of(object: &Object) -> Self {
        Self {
            kind: object.kind,
            namespace: object.meta.namespace.clone(),
            name: object.meta.name.clone(),
        }
    }
}

/// The kind that a user means, as kubectl reads it: kind, plural or short name, in any case.
fn kind(text: &str) -> Option<Kind> {
    let text = text.to_ascii_lowercase();
    let text = text.strip_suffix(".networking.istio.io").unwrap_or(&text);
    Kind::ALL.into_iter().find(|kind| {
        let single = kind.as_str().to_ascii_lowercase();
        let plural = match single.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{single}s"),
        };
        // The short names of Istio's definitions; Sidecar has none.
        let short = match kind {
            Kind::ServiceEntry => "se",
            Kind::VirtualService => "vs",
            Kind::DestinationRule => "dr",
            Kind::WorkloadEntry => "we",
            Kind::Sidecar => "sidecar",
        };
        [single.as_str(), plural.as_str(), short].contains(&text)
    })
}

impl FromStr for RuleName {
    type Err = RuleNameError;

    fn from_str(text: &str) -> Result<Self, RuleNameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let [of, namespace, name] = parts[..] else {
            return Err(RuleNameError::Form);
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(RuleNameError::Form);
        }
        Ok(Self {
            kind: kind(of).ok_or_else(|| RuleNameError::Kind(of.to_owned()))?,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.as_str().to_ascii_lowercase();
        write!(f, "{kind}/{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_as_kubectl_reads_them() {
        for (text, kind) in [
            ("ServiceEntry", "serviceentry"),
            ("serviceentries", "serviceentry"),
            ("se", "serviceentry"),
            ("VS", "virtualservice"),
            ("destinationrules.networking.istio.io", "destinationrule"),
            ("sidecars", "sidecar"),
            ("we", "workloadentry"),
        ] {
            let name: RuleName = format!("{text}/shop/a.b").parse().unwrap();
            assert_eq!(name.to_string(), format!("{kind}/shop/a.b"));
        }
    }

    #[test]
    fn what_names_no_object_is_an_error_that_says_why() {
        for text in ["a", "serviceentry/a", "se//a", "se/shop/", "se/a/b/c"] {
            assert_eq!(text.parse::<RuleName>(), Err(RuleNameError::Form), "{text}");
        }
        let error = "gateway/shop/a".parse::<RuleName>().unwrap_err();
        assert!(error.to_string().contains("\"gateway\""), "{error}");
    }
}
