//! Where the validating webhook listens, and its certificate. Reads no file.

use super::settings::AdmissionSettings;
use super::values::ListenAddress;
use crate::failure::Failure;
use std::path::PathBuf;

/// `admission` of [`super::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Where it listens.
    pub address: ListenAddress,
    /// The folder with tls.crt and tls.key.
    pub certificate: PathBuf,
}

impl Admission {
    /// `None` if the webhook is off.
    pub(super) fn of(
        settings: &AdmissionSettings,
        proxy_port: u16,
    ) -> Result<Option<Self>, Failure> {
        let Some(address) = settings.address else {
            return Ok(None);
        };
        if address.port == proxy_port {
            return Err(Failure::usage(format_args!(
                "admission.address: port {proxy_port} is the proxy's (proxyPort); choose another"
            )));
        }
        let Some(certificate) = settings.certificate.clone() else {
            return Err(Failure::usage(
                "admission.certificate: name the folder with tls.crt and tls.key of the webhook",
            ));
        };
        Ok(Some(Self {
            address,
            certificate,
        }))
    }
}
