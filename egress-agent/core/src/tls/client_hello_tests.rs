//! Hellos built byte by byte, whole, cut and wrong, with the outcome that each must get.

use super::*;
use proptest::prelude::*;

pub(in crate::tls) fn vector16(data: &[u8]) -> Vec<u8> {
    let mut out = (data.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(data);
    out
}

pub(in crate::tls) fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(data)].concat()
}

pub(in crate::tls) fn host_name(name: &[u8]) -> Vec<u8> {
    [vec![0], vector16(name)].concat()
}

pub(in crate::tls) fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&host_name(name)))
}

/// A handshake message with these extensions.
pub(in crate::tls) fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(32);
    body.extend_from_slice(&[9; 32]);
    body.extend_from_slice(&vector16(&[0x13, 0x01, 0x13, 0x02]));
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&vector16(&extensions.concat()));
    handshake(&body)
}

pub(in crate::tls) fn handshake(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[1, length[1], length[2], length[3]], body].concat()
}

/// The message in records of at most `size` bytes.
pub(in crate::tls) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|part| [vec![22, 3, 1], vector16(part)].concat())
        .collect()
}

fn named(name: &str) -> HelloOutcome {
    let name = parse_server_name(name.as_bytes()).ok();
    HelloOutcome::Hello(ClientHello { name, ech: false })
}

#[test]
fn the_name_is_found_wherever_the_bytes_are_cut() {
    let bytes = records(
        &message(&[
            extension(10, &[0, 2, 0, 29]),
            sni(b"WWW.google.com"),
            extension(43, &[2, 3, 4]),
        ]),
        16384,
    );
    for cut in 0..bytes.len() {
        let mut reader = HelloReader::default();
        assert_eq!(
            reader.push(&bytes[..cut]),
            HelloOutcome::NeedMore,
            "cut at {cut}"
        );
        assert_eq!(
            reader.push(&bytes[cut..]),
            named("www.google.com"),
            "cut at {cut}"
        );
    }
}

#[test]
fn the_name_is_found_however_the_records_are_cut_and_byte_by_byte() {
    let whole = message(&[sni(b"www.google.com")]);
    for size in 1..whole.len() {
        let bytes = records(&whole, size);
        assert_eq!(parse(&bytes), named("www.google.com"), "records of {size}");
        let mut reader = HelloReader::default();
        let (last, before) = bytes.split_last().unwrap();
        assert!(
            before
                .iter()
                .all(|byte| reader.push(&[*byte]) == HelloOutcome::NeedMore),
            "records of {size}"
        );
        assert_eq!(
            reader.push(&[*last]),
            named("www.google.com"),
            "records of {size}"
        );
    }
}

#[test]
fn a_hello_with_large_post_quantum_key_shares_is_read() {
    for share in [1_216, 16_000, 40_000] {
        let whole = message(&[extension(51, &vec![5; share]), sni(b"www.google.com")]);
        assert_eq!(
            parse(&records(&whole, 16384)),
            named("www.google.com"),
            "{share}"
        );
    }
}

#[test]
fn bytes_of_later_records_do_not_matter() {
    let mut bytes = records(&message(&[sni(b"www.google.com")]), 16384);
    bytes.extend_from_slice(&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 2, 0, 0]);
    assert_eq!(parse(&bytes), named("www.google.com"));
}

#[test]
fn a_hello_with_ech_is_decided_on_its_outer_name() {
    let outer = message(&[extension(0xfe0d, &[0; 64]), sni(b"cloudflare-ech.com")]);
    let HelloOutcome::Hello(hello) = parse(&records(&outer, 16384)) else {
        panic!("no hello")
    };
    assert!(hello.ech);
    assert_eq!(hello.name.unwrap().as_str(), "cloudflare-ech.com");
}

