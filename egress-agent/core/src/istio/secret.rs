//! Kubernetes Secrets with certificates and ConfigMaps with authorities, which `credentialName` of a `DestinationRule`
//! names.
//!
//! Owns how they are read from a document and which of their keys count (istio `pilot/pkg/credentials/kube`,
//! `ExtractCertInfo`, `ExtractRoot` and `ExtractRootFromString`). It does not parse certificates. No message and no debug
//! text contains a byte of a value.

use super::decode::node::{Node, Value};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The longest content in bytes (Kubernetes' `MaxSecretSize`).
const MAX_SIZE: usize = 1 << 20;

/// What Istio appends to the name of a Secret with authorities only.
const OF_AUTHORITIES: &str = "-cacert";

/// Keys that count: of generic Secrets and of those of type `kubernetes.io/tls`.
const KEYS: [&str; 8] = [
    "cert", "key", "cacert", "crl", "tls.crt", "tls.key", "ca.crt", "ca.crl",
];

/// Those that count in a ConfigMap.
const KEYS_OF_AUTHORITIES: [&str; 4] = ["cacert", "crl", "ca.crt", "ca.crl"];

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// What a `credentialName` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CredentialKind {
    /// `v1` `Secret`.
    Secret,
    /// `v1` `ConfigMap`, which has authorities only. It is no secret, so workloads of other namespaces may use it too
    /// (istio `pilot/pkg/xds/sds.go`, `filterAuthorizedResources`).
    ConfigMap,
}

