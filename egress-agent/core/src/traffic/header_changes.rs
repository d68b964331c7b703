//! `headers` of a route or of one of its destinations: the headers that a rule sets, adds and removes.
//!
//! Source: istio `TranslateHeadersOperations`, Envoy `source/common/router/header_parser.cc` (`evaluateHeaders`).
//! Header maps in, header maps out.

use crate::http::format::Format;
use crate::istio::virtual_service::{HeaderOperations, Headers};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;

/// Fields that frame a message. A rule that sets one could make two readers see two messages.
const FRAMING: [HeaderName; 6] = [
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The changes of both messages. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Of the request.
    pub request: HeaderOps,
    /// Of the response.
    pub response: HeaderOps,
    /// The authority that the rule sets on the request.
    pub authority: Option<HeaderValue>,
}

/// The changes of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOps {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, Value)>,
    add: Vec<(HeaderName, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Literal(HeaderValue),
    Format(Format),
}

impl Value {
    fn new(text: &str) -> Result<Self, String> {
        let format = Format::new(text).map_err(|error| error.to_string())?;
        match format.literal() {
            Some(literal) => HeaderValue::from_str(literal)
                .map(Self::Literal)
                .map_err(|_| "a value is not one of a header".to_owned()),
            None => Ok(Self::Format(format)),
        }
    }

    /// `None` where nothing is left to write.
    fn of(&self, text: impl FnOnce(&Format) -> String) -> Option<HeaderValue> {
        let value = match self {
            Self::Literal(value) => value.clone(),
            Self::Format(format) => HeaderValue::from_str(&text(format)).ok()?,
        };
        Some(value).filter(|value| !value.is_empty())
    }
}

/// Whether Istio leaves an operation on this header out, or makes it one on the authority.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case(HOST.as_str())
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case(HOST.as_str())
}

fn name_of(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{name} is not the name of a header"))
}

fn changed_name(name: &str) -> Result<HeaderName, String> {
    let name = name_of(name)?;
    if FRAMING.contains(&name) {
        return Err(format!(
            "{name} frames a message, which a rule cannot change"
        ));
    }
    Ok(name)
}

impl HeaderOps {
    fn new(operations: Option<&HeaderOperations>) -> Result<Self, String> {
        let Some(operations) = operations else {
            return Ok(Self::default());
        };
        let values = |map: &BTreeMap<String, String>| {
            let own = map.iter().filter(|(name, _)| !is_internal(name));
            own.map(|(name, text)| Ok((changed_name(name)?, Value::new(text)?)))
                .collect::<Result<Vec<_>, String>>()
        };
        let removed = operations.remove.iter().filter(|name| !is_internal(name));
        Ok(Self {
            remove: removed
                .map(|name| name_of(name))
                .collect::<Result<_, _>>()?,
            set: values(&operations.set)?,
            add: values(&operations.add)?,
        })
    }

    /// Whether they change nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Whether a value is made from the message's own data.
    pub fn has_formats(&self) -> bool {
        let mut all = self.set.iter().chain(&self.add);
        all.any(|(_, value)| matches!(value, Value::Format(_)))
    }

    /// The headers that they remove.
    pub fn removed(&self) -> &[HeaderName] {
        &self.remove
    }

    /// Changes the headers of a message. `text` is the text of a format for them, once the removed ones are gone.
    pub fn apply(&self, headers: &mut HeaderMap, text: impl Fn(&HeaderMap, &Format) -> String) {
        for name in &self.remove {
            headers.remove(name);
        }
        let made = |(name, value): &(HeaderName, Value)| {
            let value = value.of(|format| text(headers, format))?;
            Some((name.clone(), value))
        };
        let set: Vec<_> = self.set.iter().filter_map(made).collect();
        let add: Vec<_> = self.add.iter().filter_map(made).collect();
        for (name, value) in set {
            headers.insert(name, value);
        }
        for (name, value) in add {
            headers.append(name, value);
        }
    }
}

impl HeaderChanges {
    /// From a rule.
    ///
    /// # Errors
    ///
    /// What of the rule cannot be carried out.
    pub fn new(headers: Option<&Headers>) -> Result<Self, String> {
        let Some(headers) = headers else {
            return Ok(Self::default());
        };
        let request = headers.request.as_ref();
        let authority = |map: &BTreeMap<String, String>| {
            let found = map.iter().rev().find(|(name, _)| is_authority(name))?;
            HeaderValue::from_str(found.1)
                .ok()
                .filter(|v| !v.is_empty())
        };
        Ok(Self {
            request: HeaderOps::new(request)?,
            response: HeaderOps::new(headers.response.as_ref())?,
            authority: request.and_then(|r| authority(&r.set).or_else(|| authority(&r.add))),
        })
    }
}

/// Why a rule's operations on headers cannot be carried out; `None` if they can.
pub(crate) fn missing(headers: Option<&Headers>) -> Option<String> {
    HeaderChanges::new(headers).err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    fn operations(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> Headers {
        let map = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into()));
            owned.collect()
        };
        Headers {
            request: Some(HeaderOperations {
                set: map(set),
                add: map(add),
                remove: remove.iter().map(|name| (*name).into()).collect(),
            }),
            response: None,
        }
    }

    #[test]
    fn headers_are_removed_then_set_then_added() {
        let rule = operations(
            &[("x-set", "1"), ("X-Both", "%X%"), ("x-empty", "")],
            &[("x-both", "3"), ("x-gone", "new")],
            &["X-Gone", "host", ":path"],
        );
        let changes = HeaderChanges::new(Some(&operations(
            &[("x-set", "1"), ("X-Both", "%REQ(x-old)%"), ("x-empty", "")],
            &[("x-both", "3"), ("x-gone", "new")],
            &["X-Gone", "host", ":path"],
        )))
        .unwrap();
        assert!(missing(Some(&rule)).is_some());
        let mut map = headers(&[
            ("host", "a"),
            ("x-set", "0"),
            ("x-gone", "old"),
            ("x-old", "2"),
        ]);
        changes.request.apply(&mut map, |headers, _| {
            headers
                .get("x-old")
                .map_or_else(String::new, |v| v.to_str().unwrap().to_owned())
        });
        let expected = headers(&[
            ("host", "a"),
            ("x-set", "1"),
            ("x-both", "2"),
            ("x-both", "3"),
            ("x-gone", "new"),
            ("x-old", "2"),
        ]);
        assert_eq!(map, expected);
        assert!(changes.response.is_empty());
    }

    #[test]
    fn the_authority_is_set_under_either_name_and_framing_is_not_for_rules() {
        for (set, add, authority) in [
            ([("Host", "a")], [("x", "y")], "a"),
            ([(":authority", "a")], [("host", "b")], "a"),
            ([("x", "y")], [("host", "b")], "b"),
        ] {
            let changes = HeaderChanges::new(Some(&operations(&set, &add, &[]))).unwrap();
            assert_eq!(changes.authority, Some(HeaderValue::from_static(authority)));
        }
        for name in [
            "content-length",
            "Transfer-Encoding",
            "connection",
            "not a name",
        ] {
            assert!(missing(Some(&operations(&[(name, "1")], &[], &[]))).is_some());
        }
    }
}
