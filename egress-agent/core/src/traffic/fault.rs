//! `VirtualService.http[].fault`: a delay, then an abort, each for a share of the requests.
//!
//! Source: istio `TranslateFault`, Envoy `source/extensions/filters/http/fault`. It draws no numbers and waits for
//! nothing.

use crate::http::grpc::grpc_status_of;
use crate::istio::fields::Percent;
use crate::istio::virtual_service::{Abort, Delay, HttpFaultInjection};
use std::fmt;
use std::time::Duration;

/// A fraction of requests, in millionths. Istio gives Envoy steps of 0.0001 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fraction(u32);

impl Fraction {
    /// All requests.
    pub const ALL: Self = Self(Self::WHOLE);
    const WHOLE: u32 = 1_000_000;

    /// From a percentage; one that is not between 0 and 100 is the nearest of the two.
    pub fn of(percent: &Percent) -> Self {
        let millionths = percent.value * 10_000.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and the fraction is left out as Istio leaves it out"
        )]
        Self((millionths as u32).min(Self::WHOLE))
    }

    /// Whether a request of this random number is one of them.
    pub fn takes(self, number: impl FnOnce() -> u64) -> bool {
        match self.0 {
            0 => false,
            Self::WHOLE => true,
            share => number() % u64::from(Self::WHOLE) < share.into(),
        }
    }

    /// Whether it is of no request.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// In percent: `12.5 %`.
impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}

/// See the module. The default injects nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// How long requests wait, and which.
    pub delay: Option<(Fraction, Duration)>,
    /// Which requests are aborted, and how.
    pub abort: Option<(Fraction, AbortWith)>,
}

/// The reply to an aborted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortWith {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status, for clients that speak it. Others get 200.
    Grpc(u8),
}

fn abort(abort: &Abort) -> Option<(Fraction, AbortWith)> {
    let http = abort.http_status.and_then(|s| u16::try_from(s).ok());
    let grpc = || {
        let name = abort.grpc_status.as_deref()?;
        grpc_status_of(name)
    };
    let with = match http {
        Some(status) => AbortWith::Http(status),
        None => AbortWith::Grpc(grpc()?),
    };
    Some((share(abort.percentage.as_ref(), 0), with))
}

fn delay(delay: &Delay) -> Option<(Fraction, Duration)> {
    let by = delay.fixed_delay?.duration();
    Some((share(delay.percentage.as_ref(), delay.percent), by))
}

/// An unset percentage is 0, or the whole percent of the deprecated field.
fn share(percentage: Option<&Percent>, whole: i32) -> Fraction {
    let whole = Percent {
        value: whole.into(),
    };
    Fraction::of(percentage.unwrap_or(&whole))
}

impl From<&HttpFaultInjection> for Fault {
    fn from(fault: &HttpFaultInjection) -> Self {
        let delay = fault.delay.as_ref().and_then(delay);
        let abort = fault.abort.as_ref().and_then(abort);
        Self {
            delay: delay.filter(|(share, _)| !share.is_none()),
            abort: abort.filter(|(share, _)| !share.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_percentage_is_none_and_steps_are_millionths() {
        let percent = |value| Some(Percent { value });
        for (percentage, whole, millionths) in [
            (None, 0, 0),
            (None, 50, 500_000),
            (percent(0.0001), 0, 1),
            (percent(100.0), 0, 1_000_000),
            (percent(12.5), 50, 125_000),
            (percent(0.0), 50, 0),
        ] {
            assert_eq!(share(percentage.as_ref(), whole), Fraction(millionths));
        }
        let half = Fraction(500_000);
        assert!(half.takes(|| 499_999) && !half.takes(|| 500_000) && half.takes(|| 1_000_000));
        assert!(
            !Fraction::default().takes(|| unreachable!()) && Fraction::ALL.takes(|| unreachable!())
        );
    }

    #[test]
    fn an_abort_is_by_http_status_or_by_the_number_of_a_grpc_status() {
        let of = |http_status, grpc_status: Option<&str>| {
            abort(&Abort {
                http_status,
                grpc_status: grpc_status.map(Into::into),
                percentage: Some(Percent { value: 100.0 }),
                ..Abort::default()
            })
        };
        assert_eq!(
            of(Some(418), None),
            Some((Fraction::ALL, AbortWith::Http(418)))
        );
        let unavailable = of(None, Some("UNAVAILABLE"));
        assert_eq!(unavailable, Some((Fraction::ALL, AbortWith::Grpc(14))));
        let unauthenticated = of(None, Some("UNAUTHENTICATED"));
        assert_eq!(unauthenticated, Some((Fraction::ALL, AbortWith::Grpc(16))));
        assert_eq!(of(None, None), None);
    }
}
