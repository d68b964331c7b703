//! Whether a name server over TLS can be asked, and why not: a log line for each reason, and one when it answers again.

use rustls::{CertificateError, Error};
use std::fmt::Write as _;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Reasons that are logged until the server answers. A server may give a new one for each attempt.
const MAX_REASONS: usize = 8;
/// The most bytes of a reason: a certificate may have any number of names.
const MAX_REASON_SIZE: usize = 400;

/// See the module.
pub(super) struct Failing {
    server: String,
    /// Those since the last answer, each once. The last one that was set is at the end.
    reasons: Mutex<Vec<String>>,
}

impl Failing {
    /// `server` is its name in the log.
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            reasons: Mutex::default(),
        }
    }

    fn reasons(&self) -> MutexGuard<'_, Vec<String>> {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It cannot be asked.
    pub(super) fn set(&self, why: &str) {
        let mut reasons = self.reasons();
        if let Some(at) = reasons.iter().position(|known| known == why) {
            reasons[at..].rotate_left(1);
            return;
        }
        if reasons.len() == MAX_REASONS {
            reasons.pop();
        } else {
            tracing::warn!(
                server = self.server,
                "DNS server cannot be asked over TLS: {why}; it is asked nothing until that is over"
            );
        }
        reasons.push(why.to_owned());
    }

    /// It has answered.
    pub(super) fn end(&self) {
        let mut reasons = self.reasons();
        if !reasons.is_empty() {
            reasons.clear();
            tracing::info!(server = self.server, "DNS server answers over TLS again");
        }
    }

    /// Why it cannot be asked.
    pub(super) fn why(&self) -> Option<String> {
        self.reasons().last().cloned()
    }
}

/// Why a connection was not made, in words that are the same for each attempt.
pub(super) fn reason(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    let mut why = match inner {
        Some(Error::InvalidCertificate(wrong)) => certificate(wrong),
        Some(error) => error.to_string(),
        None => match error.kind() {
            io::ErrorKind::TimedOut => "no answer in time".to_owned(),
            io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
            _ => error.to_string(),
        },
    };
    // Names in a certificate are of the server: nothing of them may begin another line.
    why.retain(|c| !c.is_control());
    if why.len() > MAX_REASON_SIZE {
        why.truncate(why.floor_char_boundary(MAX_REASON_SIZE));
        why.push_str("...");
    }
    why
}

/// rustls' own texts have times in seconds, and names in the form of its types.
fn certificate(wrong: &CertificateError) -> String {
    use CertificateError as E;
    let text = match wrong {
        E::Expired | E::ExpiredContext { .. } => "its certificate has expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "its certificate is not yet valid",
        // A bad signature: an authority of the same name has another key.
        E::UnknownIssuer | E::BadSignature => {
            "its certificate is of none of the authorities that are trusted (dns.caCertificates)"
        }
        E::NotValidForName => "its certificate is not valid for the name in dns.servers",
        E::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            let mut text = format!("its certificate is not valid for {expected}, but for");
            for (at, name) in presented.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                let name = name.split('"').nth(1).unwrap_or(name);
                // Writing to a string does not fail.
                let _ = write!(text, "{comma} {name}");
            }
            if presented.is_empty() {
                text.push_str(" no name");
            }
            return text;
        }
        other => return format!("its certificate is not valid: {other:?}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Failing, MAX_REASON_SIZE, MAX_REASONS, reason};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{CertificateError, Error};
    use std::io;
    use std::time::Duration;

    fn of(wrong: CertificateError) -> String {
        let error = Error::InvalidCertificate(wrong);
        reason(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn a_reason_is_one_short_line_that_does_not_change_with_time() {
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let expired = |secs| CertificateError::ExpiredContext {
            time: at(secs),
            not_after: at(1),
        };
        assert_eq!(of(expired(2)), of(expired(3)));
        let other = |presented: Vec<String>| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("dns.example").unwrap(),
            presented,
        };
        assert_eq!(
            of(other(vec![
                "DnsName(\"a.example\")".to_owned(),
                "DnsName(\"b.example\")".to_owned(),
            ])),
            "its certificate is not valid for dns.example, but for a.example, b.example"
        );
        let many = of(other(vec!["evil\nline.example".to_owned(); 1000]));
        assert!(
            !many.contains('\n') && many.len() < MAX_REASON_SIZE + 10,
            "{many}"
        );
    }

    #[test]
    fn the_last_reason_is_shown_until_there_is_an_answer() {
        let failing = Failing::new("tls://192.0.2.1:853#dns.example".to_owned());
        assert_eq!(failing.why(), None);
        for why in ["one", "two", "one"] {
            failing.set(why);
            assert_eq!(failing.why().as_deref(), Some(why));
        }
        for n in 0..3 * MAX_REASONS {
            failing.set(&n.to_string());
        }
        assert_eq!(failing.reasons().len(), MAX_REASONS);
        assert_eq!(failing.why(), Some((3 * MAX_REASONS - 1).to_string()));
        failing.end();
        assert_eq!(failing.why(), None);
    }
}
