//! The kinds of requests, and what each may be answered under a version of the rules (`egress_tests::soak::rules`).
//!
//! It sends nothing.

use bytes::Bytes;
use egress_tests::soak::{ABORTED, HOST, SOMETIMES};
use http_body_util::Full;
use hyper::{HeaderMap, Request, StatusCode};
use std::ops::RangeInclusive;
use std::time::Duration;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the first or second origin by its path.
    Path,
    /// By a header.
    Header,
    /// To the one in even versions and to the other in odd ones.
    Flip,
    Rewritten,
    Retried,
    Aborted,
    Delayed,
    Mirrored,
    /// With headers that name the version.
    Changed,
    Redirected,
    Direct,
    /// With a body.
    Posted,
    /// To a host that only even versions list.
    Sometimes,
}

const KINDS: [Kind; 16] = [
    Kind::Path,
    Kind::Header,
    Kind::Flip,
    Kind::Flip,
    Kind::Rewritten,
    Kind::Retried,
    Kind::Aborted,
    Kind::Path,
    Kind::Delayed,
    Kind::Mirrored,
    Kind::Changed,
    Kind::Changed,
    Kind::Redirected,
    Kind::Direct,
    Kind::Posted,
    Kind::Header,
];

/// A request, and what is expected of its answer.
pub(crate) struct Asked {
    pub(crate) kind: Kind,
    number: u64,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

impl Asked {
    /// `sometimes`: for the connections to the host that is listed at times.
    pub(crate) fn new(number: u64, sometimes: bool) -> Self {
        let at = usize::try_from(number).unwrap_or_default() % KINDS.len();
        let kind = if sometimes {
            Kind::Sometimes
        } else {
            KINDS[at]
        };
        Self { kind, number }
    }

    fn second(&self) -> bool {
        self.number / 16 % 2 == 1
    }

    fn path(&self) -> String {
        let n = self.number;
        match self.kind {
            Kind::Path if self.second() => format!("/b/{n}"),
            Kind::Path => format!("/a/{n}"),
            Kind::Header => format!("/by-header/{n}"),
            Kind::Flip => format!("/flip/{n}"),
            Kind::Rewritten => format!("/old/{n}"),
            Kind::Retried => format!("/retry/{n}"),
            Kind::Aborted => format!("/abort/{n}"),
            Kind::Delayed => format!("/delay/{n}"),
            Kind::Mirrored => format!("/mirror/{n}"),
            Kind::Changed => format!("/changed/{n}"),
            Kind::Redirected => format!("/redirect/{n}"),
            Kind::Direct => format!("/direct/{n}"),
            Kind::Posted => format!("/post/{n}"),
            Kind::Sometimes => format!("/sometimes/{n}"),
        }
    }

    fn length(&self) -> usize {
        if self.kind == Kind::Posted {
            usize::try_from(self.number * 37 % 20_000).unwrap_or_default()
        } else {
            0
        }
    }

    /// `http2`: the authority is in the target.
    pub(crate) fn request(&self, http2: bool) -> Request<Full<Bytes>> {
        let host = match self.kind {
            Kind::Sometimes => SOMETIMES,
            _ => HOST,
        };
        let path = self.path();
        let mut request = Request::builder();
        request = if http2 {
            request.uri(format!("http://{host}{path}"))
        } else {
            request.uri(path).header("host", host)
        };
        if self.kind == Kind::Header && self.second() {
            request = request.header("x-to", "second");
        }
        let length = self.length();
        if length > 0 {
            request = request.method("POST");
        }
        let body = Full::new(Bytes::from(vec![b'x'; length]));
        // All parts are constants and numbers.
        request.body(body).unwrap_or_default()
    }

    /// Whether one of these versions of the rules may have given the answer.
    pub(crate) fn fits(&self, answer: &Answer, mut versions: RangeInclusive<u64>) -> bool {
        versions.any(|version| self.fits_version(answer, version))
    }

    fn fits_version(&self, answer: &Answer, version: u64) -> bool {
        let (n, odd) = (self.number, version % 2 == 1);
        let from = |name: &str, path: &str, added: &str, attempt: u32| {
            let (method, length) = match self.length() {
                0 => ("GET", 0),
                length => ("POST", length),
            };
            let text = format!("{name} {method} {path} {length} {added} {attempt}");
            answer.status == 200 && answer.body == text
        };
        let plain = |second: bool| {
            let name = if second { "second" } else { "first" };
            from(name, &self.path(), "-", 1)
        };
        let header = |name: &str| answer.headers.get(name).and_then(|v| v.to_str().ok());
        match self.kind {
            Kind::Path | Kind::Header => plain(self.second()),
            Kind::Flip => plain(odd),
            Kind::Rewritten => from("first", &format!("/new/{n}"), "-", 1),
            Kind::Retried => from("first", &self.path(), "-", 2),
            Kind::Aborted => answer.status == ABORTED && answer.body == "fault filter abort",
            Kind::Delayed => plain(false) && answer.took >= Duration::from_millis(5),
            Kind::Changed => {
                let version = format!("v{version}");
                from("first", &self.path(), &version, 1) && header("x-version") == Some(&version)
            }
            Kind::Redirected => {
                answer.status == 307 && header("location") == Some("http://else.example/there")
            }
            Kind::Direct => answer.status == 203 && answer.body == format!("version {version}"),
            Kind::Sometimes if odd => answer.status == 502,
            Kind::Mirrored | Kind::Posted | Kind::Sometimes => plain(false),
        }
    }
}
