//! Kubernetes Secrets with certificates, which `credentialName` of a `DestinationRule` names.
//!
//! Owns how a Secret is read from a document and which of its keys count (istio `pilot/pkg/credentials/kube`,
//! `ExtractCertInfo` and `ExtractRoot`). It does not parse certificates. No message and no debug text contains a byte
//! of a value.

use super::decode::node::{Node, Value};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The longest content of a Secret in bytes (Kubernetes' `MaxSecretSize`).
const MAX_SIZE: usize = 1 << 20;

/// What Istio appends to the name of a Secret with authorities only.
const OF_AUTHORITIES: &str = "-cacert";

/// Keys that count: of generic Secrets and of those of type `kubernetes.io/tls`.
const KEYS: [&str; 8] = [
    "cert", "key", "cacert", "crl", "tls.crt", "tls.key", "ca.crt", "ca.crl",
];

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Which Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl SecretName {
    /// The Secret that `credentialName` of a rule of this namespace names: `name`, `kubernetes://name` or
    /// `kubernetes://namespace/name` (istio `pilot/pkg/model/credentials`). `None` for other kinds of names, and for
    /// another namespace.
    pub fn of_rule(text: &str, namespace: &str) -> Option<Self> {
        let name = match text.strip_prefix("kubernetes://") {
            Some(name) => match name.split_once('/') {
                Some((of, name)) => Some(name).filter(|_| of == namespace)?,
                None => name,
            },
            None if text.contains("://") => return None,
            None => text,
        };
        let is_name = !name.is_empty() && !name.contains('/');
        is_name.then(|| Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    /// The Secret with the authorities, if they are in one of their own.
    #[must_use]
    pub fn of_authorities(&self) -> Self {
        Self {
            namespace: Arc::clone(&self.namespace),
            name: format!("{}{OF_AUTHORITIES}", self.name).into(),
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

/// One Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Which one.
    pub name: SecretName,
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
    pub fn decode(root: &Node) -> Result<Option<Self>, String> {
        let meta = root.get("metadata");
        let text = |key| meta.and_then(|meta| meta.get(key)).and_then(Node::text);
        let namespace = text("namespace").filter(|n| !n.is_empty());
        let mut values = BTreeMap::new();
        let mut size = 0;
        for (map, encoded) in [("data", true), ("stringData", false)] {
            let entries = match root.get(map).map(|node| &node.value) {
                None | Some(Value::Null) => continue,
                Some(Value::Map(entries)) => entries,
                Some(_) => return Err(format!("{map} of the Secret is not a map")),
            };
            for entry in entries {
                let Some(key) = KEYS.into_iter().find(|key| *key == entry.key) else {
                    continue;
                };
                let wrong = |what: &str| format!("{map}[{key}] of the Secret is {what}");
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
            return Err("the Secret is longer than 1 MiB".to_owned());
        }
        if values.is_empty() {
            return Ok(None);
        }
        let name = text("name").filter(|name| !name.is_empty());
        let secret = Self {
            name: SecretName {
                namespace: namespace.unwrap_or("default").into(),
                name: name.ok_or("the Secret has no metadata.name")?.into(),
            },
            values,
        };
        if secret.certificate().is_none() && secret.authorities().is_none() {
            let want = "tls.crt and tls.key, cert and key, ca.crt, or cacert";
            return Err(format!("the Secret has no certificate: want {want}"));
        }
        Ok(Some(secret))
    }
}

/// Secrets by their names.
pub type Secrets = BTreeMap<SecretName, Arc<Secret>>;

#[cfg(test)]
mod tests {
    use super::{Secret, SecretName};
    use crate::istio::decode;

    fn read(data: &str) -> Result<Option<Secret>, String> {
        let text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: a, namespace: shop}}\n{data}\n"
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
    fn a_rule_names_a_secret_of_its_own_namespace() {
        for (text, name) in [
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
            let found = SecretName::of_rule(text, "shop");
            assert_eq!(found.as_ref().map(|found| &*found.name), name, "{text}");
        }
    }
}
