//! Authorities and client certificates from Secrets.
//!
//! A Secret that is missing gives nothing, so that connections that need it are denied. One whose new content cannot be
//! used keeps its last good values, as a file does.

use super::pem::{self, Revoked};
use crate::secret_store::SecretStore;
use egress_core::istio::{CredentialName, Secret};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Authorities, and what they revoked.
pub(super) type Trusted = (Arc<RootCertStore>, Arc<Revoked>);

/// With more Secrets than this, what was made of them is made again.
const MAX_SECRETS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct FromSecrets {
    store: Arc<SecretStore>,
    authorities: Known<Trusted>,
    certificates: Known<CertifiedKey>,
}

/// Values by their Secrets.
#[derive(Debug)]
struct Known<T>(Mutex<BTreeMap<CredentialName, Made<T>>>);

#[derive(Debug)]
struct Made<T> {
    of: Arc<Secret>,
    /// The last good value.
    good: Option<Arc<T>>,
    error: Option<String>,
}

impl FromSecrets {
    pub(super) fn new(store: Arc<SecretStore>) -> Self {
        Self {
            store,
            authorities: Known(Mutex::default()),
            certificates: Known(Mutex::default()),
        }
    }

    pub(super) fn authorities(&self, name: &CredentialName) -> Result<Arc<Trusted>, String> {
        let mut found = name
            .of_authorities()
            .filter_map(|name| self.store.get(&name));
        let secret = found.next().ok_or_else(|| {
            let all: Vec<String> = name.of_authorities().map(|n| format!("no {n}")).collect();
            format!("there is {}", all.join(" and "))
        })?;
        self.authorities.of(&secret, authorities)
    }

    pub(super) fn certificate(&self, name: &CredentialName) -> Result<Arc<CertifiedKey>, String> {
        let secret = self.store.get(name);
        let secret = secret.ok_or_else(|| format!("there is no {name}"))?;
        self.certificates.of(&secret, certificate)
    }
}

impl<T> Known<T> {
    fn of(
        &self,
        secret: &Arc<Secret>,
        parse: fn(&Secret) -> Result<T, String>,
    ) -> Result<Arc<T>, String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = known.get(&secret.name);
        if made.is_none_or(|made| !Arc::ptr_eq(&made.of, secret)) {
            let before = made.and_then(|made| made.good.clone());
            let (good, error) = match parse(secret) {
                Ok(value) => (Some(Arc::new(value)), None),
                Err(error) => {
                    let kept = if before.is_some() {
                        "cannot use a Secret or ConfigMap; keeping its last good content"
                    } else {
                        "cannot use a Secret or ConfigMap; connections that need it are denied"
                    };
                    tracing::warn!(target: "egress::proxy", %error, "{kept}");
                    (before, Some(error))
                }
            };
            if known.len() >= MAX_SECRETS && !known.contains_key(&secret.name) {
                known.clear();
            }
            let of = Arc::clone(secret);
            known.insert(secret.name.clone(), Made { of, good, error });
        }
        let made = known.get(&secret.name);
        let error = || made.and_then(|made| made.error.clone()).unwrap_or_default();
        made.and_then(|made| made.good.clone()).ok_or_else(error)
    }
}

fn authorities(secret: &Secret) -> Result<Trusted, String> {
    let name = &secret.name;
    let missing = || format!("{name}: no authorities in it: want ca.crt or cacert");
    let (authorities, lists) = secret.authorities().ok_or_else(missing)?;
    let mut store = RootCertStore::empty();
    pem::add_authorities(&mut store, name, authorities)?;
    let lists = lists.map(|lists| pem::revoked(name, lists)).transpose()?;
    Ok((Arc::new(store), Arc::new(lists.unwrap_or_default())))
}

fn certificate(secret: &Secret) -> Result<CertifiedKey, String> {
    let name = &secret.name;
    let want = "want tls.crt and tls.key, or cert and key";
    let missing = || format!("{name}: no client certificate in it: {want}");
    let (chain, key) = secret.certificate().ok_or_else(missing)?;
    pem::certificate((name, chain), (name, key))
}

/// What is wrong with a Secret that has certificates; nothing of its values is in it.
pub fn check(secret: &Secret) -> Result<(), String> {
    if secret.authorities().is_some() {
        authorities(secret)?;
    }
    if secret.certificate().is_some() {
        certificate(secret)?;
    }
    Ok(())
}
