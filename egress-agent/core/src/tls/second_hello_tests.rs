//! What may follow a first hello, with the server's answers in between, cut into pieces of any size.

use super::super::client_hello::tests::{extension, message, records, sni};
use super::*;
use crate::http::authority::parse_server_name;
use proptest::prelude::*;

const NAME: &[u8] = b"a.example";

fn name() -> Option<CanonicalHost> {
    parse_server_name(NAME).ok()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [&[kind, 3, 3], length.as_slice(), body].concat()
}

/// A second hello with these extensions, in records of at most `size` bytes.
fn hello(extensions: &[Vec<u8>], size: usize) -> Vec<u8> {
    records(&message(extensions), size)
}

fn same() -> Vec<u8> {
    hello(&[extension(44, &[0, 1, 7]), sni(NAME)], 1 << 14)
}

fn other() -> Vec<u8> {
    hello(&[sni(b"b.example")], 1 << 14)
}

fn server_hello(random: [u8; 32]) -> Vec<u8> {
    let body = [&[3, 3], random.as_slice(), &[0, 0x13, 1, 0]].concat();
    record(
        HANDSHAKE,
        &[&[SERVER_HELLO, 0, 0, body.len() as u8], body.as_slice()].concat(),
    )
}

fn retry() -> Vec<u8> {
    server_hello(RETRY)
}

fn accept() -> Vec<u8> {
    server_hello([7; 32])
}

fn ccs() -> Vec<u8> {
    record(CHANGE_CIPHER_SPEC, &[1])
}

fn data() -> Vec<u8> {
    record(APPLICATION_DATA, &[23; 100])
}

/// A handshake message without contents.
fn empty(kind: u8) -> Vec<u8> {
    record(HANDSHAKE, &[kind, 0, 0, 0])
}

enum Said {
    Client(Vec<u8>),
    Server(Vec<u8>),
}
use Said::{Client, Server};

/// The result of a conversation: an error, or how many bytes are held back and whether it is over.
fn outcome(said: &[Said], piece: usize) -> Result<(usize, bool), SecondHelloError> {
    let mut watch = SecondHello::new(name());
    let mut held = 0;
    for said in said {
        match said {
            Client(bytes) => {
                for piece in bytes.chunks(piece) {
                    held = watch.client(piece)?;
                }
            }
            Server(bytes) => bytes.chunks(piece).for_each(|piece| watch.server(piece)),
        }
    }
    Ok((held, watch.is_over()))
}

type Row = (Vec<Said>, Result<(usize, bool), SecondHelloError>);

fn each(rows: Vec<Row>) {
    for (row, (said, expected)) in rows.into_iter().enumerate() {
        for piece in [1, 2, 5, 64, 1 << 20] {
            assert_eq!(outcome(&said, piece), expected, "row {row}");
        }
    }
}

const OVER: Result<(usize, bool), SecondHelloError> = Ok((0, true));
const WATCHED: Result<(usize, bool), SecondHelloError> = Ok((0, false));

fn names(name: &str) -> Result<(usize, bool), SecondHelloError> {
    Err(SecondHelloError::OtherName(name.into()))
}

#[test]
fn a_second_hello_of_tls_1_3_keeps_the_name_and_encrypted_data_ends_the_watch() {
    each(vec![
        // TLS 1.3 without and with a second hello, with the record of middlebox compatibility.
        (
            vec![
                Server(accept()),
                Client(ccs()),
                Client(data()),
                Client(other()),
            ],
            OVER,
        ),
        (
            vec![Server(retry()), Client(ccs()), Client(same())],
            WATCHED,
        ),
        (
            vec![
                Server(retry()),
                Client(same()),
                Server(accept()),
                Client(data()),
            ],
            OVER,
        ),
        (
            vec![Server(retry()), Client(ccs()), Client(other())],
            names("b.example"),
        ),
        (vec![Client(ccs()), Client(other())], names("b.example")),
        // Sent before the server asks for it, and after the server asked twice.
        (vec![Client(other())], names("b.example")),
        (
            vec![
                Server(retry()),
                Client(same()),
                Server(retry()),
                Client(other()),
            ],
            names("b.example"),
        ),
        // Neither early data before the second hello nor a plain alert ends the watch.
        (
            vec![
                Client(ccs()),
                Client(data()),
                Server(retry()),
                Client(other()),
            ],
            names("b.example"),
        ),
        (
            vec![
                Client(data()),
                Server(retry()),
                Client(data()),
                Client(same()),
                Server(accept()),
                Client(data()),
            ],
            OVER,
        ),
        (
            vec![Client(record(21, &[1, 0])), Client(other())],
            names("b.example"),
        ),
    ]);
}

