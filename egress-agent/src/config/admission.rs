//! Where the validating webhook listens, and its certificate. Reads no file.

use super::values::ListenAddress;
use crate::failure::Failure;
use clap::Args;
use serde::Deserialize;
use std::path::PathBuf;

/// `admission` of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdmissionSettings {
    /// Address of the validating webhook; `:PORT` for every address [default: none]
    #[arg(
        id = "admission_address",
        long = "admission-address",
        value_name = "[IP]:PORT"
    )]
    pub address: Option<ListenAddress>,
    /// Folder with the webhook's tls.crt and tls.key
    #[arg(
        id = "admission_certificate",
        long = "admission-certificate",
        value_name = "PATH"
    )]
    pub certificate: Option<PathBuf>,
}

impl AdmissionSettings {
    /// These settings, and those of `below` for fields that are not set here.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            address: self.address.or(below.address),
            certificate: self.certificate.or(below.certificate),
        }
    }
}

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
