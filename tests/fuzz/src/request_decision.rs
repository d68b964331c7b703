//! Any bytes as HTTP/1.1 requests, from their heads to their decisions: none goes where no rule lets it go, and what is
//! decided is what a plain parser reads from the bytes that the origin gets.

use crate::decision::check;
use egress_core::http::head_reader::{HeadOutcome, HeadReader};
use http::{HeaderName, HeaderValue, Request};

/// Requests of one connection.
const REQUESTS: usize = 8;

/// Panics where something is wrong.
pub fn run(bytes: &[u8]) {
    let mut reader = HeadReader::new(60 * 1024);
    reader.push(bytes);
    for _ in 0..REQUESTS {
        let HeadOutcome::Head(head) = reader.next_head() else {
            return;
        };
        let request = plain(&head.bytes).expect("a canonical head is a request");
        let hosts = request.headers().get_all("host").iter();
        let hosts: Vec<_> = hosts.map(HeaderValue::as_bytes).collect();
        assert_eq!(hosts.join(&b','), head.authority.as_bytes());
        check(&request, &head.authority);
    }
}

/// Reads a head as the HTTP library does.
fn plain(bytes: &[u8]) -> Option<Request<()>> {
    let mut fields = vec![httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut fields);
    assert!(parsed.parse(bytes).ok()?.is_complete());
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        request = request.header(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    request.body(()).ok()
}