#[test]
fn the_plain_messages_of_tls_1_2_are_watched_until_the_cipher_changes() {
    let key_exchange_first = {
        let both = [
            &[16, 0, 0, 2, 9, 9],
            message(&[sni(b"b.example")]).as_slice(),
        ]
        .concat();
        records(&both, 1 << 14)
    };
    each(vec![
        // TLS 1.2: the key exchange is plain. Everything after ChangeCipherSpec is encrypted, even if it looks plain.
        (
            vec![
                Server(accept()),
                Client(empty(16)),
                Client(ccs()),
                Client(other()),
            ],
            OVER,
        ),
        (
            vec![Server(accept()), Client(empty(16)), Client(other())],
            names("b.example"),
        ),
        (
            vec![Server(accept()), Client(key_exchange_first)],
            names("b.example"),
        ),
        (
            vec![
                Server([empty(HELLO_REQUEST), accept()].concat()),
                Client(data()),
            ],
            OVER,
        ),
        // A server that answers something else never settles.
        (
            vec![
                Server(b"HTTP/1.1 400 \r\n\r\n".to_vec()),
                Client(data()),
                Client(other()),
            ],
            names("b.example"),
        ),
        (
            vec![
                Server(record(21, &[2, 40])),
                Client(data()),
                Client(other()),
            ],
            names("b.example"),
        ),
    ]);
}

#[test]
fn a_second_hello_is_read_as_strictly_as_the_first() {
    let bad = |error| Err(SecondHelloError::Bad(error));
    let two = extension(0, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b']);
    let split_at_type = [
        &[HANDSHAKE, 3, 1, 0, 1, 1],
        records(&message(&[sni(b"b.example")])[1..], 50).as_slice(),
    ]
    .concat();
    each(vec![
        // Split over records, from the message's type on.
        (vec![Client(hello(&[sni(NAME)], 1))], WATCHED),
        (vec![Client(split_at_type)], names("b.example")),
        (
            vec![Client(hello(&[sni(b"b.example")], 7))],
            names("b.example"),
        ),
        // No name, two names, the same extension twice, other bytes.
        (vec![Client(hello(&[], 1 << 14))], names("no host")),
        (
            vec![Client(hello(&[two], 1 << 14))],
            bad(HelloError::SeveralNames),
        ),
        (
            vec![Client(hello(&[sni(NAME), sni(NAME)], 1 << 14))],
            bad(HelloError::DuplicateExtension),
        ),
        (
            vec![Client(b"GET / HTTP/1.1\r\n".to_vec())],
            bad(HelloError::NotTls),
        ),
        (
            vec![Client(record(HANDSHAKE, &[]))],
            bad(HelloError::EmptyRecord),
        ),
        (
            vec![Client(record(HANDSHAKE, &[1, 1, 0, 0]))],
            bad(HelloError::TooLong),
        ),
        // Interrupted.
        (
            vec![Client(record(HANDSHAKE, &[1, 0])), Client(ccs())],
            Err(SecondHelloError::Interrupted),
        ),
        (
            vec![
                Server(accept()),
                Client(record(HANDSHAKE, &[1])),
                Client(data()),
            ],
            Err(SecondHelloError::Interrupted),
        ),
    ]);
}

#[test]
fn the_first_hello_without_a_name_allows_none_in_the_second() {
    let mut watch = SecondHello::new(None);
    assert_eq!(watch.client(&hello(&[], 1 << 14)), Ok(0));
    assert!(watch.client(&same()).is_err());
}

#[test]
fn no_byte_of_a_hello_goes_on_before_it_is_whole() {
    let all = [empty(16), hello(&[sni(NAME)], 40)].concat();
    let mut watch = SecondHello::new(name());
    let hello_at = empty(16).len();
    for (at, byte) in all.iter().enumerate() {
        let held = watch.client(&[*byte]).unwrap();
        let whole = at + 1 == all.len() || at + 1 == hello_at;
        let expected = match at + 1 {
            _ if whole => 0,
            // Of a record with another message, only the header waits, until its type is known.
            at if at <= 5 => at,
            at if at < hello_at => 0,
            at => at - hello_at,
        };
        assert_eq!(held, expected, "after {} bytes", at + 1);
    }
}

#[test]
fn what_is_held_back_is_bounded() {
    let long = message(&[extension(21, &vec![0; 60_000]), sni(NAME)]);
    let mut watch = SecondHello::new(name());
    // Six bytes on the wire for each of the message.
    let error = watch.client(&records(&long, 1)).unwrap_err();
    assert_eq!(error, SecondHelloError::Bad(HelloError::TooLong));
}

proptest! {
    #[test]
    fn any_bytes_come_to_the_same_in_pieces_and_hold_back_no_more_than_there_are(
        client in proptest::collection::vec(any::<u8>(), 0..200),
        retries in any::<bool>(),
        piece in 1_usize..20,
    ) {
        let client = [record(HANDSHAKE, &client), client].concat();
        let server = if retries { retry() } else { accept() };
        let said = |bytes: &[u8]| [Server(server.clone()), Client(bytes.to_vec())];
        let whole = outcome(&said(&client), usize::MAX);
        prop_assert_eq!(&outcome(&said(&client), piece), &whole);
        if let Ok((held, _)) = whole {
            prop_assert!(held <= client.len());
        }
    }
}
