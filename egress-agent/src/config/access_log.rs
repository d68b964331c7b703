//! Where the access log goes and how its lines look: Istio's `accessLogFile`, `accessLogEncoding` and
//! `accessLogFormat` of `MeshConfig`. Opens nothing.

use super::choices::AccessLogEncoding;
use super::settings::Settings;
use crate::failure::Failure;
use egress_core::access_log::AccessFormat;
use std::path::PathBuf;
use std::sync::Arc;

/// An access log that is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// A file, a FIFO, or `/dev/stdout` and `/dev/stderr`.
    pub file: PathBuf,
    /// How a line looks.
    pub format: Arc<AccessFormat>,
}

impl AccessLog {
    /// `None` if it is off. A bad format is an error also then.
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, Failure> {
        let format = settings.access_log_format.as_deref();
        // Istio takes an empty format for none.
        let format = format.filter(|format| !format.is_empty());
        let format = match settings.access_log_encoding.unwrap_or_default() {
            AccessLogEncoding::Text => AccessFormat::text(format),
            AccessLogEncoding::Json => AccessFormat::json(format),
        };
        let format = format.map_err(|error| {
            Failure::usage(format_args!(
                "accessLogFormat: {error}; want a line with Envoy's commands such as %RESPONSE_CODE%, for \
                 accessLogEncoding JSON an object of them"
            ))
        })?;
        let file = settings.access_log_file.clone();
        let Some(file) = file.filter(|file| !file.as_os_str().is_empty()) else {
            return Ok(None);
        };
        if !file.is_absolute() {
            return Err(Failure::usage(format_args!(
                "accessLogFile: `{}`: want an absolute path, such as /dev/stdout",
                file.display()
            )));
        }
        let format = Arc::new(format);
        Ok(Some(Self { file, format }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &str, format: Option<&str>) -> Result<Option<AccessLog>, Failure> {
        AccessLog::of(&Settings {
            access_log_file: Some(file.into()),
            access_log_encoding: Some(AccessLogEncoding::Json),
            access_log_format: format.map(str::to_owned),
            ..Settings::default()
        })
    }

    #[test]
    fn it_is_off_without_a_file_and_says_what_is_wrong() {
        assert_eq!(AccessLog::of(&Settings::default()).unwrap(), None);
        assert_eq!(of("", None).unwrap(), None);
        let on = of("/dev/stdout", Some("")).unwrap().unwrap();
        assert_eq!(*on.format, AccessFormat::json(None).unwrap());
        for (file, format, part) in [
            ("access.log", None, "accessLogFile: `access.log`"),
            ("/l", Some("%PROTOCOL%"), "accessLogFormat: is not JSON"),
            (
                "",
                Some(r#"{"a": "%NO%"}"#),
                "accessLogFormat: %NO% is not carried out",
            ),
        ] {
            let failure = of(file, format).unwrap_err();
            assert_eq!(failure.code, crate::failure::USAGE);
            assert!(failure.message.contains(part), "{failure}");
        }
    }
}
