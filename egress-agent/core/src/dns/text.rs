//! Names of DNS as text: from labels on the wire to the one form in which names are judged, and how texts lie below
//! each other.

use hickory_proto::rr::Name;
use std::sync::Arc;

/// Longest label (RFC 1035 §2.3.4). More is a pointer or no label.
pub(super) const LABEL: usize = 63;
/// Longest name on the wire, with the length of each label and the final zero (RFC 1035 §2.3.4).
const NAME: usize = 255;

/// A name as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// Its labels, in lower case and with dots between them.
    Plain(Arc<str>),
    /// A label has bytes other than letters, digits, `-` and `_`. As text it could be mistaken for another name.
    Other,
}

/// The uncompressed name at the start of a section, and its length on the wire. `None` if it is malformed, cut off or
/// compressed.
pub(super) fn canonical_labels(section: &[u8]) -> Option<(Text, usize)> {
    let mut text = Vec::with_capacity(NAME);
    let mut plain = true;
    let mut at = 0;
    loop {
        let length = usize::from(*section.get(at)?);
        let ends = at + 1 + length + usize::from(length > 0);
        if length > LABEL || ends > NAME {
            return None;
        }
        at += 1;
        if length == 0 {
            break;
        }
        let label = section.get(at..at + length)?;
        at += length;
        if !text.is_empty() {
            text.push(b'.');
        }
        for byte in label {
            plain &= is_plain(*byte);
            text.push(byte.to_ascii_lowercase());
        }
    }
    let name = String::from_utf8(text).ok().filter(|_| plain);
    Some((name.map_or(Text::Other, |n| Text::Plain(n.into())), at))
}

/// Whether a label of a name that is judged may have this byte.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// A name of a message in the form in which names are judged. `None` if no query that is judged has it.
pub(super) fn canonical(name: &Name) -> Option<Arc<str>> {
    let mut text = Vec::with_capacity(NAME);
    for label in name {
        if !text.is_empty() {
            text.push(b'.');
        }
        if !label.iter().copied().all(is_plain) {
            return None;
        }
        text.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    String::from_utf8(text).ok().map(Arc::from)
}

/// The part of a name before a domain that it lies in: `a.b` for `a.b.example` and `example`. `None` if it is not
/// below the domain.
pub(super) fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let before = name.strip_suffix(domain)?.strip_suffix('.')?;
    (!before.is_empty()).then_some(before)
}

/// The first label and the rest.
pub(super) fn first_label(name: &str) -> (&str, &str) {
    name.split_once('.').unwrap_or((name, ""))
}

/// The name without its last label, and that label.
pub(super) fn last_label(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.')
}

#[cfg(test)]
mod tests {
    use super::{Text, below, canonical_labels};

    #[test]
    fn names_are_read_in_lower_case_or_not_at_all() {
        let plain = |s: &str| Text::Plain(s.into());
        for (wire, expected) in [
            (
                &b"\x03wWw\x07Ex-mp_3\0rest"[..],
                Some((plain("www.ex-mp_3"), 13)),
            ),
            (b"\0", Some((plain(""), 1))),
            (b"\x03a.b\0", Some((Text::Other, 5))),
            (b"\x02\xc3\xbc\0", Some((Text::Other, 4))),
            (b"\x01\0\0", Some((Text::Other, 3))),
            (b"\x01*\0", Some((Text::Other, 3))),
            (b"\x03www", None),
            (b"\xc0\x0c", None),
            (b"\x40", None),
            (b"", None),
        ] {
            assert_eq!(canonical_labels(wire), expected, "{wire:?}");
        }
        let long = [&[63; 64][..]; 4].concat();
        assert_eq!(canonical_labels(&[&long[..], &[0]].concat()), None);
    }

    #[test]
    fn a_name_is_below_a_domain_by_whole_labels() {
        assert_eq!(below("a.b.example", "example"), Some("a.b"));
        for name in ["example", ".example", "aexample", "example.a"] {
            assert_eq!(below(name, "example"), None, "{name}");
        }
    }
}
