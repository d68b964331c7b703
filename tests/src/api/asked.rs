//! A request to the server, taken apart: what is asked of which kind.

use hyper::header::ACCEPT;
use hyper::{HeaderMap, Method, Uri};
use std::collections::BTreeMap;

/// What a request asks for, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// Objects.
    List,
    /// Changes of objects.
    Watch,
    /// A new object.
    Create,
    /// Another content of an object.
    Update,
    /// A change of an object.
    Patch,
    /// The end of an object.
    Delete,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What is asked.
    pub verb: Verb,
    /// The API group, empty for the core group.
    pub group: String,
    /// The version of the group.
    pub version: String,
    /// The kind.
    pub plural: String,
    /// Empty for all namespaces.
    pub namespace: String,
    /// Empty for all objects.
    pub name: String,
    /// Such as `status`.
    pub subresource: String,
    /// The query.
    pub query: BTreeMap<String, String>,
    /// Rows of a table are wanted instead of objects.
    pub table: bool,
}

impl Asked {
    /// `None` for a path that is not that of objects.
    pub(super) fn of(method: &Method, uri: &Uri) -> Option<Self> {
        let mut parts = uri.path().trim_matches('/').split('/');
        let group = match parts.next()? {
            "api" => "",
            "apis" => parts.next()?,
            _ => return None,
        };
        let version = parts.next()?;
        let mut plural = parts.next()?;
        let mut namespace = "";
        let mut name = parts.next().unwrap_or_default();
        // `namespaces/NAME/PLURAL`, but `namespaces/NAME` is an object.
        if plural == "namespaces"
            && let Some(inside) = parts.next().filter(|part| *part != "status")
        {
            namespace = name;
            plural = inside;
            name = parts.next().unwrap_or_default();
        }
        let subresource = parts.next().unwrap_or_default();
        let query = query(uri.query().unwrap_or_default());
        let watch = query.get("watch").is_some_and(|w| w == "true" || w == "1");
        let verb = match *method {
            Method::GET if watch => Verb::Watch,
            Method::GET if name.is_empty() => Verb::List,
            Method::GET => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => return None,
        };
        Some(Self {
            verb,
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            query,
            table: false,
        })
    }

    /// Takes the wanted form from the header `Accept`.
    pub(super) fn with_form(mut self, headers: &HeaderMap) -> Self {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
        self.table = accept.is_some_and(|accept| accept.contains("as=Table"));
        self
    }

    /// Whether a list is answered from the server's cache, whatever its limit, rather than by a read of all of etcd.
    pub fn is_of_cache(&self) -> bool {
        self.verb == Verb::List
            && self.parameter("resourceVersion") == Some("0")
            && self.parameter("continue").is_none()
    }

    /// A parameter of the query; `None` if it is empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let value = self.query.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    pairs.map(pair).collect()
}

/// `application/x-www-form-urlencoded`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(Option::unwrap_or_default);
                let digits = str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_namespaces_and_objects() {
        for (path, shown) in [
            (
                "/api/v1/pods?fieldSelector=spec.nodeName%3Da",
                ("", "v1", "pods", "", ""),
            ),
            ("/api/v1/namespaces", ("", "v1", "namespaces", "", "")),
            (
                "/api/v1/namespaces/shop",
                ("", "v1", "namespaces", "", "shop"),
            ),
            (
                "/api/v1/namespaces/shop/pods",
                ("", "v1", "pods", "shop", ""),
            ),
            (
                "/apis/networking.istio.io/v1/namespaces/shop/sidecars/default",
                ("networking.istio.io", "v1", "sidecars", "shop", "default"),
            ),
        ] {
            let asked = Asked::of(&Method::GET, &path.parse().unwrap()).unwrap();
            let (group, version, plural, namespace, name) = shown;
            assert_eq!(
                (
                    &*asked.group,
                    &*asked.version,
                    &*asked.plural,
                    &*asked.namespace,
                    &*asked.name
                ),
                (group, version, plural, namespace, name),
                "{path}"
            );
        }
        let uri = "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Da+b"
            .parse()
            .unwrap();
        let asked = Asked::of(&Method::GET, &uri).unwrap();
        assert_eq!(asked.verb, Verb::Watch);
        assert_eq!(asked.parameter("fieldSelector"), Some("spec.nodeName=a b"));
    }
}
