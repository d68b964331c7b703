//! Which certificates of name servers over TLS are valid: the authorities of a file, or the system's.

use anyhow::{Context as _, bail, ensure};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore, version};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Authorities, and the settings of TLS with them.
#[derive(Debug)]
pub struct Trust {
    authorities: RootCertStore,
    pub(super) config: Arc<ClientConfig>,
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.authorities.roots == other.authorities.roots
    }
}

impl Trust {
    /// The authorities of a PEM file; without one, those of the system.
    ///
    /// # Errors
    /// There are no authorities: a line that says where, and what to do.
    pub(super) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut authorities = RootCertStore::empty();
        if let Some(file) = file {
            let place = format!("dns.caCertificates: {}", file.display());
            let pem = fs::read(file).with_context(|| place.clone())?;
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            // The reader's error quotes the file.
            let Ok(all) = all else {
                bail!("{place}: not a PEM file");
            };
            ensure!(
                !all.is_empty(),
                "{place}: no certificate in it; want the authorities' certificates in PEM"
            );
            authorities.add_parsable_certificates(all);
            ensure!(
                !authorities.is_empty(),
                "{place}: no certificate in it can be an authority"
            );
        } else {
            let found = rustls_native_certs::load_native_certs().certs;
            authorities.add_parsable_certificates(found);
            ensure!(
                !authorities.is_empty(),
                "dns.servers: a server over TLS needs authorities, and the system has no file of them: install ca-certificates, or set dns.caCertificates"
            );
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS12, &version::TLS13])
            .context("TLS of DNS servers")?
            .with_root_certificates(authorities.clone());
        Ok(Self {
            authorities,
            config: Arc::new(builder.with_no_client_auth()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Trust;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;
    use std::path::Path;

    fn pem() -> String {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec!["dns.example".to_owned()]).unwrap();
        made.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn authorities_are_read_from_a_file_and_a_bad_one_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let first = pem();
        fs::write(&file, &first).unwrap();
        let trust = Trust::read(Some(&file)).unwrap();
        assert!(trust == Trust::read(Some(&file)).unwrap());
        fs::write(&file, first + &pem()).unwrap();
        assert!(trust != Trust::read(Some(&file)).unwrap());
        for (text, part) in [
            ("", "no certificate in it"),
            ("secret", "no certificate in it"),
            (
                "-----BEGIN CERTIFICATE-----\nsecret!\n-----END CERTIFICATE-----\n",
                "not a PEM file",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n",
                "can be an authority",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let line = format!("{:#}", Trust::read(Some(&file)).unwrap_err());
            let place = format!("dns.caCertificates: {}: ", file.display());
            assert!(line.starts_with(&place) && line.contains(part), "{line}");
            assert!(!line.contains("secret") && !line.contains('\n'), "{line}");
        }
        let line = format!("{:#}", Trust::read(Some(Path::new("/no/ca"))).unwrap_err());
        assert!(
            line.starts_with("dns.caCertificates: /no/ca: No such file"),
            "{line}"
        );
    }
}
