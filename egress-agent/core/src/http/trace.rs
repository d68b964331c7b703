//! The span of the proxy in a client's trace, in the B3 headers that Istio's sidecars use by default (Envoy
//! `source/extensions/tracers/zipkin/span_context_extractor.cc`).
//!
//! Header maps in, header maps out. Random numbers are parameters. Nothing is reported: there is no collector. W3C's
//! `traceparent` and all other formats pass through, as they do in Envoy with `trace_context_option: USE_B3`.

use super::values::Values;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

// Names that are not parsed for each request.
static SINGLE: HeaderName = HeaderName::from_static("b3");
static TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CLIENT_TRACE: HeaderName = HeaderName::from_static("x-client-trace-id");

/// The character of a UUID in which Envoy notes why a request is traced (`UUIDRequestIdExtension`).
const REASON: usize = 14;

/// The span of a request on its way upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    sampled: bool,
    /// The client has written its context in one header.
    single: bool,
}

/// What a client says about its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Context {
    /// The numbers of the trace and of the client's span.
    parent: Option<(u128, u64)>,
    sampled: Option<bool>,
}

impl Span {
    /// Starts a trace, or a span of the trace that the client sends. `x-request-id` must be there. `None` if there is a
    /// context that cannot be read: it passes through, because the origin may know how to read it.
    pub fn of_request(headers: &mut HeaderMap, random: u128) -> Option<Self> {
        let traced = is_traced(headers);
        let context = read(headers)?;
        Some(Self {
            // The first span of a trace has the low half of the trace's number.
            trace: context.parent.map_or(random, |(trace, _)| trace),
            id: random as u64,
            parent: context.parent.map(|(_, span)| span),
            sampled: context.sampled.unwrap_or(traced),
            single: headers.contains_key(&SINGLE),
        })
    }

    /// The span of a copy of a request, a child of the request's span. Istio's sidecars do not sample it
    /// (`trace_sampled: false`).
    pub fn of_copy(headers: &HeaderMap, random: u64) -> Option<Self> {
        let (trace, parent) = read(headers)?.parent?;
        Some(Self {
            trace,
            id: random,
            parent: Some(parent),
            sampled: false,
            single: headers.contains_key(&SINGLE),
        })
    }

    /// Writes the span, in one header or in several.
    pub fn write(&self, headers: &mut HeaderMap, values: &mut Values) {
        // Envoy writes a trace of 64 bits with 16 digits.
        let digits: usize = if u64::try_from(self.trace).is_ok() {
            16
        } else {
            32
        };
        let (trace, id) = (self.trace, self.id);
        let sampled = u8::from(self.sampled);
        if self.single {
            let start = format_args!("{trace:0digits$x}-{id:016x}-{sampled}");
            return match self.parent {
                Some(parent) => {
                    values.insert(headers, &SINGLE, format_args!("{start}-{parent:016x}"));
                }
                None => values.insert(headers, &SINGLE, start),
            };
        }
        values.insert(headers, &TRACE_ID, format_args!("{trace:0digits$x}"));
        values.insert(headers, &SPAN_ID, format_args!("{id:016x}"));
        if let Some(parent) = self.parent {
            values.insert(headers, &PARENT, format_args!("{parent:016x}"));
        }
        let sampled = if self.sampled { "1" } else { "0" };
        headers.insert(&SAMPLED, HeaderValue::from_static(sampled));
    }
}