#[test]
fn a_hello_may_name_nobody() {
    let mut without_extensions = vec![3, 1];
    without_extensions.extend_from_slice(&[7; 32]);
    without_extensions.extend_from_slice(&[0, 0, 2, 0, 47, 1, 0]);
    let nobody = HelloOutcome::Hello(ClientHello {
        name: None,
        ech: false,
    });
    assert_eq!(
        parse(&records(&handshake(&without_extensions), 100)),
        nobody
    );
    assert_eq!(
        parse(&records(&message(&[extension(43, &[2, 3, 4])]), 100)),
        nobody
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_no_hello_or_names_in_doubt_is_refused() {
    use HelloError::{
        BadName, DuplicateExtension, EmptyRecord, Excess, Malformed, NotClientHello, NotTls,
        RecordTooLong, SeveralNames, TooLong,
    };
    let one = |extensions: &[Vec<u8>]| records(&message(extensions), 16384);
    let list = |entries: &[Vec<u8>]| extension(0, &vector16(&entries.concat()));
    let mut trailing = message(&[sni(b"a.example")]);
    trailing.extend_from_slice(b"more");
    let mut lying = message(&[sni(b"a.example")]);
    let end = lying.len() - 1;
    lying[end - 9] = 200;
    for (what, bytes, error) in [
        ("plain HTTP", b"GET / HTTP/1.1\r\n".to_vec(), NotTls),
        ("an SSLv2 hello", vec![0x80, 0x2e, 1, 0, 2], NotTls),
        ("a record of version 2", vec![22, 2], NotTls),
        ("application data", vec![23, 3, 3, 0, 5], NotTls),
        ("an alert", vec![21, 3, 3, 0, 2, 1, 0], NotTls),
        ("an empty record", vec![22, 3, 1, 0, 0], EmptyRecord),
        (
            "a record of 16385 bytes",
            vec![22, 3, 1, 0x40, 1],
            RecordTooLong,
        ),
        ("a server hello", vec![22, 3, 3, 0, 1, 2], NotClientHello),
        (
            "a hello of 16 MiB",
            vec![22, 3, 1, 0, 9, 1, 0xff, 0xff, 0xff],
            TooLong,
        ),
        (
            "bytes behind the hello in its record",
            records(&trailing, 16384),
            Excess,
        ),
        (
            "a length that points outside",
            records(&lying, 16384),
            Malformed,
        ),
        (
            "a body of nothing",
            records(&handshake(&[]), 16384),
            Malformed,
        ),
        (
            "an extension twice",
            one(&[sni(b"a.example"), sni(b"a.example")]),
            DuplicateExtension,
        ),
        (
            "an unknown extension twice",
            one(&[extension(99, &[]), extension(99, &[])]),
            DuplicateExtension,
        ),
        (
            "two names",
            one(&[list(&[host_name(b"a.example"), host_name(b"b.example")])]),
            SeveralNames,
        ),
        (
            "a name of another type",
            one(&[list(&[[vec![1], vector16(b"a.example")].concat()])]),
            SeveralNames,
        ),
        ("no name in the list", one(&[list(&[])]), Malformed),
        ("an empty name", one(&[sni(b"")]), BadName(HostError::Empty)),
        (
            "a NUL in the name",
            one(&[sni(b"www.google.com\0.evil.example")]),
            BadName(HostError::BadByte(0)),
        ),
        (
            "a trailing dot",
            one(&[sni(b"www.google.com.")]),
            BadName(HostError::EmptyLabel),
        ),
        (
            "an IPv4 address",
            one(&[sni(b"192.0.2.1")]),
            BadName(HostError::IpLiteral),
        ),
        (
            "an IPv6 address",
            one(&[sni(b"::1")]),
            BadName(HostError::BadByte(b':')),
        ),
        (
            "a name of 254 bytes",
            one(&[sni("a.".repeat(127).as_bytes())]),
            BadName(HostError::TooLong),
        ),
        (
            "an alert between the halves",
            [
                &records(&message(&[sni(b"a.example")])[..9], 9)[..],
                &[21, 3, 3, 0, 2],
            ]
            .concat(),
            NotTls,
        ),
    ] {
        assert_eq!(parse(&bytes), HelloOutcome::Invalid(error), "{what}");
    }
}

#[test]
fn a_hello_in_tiny_records_is_given_up_at_the_byte_limit() {
    let whole = message(&[extension(51, &vec![0; 20_000]), sni(b"a.example")]);
    assert_eq!(
        parse(&records(&whole, 1)),
        HelloOutcome::Invalid(HelloError::TooLong)
    );
}

proptest! {
    #[test]
    fn any_bytes_get_the_same_outcome_in_one_piece_and_in_many(
        noise in proptest::collection::vec(any::<u8>(), 0..64), at in 0_usize..120, step in 1_usize..9,
    ) {
        let mut bytes = records(&message(&[sni(b"www.google.com"), extension(43, &[2, 3, 4])]), 50);
        let at = at.min(bytes.len());
        bytes.splice(at..(at + noise.len() / 2).min(bytes.len()), noise);
        let mut reader = HelloReader::default();
        let mut outcome = HelloOutcome::NeedMore;
        for piece in bytes.chunks(step) {
            outcome = reader.push(piece);
            if outcome != HelloOutcome::NeedMore {
                break;
            }
        }
        // A record that continues after the hello is detected only if both are there or the record's length shows it.
        // Both readers know that length.
        prop_assert_eq!(parse(&bytes), outcome);
    }
}
