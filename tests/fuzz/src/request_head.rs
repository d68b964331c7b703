//! Any bytes as requests: no panic, the same heads in one piece and byte by byte, and a canonical
//! form that stays as it is: what is judged is what the origin reads.

use egress_core::http::authority::parse_authority;
use egress_core::http::head_reader::{HeadOutcome, HeadReader};

/// Panics where something is wrong.
pub fn run(bytes: &[u8]) {
    let mut whole = HeadReader::new(60 * 1024);
    whole.push(bytes);
    let outcome = whole.next_head();
    let mut split = HeadReader::new(60 * 1024);
    let by_byte = bytes
        .iter()
        .map(|byte| {
            split.push(&[*byte]);
            split.next_head()
        })
        .find(|outcome| *outcome != HeadOutcome::NeedMore);
    let HeadOutcome::Head(head) = outcome else {
        assert!(!matches!(by_byte, Some(HeadOutcome::Head(_))));
        return;
    };
    assert_eq!(by_byte, Some(HeadOutcome::Head(head.clone())));
    let mut again = HeadReader::new(4 * 60 * 1024);
    again.push(&head.bytes);
    let HeadOutcome::Head(canonical) = again.next_head() else {
        panic!("the canonical form is refused");
    };
    assert_eq!(again.pending(), b"");
    assert_eq!(canonical.bytes, head.bytes);
    assert_eq!(canonical.authority, head.authority);
    assert_eq!(canonical.framing, head.framing);
    let line = head
        .bytes
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let target = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    assert!(path == b"*" || path.starts_with(b"/"));
    assert!(!path.contains(&b'\\') && !path.contains(&b'#'));
    for segment in path.split(|byte| *byte == b'/') {
        let name = segment.split(|byte| *byte == b';').next();
        assert!(!matches!(name, Some(b"." | b"..")));
    }
    if let Ok(host) = parse_authority(&head.authority) {
        // An IPv6 address stands in brackets only in a URI.
        if !host.as_str().contains(':') {
            assert_eq!(parse_authority(host.as_str()), Ok(host));
        }
    }
}