impl CredentialKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Secret, Self::ConfigMap];

    /// As `kind` of an object has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// Which Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialName {
    /// What it is.
    pub kind: CredentialKind,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl CredentialName {
    /// What `credentialName` of a rule of this namespace names: a Secret by `name`, `kubernetes://name` or
    /// `kubernetes://namespace/name`, a ConfigMap by `configmap://namespace/name` (istio `pilot/pkg/model/credentials`).
    /// `None` for other kinds of names, and for another namespace.
    pub fn of_rule(text: &str, namespace: &str) -> Option<Self> {
        let of_namespace = |name: &'_ str| {
            let (of, name) = name.split_once('/')?;
            (of == namespace).then(|| name.to_owned())
        };
        let (kind, name) = match text.split_once("://") {
            None => (CredentialKind::Secret, text.to_owned()),
            Some(("kubernetes", name)) if !name.contains('/') => {
                (CredentialKind::Secret, name.to_owned())
            }
            Some(("kubernetes", name)) => (CredentialKind::Secret, of_namespace(name)?),
            Some(("configmap", name)) => (CredentialKind::ConfigMap, of_namespace(name)?),
            Some(_) => return None,
        };
        let is_name = !name.is_empty() && !name.contains('/');
        is_name.then(|| Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// Where authorities are looked for: the first one that exists counts. Those of a Secret may be in one of their own.
    pub fn of_authorities(&self) -> impl Iterator<Item = Self> {
        let own = (self.kind == CredentialKind::Secret).then(|| Self {
            name: format!("{}{OF_AUTHORITIES}", self.name).into(),
            ..self.clone()
        });
        own.into_iter().chain([self.clone()])
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// The certificates of one Secret, or the authorities of one ConfigMap.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Which one.
    pub name: CredentialName,
    values: BTreeMap<&'static str, Vec<u8>>,
}

/// Without its values.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl Secret {
    /// A client certificate: the PEM of its chain and of its private key.
    pub fn certificate(&self) -> Option<(&[u8], &[u8])> {
        let pair = |chain, key| Some((self.value(chain)?, self.value(key)?));
        pair("cert", "key").or_else(|| pair("tls.crt", "tls.key"))
    }

    /// Authorities as PEM, and lists of certificates that they revoked.
    pub fn authorities(&self) -> Option<(&[u8], Option<&[u8]>)> {
        let pair = |authorities, revoked| Some((self.value(authorities)?, self.value(revoked)));
        pair("cacert", "crl").or_else(|| pair("ca.crt", "ca.crl"))
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        let value = self.values.get(key).map(Vec::as_slice);
        value.filter(|value| !value.is_empty())
    }

    /// From a document. `Ok(None)`: it has no certificates. An error says what is wrong, without any value.
    pub fn decode(kind: CredentialKind, root: &Node) -> Result<Option<Self>, String> {
        let of = kind.as_str();
        let (maps, keys): (&[_], &[_]) = match kind {
            CredentialKind::Secret => (&[("data", true), ("stringData", false)], &KEYS),
            CredentialKind::ConfigMap => (&[("data", false)], &KEYS_OF_AUTHORITIES),
        };
        let meta = root.get("metadata");
        let text = |key| meta.and_then(|meta| meta.get(key)).and_then(Node::text);
        let namespace = text("namespace").filter(|n| !n.is_empty());
        let mut values = BTreeMap::new();
        let mut size = 0;
        for &(map, encoded) in maps {
            let entries = match root.get(map).map(|node| &node.value) {
                None | Some(Value::Null) => continue,
                Some(Value::Map(entries)) => entries,
                Some(_) => return Err(format!("{map} of the {of} is not a map")),
            };
            for entry in entries {
                let Some(key) = keys.iter().copied().find(|key| *key == entry.key) else {
                    continue;
                };
                let wrong = |what: &str| format!("{map}[{key}] of the {of} is {what}");
                let text = entry.value.text().ok_or_else(|| wrong("not a text"))?;
                let value = if encoded {
                    let text: Vec<u8> = text.bytes().filter(|b| !b"\r\n".contains(b)).collect();
                    let value = BASE64.decode(text);
                    value.map_err(|_| wrong("not base64"))?
                } else {
                    text.as_bytes().to_vec()
                };
                size += value.len();
                values.insert(key, value);
            }
        }
        if size > MAX_SIZE {
            return Err(format!("the {of} is longer than 1 MiB"));
        }
        if values.is_empty() {
            return Ok(None);
        }
        let name = text("name").filter(|name| !name.is_empty());
        let secret = Self {
            name: CredentialName {
                kind,
                namespace: namespace.unwrap_or("default").into(),
                name: name
                    .ok_or_else(|| format!("the {of} has no metadata.name"))?
                    .into(),
            },
            values,
        };
        if secret.certificate().is_none() && secret.authorities().is_none() {
            let want = match kind {
                CredentialKind::Secret => "tls.crt and tls.key, cert and key, ca.crt, or cacert",
                CredentialKind::ConfigMap => "ca.crt, or cacert",
            };
            return Err(format!("the {of} has no certificate: want {want}"));
        }
        Ok(Some(secret))
    }
}

/// Secrets and ConfigMaps by their names.
pub type Secrets = BTreeMap<CredentialName, Arc<Secret>>;

#[cfg(test)]
mod tests {
    use super::{CredentialKind, CredentialName, Secret};
    use crate::istio::decode;

    fn read(data: &str) -> Result<Option<Secret>, String> {
        read_as("Secret", data)
    }

    fn read_as(kind: &str, data: &str) -> Result<Option<Secret>, String> {
        let text = format!(
            "apiVersion: v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\n{data}\n"
        );
        let mut decoded = decode("f", &text);
        match (decoded.secrets.pop(), decoded.messages.pop()) {
            (secret, None) => Ok(secret.map(|(_, secret)| secret)),
            (None, Some(message)) => Err(message.text),
            both => panic!("{both:?}"),
        }
    }

    #[test]
    fn generic_keys_come_first_and_plain_text_outweighs_base64() {
        let tls = "tls.crt: dGxz, tls.key: a2V5";
        for (data, certificate, authorities) in [
            (format!("data: {{{tls}}}"), Some(("tls", "key")), None),
            (
                format!("data: {{{tls}, cert: Yw==, key: aw==}}"),
                Some(("c", "k")),
                None,
            ),
            (
                format!("data: {{{tls}}}\nstringData: {{tls.crt: x, ca.crt: r, ca.crl: l}}"),
                Some(("x", "key")),
                Some(("r", Some("l"))),
            ),
            (
                "data: {cacert: 'cg=\n\n  =', crl: ''}".to_owned(),
                None,
                Some(("r", None)),
            ),
        ] {
            let secret = read(&data).unwrap().unwrap();
            let text = |bytes| std::str::from_utf8(bytes).unwrap();
            let found = secret.certificate();
            assert_eq!(
                found.map(|(c, k)| (text(c), text(k))),
                certificate,
                "{data}"
            );
            let found = secret.authorities();
            assert_eq!(
                found.map(|(a, r)| (text(a), r.map(text))),
                authorities,
                "{data}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_a_value() {
        for (data, wrong) in [
            (
                "data: {tls.key: hidden!}",
                "data[tls.key] of the Secret is not base64",
            ),
            (
                "data: {tls.key: {hidden: a}}",
                "data[tls.key] of the Secret is not a text",
            ),
            ("data: [hidden]", "data of the Secret is not a map"),
            (
                "stringData: {tls.key: hidden}",
                "the Secret has no certificate",
            ),
            ("data: {tls.key: \"hidden", "not valid YAML"),
        ] {
            let told = read(data).unwrap_err();
            assert!(told.contains(wrong) && !told.contains("hidden"), "{told}");
        }
        assert_eq!(read("data: {password: aGlkZGVu}"), Ok(None));
        let secret = read("stringData: {tls.crt: c, tls.key: hidden}");
        assert!(!format!("{secret:?}").contains("hidden"));
    }

    #[test]
    fn a_config_map_has_authorities_as_plain_text() {
        let config_map = |data| read_as("ConfigMap", data);
        let found = config_map("data: {ca.crt: r, ca.crl: l, tls.crt: c, tls.key: k}");
        let found = found.unwrap().unwrap();
        assert_eq!(found.name.to_string(), "ConfigMap shop/a");
        assert_eq!(found.authorities(), Some((&b"r"[..], Some(&b"l"[..]))));
        assert_eq!(found.certificate(), None);
        for other in [
            "data: {other: x}",
            "data: {tls.crt: c, tls.key: k}",
            "binaryData: {ca.crt: cg==}",
            "",
        ] {
            assert_eq!(config_map(other), Ok(None), "{other}");
        }
        // A key that is given twice is wrong only where it could matter.
        assert_eq!(config_map("data: {other: x, other: y}"), Ok(None));
        for (wrong, told) in [
            (
                "data: {ca.crt: x, ca.crt: y}",
                "the ConfigMap sets a key twice",
            ),
            ("data: {ca.crt: ''}", "the ConfigMap has no certificate"),
            (
                "data: {ca.crt: [a]}",
                "data[ca.crt] of the ConfigMap is not a text",
            ),
        ] {
            assert!(config_map(wrong).unwrap_err().contains(told), "{wrong}");
        }
    }

    #[test]
    fn a_rule_names_what_is_in_its_own_namespace() {
        let config_map = CredentialName::of_rule("configmap://shop/a", "shop").unwrap();
        assert_eq!(config_map.kind, CredentialKind::ConfigMap);
        let looked_for: Vec<_> = config_map.of_authorities().collect();
        assert_eq!(looked_for, [config_map]);
        for (text, name) in [
            ("configmap://shop/a", Some("a")),
            ("configmap://other/a", None),
            ("configmap:///a", None),
            ("configmap://shop/", None),
            ("configmap://shop/a/b", None),
            ("invalid://", None),
            ("a", Some("a")),
            ("kubernetes://a", Some("a")),
            ("kubernetes://shop/a", Some("a")),
            ("kubernetes://other/a", None),
            ("kubernetes-gateway://shop/a", None),
            ("configmap://a", None),
            ("file:///a", None),
            ("shop/a", None),
            ("", None),
        ] {
            let found = CredentialName::of_rule(text, "shop");
            assert_eq!(found.as_ref().map(|found| &*found.name), name, "{text}");
        }
    }
}
