//! The parts of TLS settings: authorities, revoked certificates, client certificates. Rules that name the same files or
//! Secrets share them.
//!
//! `files` reads and follows files, `secrets` follows Secrets. No error contains anything of a file, because a rule may
//! name any.

use super::files::{NamedFile, Parse, Watched, read};
use super::pem::{self, Revoked};
use super::secrets::FromSecrets;
use super::verifier::Verifier;
use crate::secret_store::SecretStore;
use egress_core::traffic::{Authorities, CertificateFiles, ClientCertificate, ClientTls};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, version};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// With more settings or files than this, those that no connection is being made with are removed.
pub(super) const MAX_ENTRIES: usize = 1024;

/// Sessions that a configuration remembers to resume.
const SESSIONS: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Parts {
    provider: Arc<CryptoProvider>,
    /// Folders with client certificates that rules may name.
    folders: Vec<PathBuf>,
    authorities: Shared<RootCertStore>,
    revoked: Shared<Revoked>,
    certificates: Shared<CertifiedKey>,
    secrets: FromSecrets,
    /// For settings without them.
    no_authorities: Arc<RootCertStore>,
    none_revoked: Arc<Revoked>,
}

/// The values of one kind, by their files.
type Shared<T> = Mutex<HashMap<Vec<NamedFile>, Arc<Mutex<Watched<T>>>>>;

/// The parts of one configuration at one time.
#[derive(Debug)]
pub(super) struct Chosen {
    provider: Arc<CryptoProvider>,
    authorities: Arc<RootCertStore>,
    revoked: Arc<Revoked>,
    certificate: Option<Arc<CertifiedKey>>,
}

/// Made of the same reads of the same files.
impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        let key = |chosen: &Self| chosen.certificate.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.authorities, &other.authorities)
            && Arc::ptr_eq(&self.revoked, &other.revoked)
            && key(self) == key(other)
    }
}

impl Parts {
    pub(super) fn new(folders: Vec<PathBuf>, secrets: Arc<SecretStore>) -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            folders,
            authorities: Mutex::default(),
            revoked: Mutex::default(),
            certificates: Mutex::default(),
            secrets: FromSecrets::new(secrets),
            no_authorities: Arc::new(RootCertStore::empty()),
            none_revoked: Arc::default(),
        }
    }

    /// A file that may be presented to servers. A private key proves an identity to any server that a rule chooses, so
    /// the config says whose identities rules may use.
    fn presentable(&self, path: &str) -> Result<NamedFile, String> {
        NamedFile::within(path, &self.folders).ok_or_else(|| {
            let path = path.escape_debug();
            format!("{path} is in no folder that clientCertificates in the agent's config lists")
        })
    }

    /// The parts of these settings by the present files.
    pub(super) async fn of(&self, settings: &ClientTls) -> Result<Chosen, String> {
        let verify = settings.verify.as_ref();
        let mut of_secret = None;
        let authorities = match verify.map(|verify| &verify.authorities) {
            None => Arc::clone(&self.no_authorities),
            Some(None) => value(&self.authorities, system_files(), system_authorities).await?,
            Some(Some(Authorities::File(path))) => {
                let files = vec![NamedFile::anywhere(path.as_ref())];
                value(&self.authorities, files, authorities).await?
            }
            Some(Some(Authorities::Secret(name))) => {
                let found = self.secrets.authorities(name)?;
                of_secret = Some(Arc::clone(&found.1));
                Arc::clone(&found.0)
            }
        };
        let revoked = match verify.and_then(|verify| verify.revoked.as_deref()) {
            None => of_secret.unwrap_or_else(|| Arc::clone(&self.none_revoked)),
            Some(path) => value(&self.revoked, vec![NamedFile::anywhere(path)], revoked).await?,
        };
        let certificate = match &settings.certificate {
            None => None,
            Some(ClientCertificate::Secret(name)) => Some(self.secrets.certificate(name)?),
            Some(ClientCertificate::Files(CertificateFiles { chain, key })) => {
                let files = vec![self.presentable(chain)?, self.presentable(key)?];
                Some(value(&self.certificates, files, certificate).await?)
            }
        };
        Ok(Chosen {
            provider: Arc::clone(&self.provider),
            authorities,
            revoked,
            certificate,
        })
    }
}

/// The value of these files. Reads them on a thread that may block.
async fn value<T: Send + Sync + 'static>(
    shared: &Shared<T>,
    files: Vec<NamedFile>,
    parse: Parse<T>,
) -> Result<Arc<T>, String> {
    let watched = {
        let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_ENTRIES && !all.contains_key(&files) {
            all.retain(|_, watched| Arc::strong_count(watched) > 1);
        }
        let new = |files: &Vec<NamedFile>| Arc::new(Mutex::new(Watched::new(files.clone(), parse)));
        Arc::clone(all.entry(files).or_insert_with_key(new))
    };
    let get = |watched: &Mutex<Watched<T>>| {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.get()
    };
    if let Ok(mut fresh) = watched.try_lock()
        && fresh.is_fresh()
    {
        return fresh.get();
    }
    let read = tokio::task::spawn_blocking(move || get(&watched));
    read.await
        .unwrap_or_else(|_| Err("the files could not be read".to_owned()))
}

impl Chosen {
    /// TLS 1.2 and 1.3, as Istio's `defaultUpstreamCommonTLSContext`.
    pub(super) fn config(&self, settings: &ClientTls) -> Result<ClientConfig, String> {
        let verifier = Verifier::new(
            settings.verify.clone(),
            Arc::clone(&self.authorities),
            Arc::clone(&self.revoked),
            self.provider.signature_verification_algorithms,
        );
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&version::TLS12, &version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let resolver = rustls::sign::SingleCertAndKey::from(Arc::clone(certificate));
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }
}

fn authorities(files: &[NamedFile]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for file in files {
        pem::add_authorities(&mut store, file, &read(file)?)?;
    }
    Ok(store)
}

/// What the system's authorities are read from: the first of OpenSSL's usual places that exists, or those that
/// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn system_files() -> Vec<NamedFile> {
    let found = openssl_probe::probe();
    let all = found.cert_file.into_iter().chain(found.cert_dir);
    all.map(NamedFile::anywhere).collect()
}

fn system_authorities(_: &[NamedFile]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(
            "the system has no file of authorities: install ca-certificates, or set caCertificates"
                .to_owned(),
        );
    }
    Ok(store)
}

fn revoked(files: &[NamedFile]) -> Result<Revoked, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(pem::revoked(file, &read(file)?)?);
    }
    Ok(all)
}

fn certificate(files: &[NamedFile]) -> Result<CertifiedKey, String> {
    let [chain, key] = files else {
        return Err("a client certificate has two files".to_owned());
    };
    pem::certificate((chain, &read(chain)?), (key, &read(key)?))
}