/// Whether the request's id says that it is traced. `x-client-trace-id` makes it say so.
fn is_traced(headers: &mut HeaderMap) -> bool {
    let Some(id) = text(headers, &REQUEST_ID).filter(|id| is_uuid(id)) else {
        return false;
    };
    // Sampled, forced by a service, forced by a client.
    if matches!(id.as_bytes()[REASON], b'9' | b'a' | b'b') {
        return true;
    }
    if !headers.contains_key(&CLIENT_TRACE) {
        return false;
    }
    let forced = format!("{}b{}", &id[..REASON], &id[REASON + 1..]);
    if let Ok(forced) = HeaderValue::from_str(&forced) {
        headers.insert(&REQUEST_ID, forced);
    }
    true
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `None` if there is a context that cannot be read.
fn read(headers: &HeaderMap) -> Option<Context> {
    match headers.get(&SINGLE) {
        Some(value) => single(value.to_str().ok()?),
        None => several(headers),
    }
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or `SAMPLED` alone.
fn single(value: &str) -> Option<Context> {
    let flag = |text: &str| match text {
        "0" => Some(false),
        "1" | "d" => Some(true),
        _ => None,
    };
    if let Some(sampled) = flag(value) {
        return Some(Context {
            parent: None,
            sampled: Some(sampled),
        });
    }
    let mut parts = value.split('-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let whole = matches!(trace.len(), 16 | 32) && span.len() == 16;
    if !whole || !digits(trace) || !digits(span) {
        return None;
    }
    let sampled = match parts.next() {
        Some(text) => Some(flag(text)?),
        None => None,
    };
    let parent = parts.next();
    if parent.is_some_and(|parent| parent.len() != 16 || !digits(parent)) || parts.next().is_some()
    {
        return None;
    }
    Some(Context {
        parent: Some((
            u128::from_str_radix(trace, 16).ok()?,
            u64::from_str_radix(span, 16).ok()?,
        )),
        sampled,
    })
}

fn several(headers: &HeaderMap) -> Option<Context> {
    let sampled = headers
        .get(&SAMPLED)
        .filter(|value| !value.is_empty())
        .map(|value| value == "1" || value == "true");
    let (Some(trace), Some(span)) = (headers.get(&TRACE_ID), headers.get(&SPAN_ID)) else {
        return Some(Context {
            parent: None,
            sampled,
        });
    };
    let trace = trace.to_str().ok()?;
    let trace = if trace.len() == 32 && digits(trace) {
        u128::from_str_radix(trace, 16).ok()?
    } else {
        number(trace)?.into()
    };
    let span = number(span.to_str().ok()?)?;
    if let Some(parent) = headers.get(&PARENT).filter(|parent| !parent.is_empty()) {
        number(parent.to_str().ok()?)?;
    }
    Some(Context {
        parent: Some((trace, span)),
        sampled,
    })
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A number as Envoy reads it: hexadecimal, of any length, also behind `0x`.
fn number(text: &str) -> Option<u64> {
    let bare = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let bare = bare.unwrap_or(text);
    let number = u64::from_str_radix(bare, 16);
    number.ok().filter(|_| digits(bare))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    const RANDOM: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
    const T: &str = "463ac35c9f6413ad48485a3953bb6124";
    const S: &str = "a2fb4a1d1a96d312";
    const OWN: &str = "0011223344556677";

    fn spans(given: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = headers(given);
        let span = Span::of_request(&mut map, RANDOM);
        span.inspect(|span| span.write(&mut map, &mut Values::default()));
        let names = [&SINGLE, &TRACE_ID, &SPAN_ID, &PARENT, &SAMPLED];
        let values = names
            .into_iter()
            .map(|name| text(&map, name).unwrap_or("-"));
        values.map(str::to_owned).collect()
    }

    #[test]
    fn a_request_without_a_context_starts_a_trace() {
        let own = ["-", "0123456789abcdef0011223344556677", OWN, "-", "0"];
        assert_eq!(spans(&[]), own);
        assert_eq!(spans(&[("x-b3-traceid", T)]), own);
        assert_eq!(spans(&[("traceparent", "00-1-2-01")]), own);
        let sampled = spans(&[("x-b3-sampled", "true")]);
        assert_eq!(sampled[4], "1");
    }

    #[test]
    fn a_span_is_a_child_of_the_clients() {
        let both = [("x-b3-traceid", T), ("x-b3-spanid", S)];
        assert_eq!(spans(&both), ["-", T, OWN, S, "0"]);
        let sampled = [
            &both[..],
            &[("x-b3-sampled", "1"), ("x-b3-parentspanid", "1")],
        ]
        .concat();
        assert_eq!(spans(&sampled), ["-", T, OWN, S, "1"]);
        for (trace, written) in [
            ("0x10", "0000000000000010"),
            ("48485A3953BB6124", "48485a3953bb6124"),
            ("000000000000000048485a3953bb6124", "48485a3953bb6124"),
        ] {
            let given = [("x-b3-traceid", trace), ("x-b3-spanid", S)];
            assert_eq!(spans(&given)[1], written);
        }
    }

    #[test]
    fn a_single_header_stays_one() {
        for (given, written) in [
            (
                "0",
                "0123456789abcdef0011223344556677-0011223344556677-0".to_owned(),
            ),
            (
                "d",
                "0123456789abcdef0011223344556677-0011223344556677-1".to_owned(),
            ),
            (
                "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312",
                format!("{T}-{OWN}-0-{S}"),
            ),
            (
                "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1",
                format!("{T}-{OWN}-1-{S}"),
            ),
            (
                "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-d-0000000000000001",
                format!("{T}-{OWN}-1-{S}"),
            ),
        ] {
            assert_eq!(
                spans(&[("b3", given)]),
                [written.as_str(), "-", "-", "-", "-"]
            );
        }
    }

    #[test]
    fn a_context_that_cannot_be_read_stays_as_it_is() {
        for given in ["", "x", "11", "D", "abc-a2fb4a1d1a96d312"] {
            assert_eq!(spans(&[("b3", given)]), [given, "-", "-", "-", "-"]);
        }
        for end in [
            "",
            "-",
            "-a2fb4a1d1a96d312-",
            "-a2fb4a1d1a96d312-x",
            "-a2fb4a1d1a96d312-1-",
            "-a2fb4a1d1a96d312-1-abc",
            "-a2fb4a1d1a96d312-1-a2fb4a1d1a96d312-1",
        ] {
            assert_eq!(single(&format!("{T}{end}")), None, "{end}");
        }
        for (trace, span) in [
            ("xyz", S),
            (T, "xyz"),
            ("", S),
            (T, ""),
            ("-1", S),
            ("+1", S),
            ("11111111111111111", S),
            (T, T),
        ] {
            let given = [("x-b3-traceid", trace), ("x-b3-spanid", span)];
            assert_eq!(spans(&given), ["-", trace, span, "-", "-"]);
        }
    }

    #[test]
    fn the_request_id_says_whether_the_request_is_traced() {
        for (id, sampled) in [
            ("11111111-2222-9333-8444-555555555555", "1"),
            ("11111111-2222-b333-8444-555555555555", "1"),
            ("11111111-2222-4333-8444-555555555555", "0"),
            ("11111111-2222-A333-8444-555555555555", "0"),
            ("zzzzzzzz-2222-9333-8444-555555555555", "0"),
            ("", "0"),
        ] {
            assert_eq!(spans(&[("x-request-id", id)])[4], sampled, "{id}");
        }
        let mut map = headers(&[
            ("x-request-id", "11111111-2222-4333-8444-555555555555"),
            ("x-client-trace-id", "a"),
        ]);
        let span = Span::of_request(&mut map, RANDOM).unwrap();
        span.write(&mut map, &mut Values::default());
        let forced = "11111111-2222-b333-8444-555555555555";
        assert_eq!(
            (text(&map, &REQUEST_ID), text(&map, &SAMPLED)),
            (Some(forced), Some("1"))
        );
    }

    #[test]
    fn a_copy_is_a_child_of_the_request() {
        let mut map = headers(&[
            ("x-b3-traceid", T),
            ("x-b3-spanid", S),
            ("x-b3-sampled", "1"),
        ]);
        let span = Span::of_copy(&map, 0xbb).unwrap();
        span.write(&mut map, &mut Values::default());
        assert_eq!(text(&map, &SPAN_ID), Some("00000000000000bb"));
        assert_eq!(text(&map, &PARENT), Some(S));
        assert_eq!(text(&map, &SAMPLED), Some("0"));
    }
}
