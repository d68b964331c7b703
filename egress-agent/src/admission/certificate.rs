//! The certificate of the webhook: two files, as a Secret of type `kubernetes.io/tls` has them, read again when they change.

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two looks at the files.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The most bytes of a file.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// See the module.
pub(super) struct Certificate {
    folder: PathBuf,
    looked: Option<Instant>,
    /// The content of the files when they were last read.
    text: Option<[Vec<u8>; 2]>,
    config: Option<Arc<ServerConfig>>,
    /// The last error, so that it is logged once.
    error: Option<String>,
}

impl Certificate {
    /// The files `tls.crt` and `tls.key` of a folder. Reads nothing yet.
    pub(super) fn of(folder: PathBuf) -> Self {
        Self {
            folder,
            looked: None,
            text: None,
            config: None,
            error: None,
        }
    }

    /// The present certificate; `None` if there is none. While the files are invalid the last good one is used.
    pub(super) fn current(&mut self) -> Option<Arc<ServerConfig>> {
        let due = self
            .looked
            .is_none_or(|looked| looked.elapsed() >= POLL_INTERVAL);
        if due {
            self.looked = Some(Instant::now());
            match self.look() {
                Ok(()) => self.error = None,
                Err(error) => {
                    if self.error.as_ref() != Some(&error) {
                        let folder = self.folder.display();
                        tracing::error!(%folder, error, "cannot use the certificate of the webhook; objects are not validated when they are written");
                    }
                    self.error = Some(error);
                }
            }
        }
        self.config.clone()
    }

    fn look(&mut self) -> Result<(), String> {
        let text = [self.read("tls.crt")?, self.read("tls.key")?];
        if self.text.as_ref() != Some(&text) {
            self.config = Some(config(&text)?);
            self.text = Some(text);
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, String> {
        let read = |path: &Path| {
            let size = fs::metadata(path)?.len();
            if size > MAX_FILE_SIZE {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            fs::read(path)
        };
        read(&self.folder.join(name)).map_err(|error| format!("{name}: {error}"))
    }
}

fn config([certificate, key]: &[Vec<u8>; 2]) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls.crt: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key: {error}"))?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    config.map(Arc::new).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        fs::write(folder.join("tls.crt"), made.cert.pem()).unwrap();
        fs::write(folder.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_renewed_certificate_is_used_and_an_invalid_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut certificate = Certificate::of(folder.path().to_owned());
        let mut current = || {
            certificate.looked = None;
            certificate.current()
        };
        assert!(current().is_none());
        write(folder.path(), "a.example");
        let first = current().unwrap();
        assert!(Arc::ptr_eq(&first, &current().unwrap()), "the same files");
        fs::write(folder.path().join("tls.key"), "x").unwrap();
        assert!(
            Arc::ptr_eq(&first, &current().unwrap()),
            "the last good one"
        );
        write(folder.path(), "b.example");
        assert!(!Arc::ptr_eq(&first, &current().unwrap()));
    }
}
