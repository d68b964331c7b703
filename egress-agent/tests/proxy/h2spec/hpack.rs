//! Rules about compressed fields (RFC 7541).

use super::Want::{Connection, Status};
use super::bytes::COMPRESSION;
use super::{Case, case};
use crate::frames::*;

pub fn cases() -> Vec<Case> {
    let value = |bytes: &[u8]| {
        with_bytes(
            &[
                &[0, 1, b'x', 0x80 | u8::try_from(bytes.len()).unwrap()],
                bytes,
            ]
            .concat(),
        )
    };
    let compression = |section, name, bytes| case(section, name, bytes, Connection(&[COMPRESSION]));
    vec![
        case(
            "RFC 7541 6.1",
            "an indexed field",
            with_bytes(b"\x90"),
            Status(200),
        ),
        case(
            "RFC 7541 6.2.1",
            "a literal that goes into the table, and its index",
            with_bytes(b"\x40\x01x\x01y\xbe"),
            Status(200),
        ),
        case(
            "RFC 7541 6.2.2",
            "a literal that does not, with an indexed name",
            with_bytes(b"\x0f\x2b\x01y"),
            Status(200),
        ),
        case(
            "RFC 7541 6.2.3",
            "a literal that never does",
            with_bytes(b"\x10\x01x\x01y"),
            Status(200),
        ),
        case(
            "RFC 7541 5.2",
            "Huffman",
            value(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
            Status(200),
        ),
        case(
            "RFC 7541 6.3",
            "a smaller table at the start of a block",
            raw(b"\x20"),
            Status(200),
        ),
        compression(
            "RFC 7541 2.3.3",
            "an index beyond the tables",
            with_bytes(b"\xc6"),
        ),
        compression(
            "RFC 7541 2.3.3",
            "a name's index beyond the tables",
            with_bytes(b"\x7f\x07\x01y"),
        ),
        compression("RFC 7541 6.1", "the index 0", with_bytes(b"\x80")),
        compression(
            "RFC 7541 4.2",
            "a change of the table's size behind a field",
            with_bytes(b"\x20"),
        ),
        compression(
            "RFC 7541 6.3",
            "a table that is larger than the server allows",
            raw(b"\x3f\xe2\x1f\x00"),
        ),
        compression(
            "RFC 7541 5.1",
            "a number that is too large",
            with_bytes(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ),
        compression(
            "RFC 7541 5.2",
            "a string that is longer than the block",
            with_bytes(b"\x00\x7fx"),
        ),
        compression(
            "RFC 7541 5.2",
            "Huffman padding of over 7 bits",
            value(b"\x1f\xff"),
        ),
        compression("RFC 7541 5.2", "Huffman padding with zeros", value(b"\x18")),
        compression(
            "RFC 7541 5.2",
            "Huffman with the end-of-string symbol",
            value(b"\xff\xff\xff\xff"),
        ),
    ]
}

/// A request whose field block begins with these bytes.
fn raw(bytes: &[u8]) -> Vec<u8> {
    let whole = [bytes, &fields()].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &whole)
}

/// A request whose field block ends with these bytes.
fn with_bytes(bytes: &[u8]) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &[&fields(), bytes].concat(),
    )
}
