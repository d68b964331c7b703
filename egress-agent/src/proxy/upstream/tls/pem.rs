//! PEM texts as the values that TLS needs: authorities, revoked certificates, a client certificate.
//!
//! No error contains anything of a text: it says what is wrong with `of`, the text's file or Secret.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::fmt::Display;
use webpki::{CertRevocationList, OwnedCertRevocationList};

/// Lists of revoked certificates.
pub(super) type Revoked = Vec<CertRevocationList<'static>>;

fn blame(of: &dyn Display, error: &str) -> String {
    format!("{of}: {error}")
}

fn certificates(of: &dyn Display, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    // The error of the PEM reader quotes the text.
    let all = all.map_err(|_| blame(of, "not a PEM file"))?;
    if all.is_empty() {
        return Err(blame(of, "no PEM certificate in it"));
    }
    Ok(all)
}

/// Adds the certificates of a text to a store.
pub(super) fn add_authorities(
    store: &mut RootCertStore,
    of: &dyn Display,
    pem: &[u8],
) -> Result<(), String> {
    store.add_parsable_certificates(certificates(of, pem)?);
    if store.is_empty() {
        return Err(blame(of, "no certificate in it can be an authority"));
    }
    Ok(())
}

/// The lists in a text.
pub(super) fn revoked(of: &dyn Display, pem: &[u8]) -> Result<Revoked, String> {
    let mut all = Vec::new();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = list.map_err(|_| blame(of, "not a PEM file"))?;
        let list = OwnedCertRevocationList::from_der(&list);
        let unreadable = "a list of revoked certificates in it cannot be read";
        all.push(list.map_err(|_| blame(of, unreadable))?.into());
    }
    if all.is_empty() {
        return Err(blame(of, "no PEM list of revoked certificates in it"));
    }
    Ok(all)
}

/// A client certificate of the texts of its chain and its private key.
pub(super) fn certificate(
    (chain, chain_pem): (&dyn Display, &[u8]),
    (key, key_pem): (&dyn Display, &[u8]),
) -> Result<CertifiedKey, String> {
    let certified = certificates(chain, chain_pem)?;
    let private = PrivateKeyDer::from_pem_slice(key_pem);
    let private = private.map_err(|_| blame(key, "no PEM private key in it"))?;
    let private = rustls::crypto::ring::sign::any_supported_type(&private);
    let private = private.map_err(|_| blame(key, "a private key of an unsupported kind"))?;
    let certified = CertifiedKey::new(certified, private);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(_) => Err(blame(key, &format!("not the private key of {chain}"))),
    }
}
