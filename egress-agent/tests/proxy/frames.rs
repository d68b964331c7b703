//! Raw HTTP/2 frames (RFC 9113 §6), and peers that send as many as they can.

use crate::raw::Raw;
use crate::support::{HOST, PATIENCE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The client's preface, and its first frame.
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, b""));
    bytes
}

/// The fields of a GET request.
pub fn fields() -> Vec<u8> {
    fields_to(HOST)
}

pub fn fields_to(host: &str) -> Vec<u8> {
    // From the static table: GET, http, and /. The authority is not put into a table.
    let mut fields = b"\x82\x86\x84\x01".to_vec();
    fields.push(u8::try_from(host.len()).unwrap());
    fields.extend(host.as_bytes());
    fields
}

/// Fields of one byte each: `accept-charset` without a value, from the static table.
pub fn long(count: usize) -> Vec<u8> {
    vec![0x8f; count]
}

/// A whole request without a body.
pub fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields())
}

/// The same, as the first one to a host.
pub fn request_to(host: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields_to(host))
}

/// The stream of the request with this number.
pub fn stream(number: u32) -> u32 {
    2 * number + 1
}

/// How a connection ended.
#[derive(Debug, Default)]
pub struct End {
    /// The peer's last GOAWAY.
    pub code: Option<u32>,
    /// Bytes that came.
    pub got: usize,
}

/// Sends `first`, then frames until the peer closes or there are `most`. Reads all the time.
pub async fn flood(
    raw: Raw,
    first: Vec<u8>,
    most: u32,
    frames: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> End {
    let (mut read, mut write) = raw.stream.into_split();
    let writing = tokio::spawn(async move {
        let mut open = write.write_all(&first).await.is_ok();
        for number in 0..most {
            open = open && write.write_all(&frames(number)).await.is_ok();
        }
        // The peer decides when it ends.
        std::future::pending::<()>().await;
        drop(write);
    });
    let mut end = End::default();
    let mut bytes = Vec::new();
    while let Ok(1..) = timeout(PATIENCE, read.read_buf(&mut bytes))
        .await
        .expect("the end of the connection")
    {
        while bytes.len() >= 9 {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            if bytes.len() < 9 + length {
                break;
            }
            let whole: Vec<u8> = bytes.drain(..9 + length).collect();
            end.got += whole.len();
            if whole[3] == GOAWAY {
                end.code = Some(u32::from_be_bytes(whole[13..17].try_into().unwrap()));
            }
        }
    }
    writing.abort();
    end
}
