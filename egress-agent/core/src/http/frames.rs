//! The frames of one direction of an HTTP/2 connection as bytes pass: type, flags, stream and length of each (RFC 9113
//! §4.1).
//!
//! It keeps no payload, and does not check that a frame is valid.

/// Bytes of the head of a frame.
const HEAD: usize = 9;
/// Bytes that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: u32 = 24;

/// Bytes about the priority of a stream (RFC 9113 §6.2).
const PRIORITY: u32 = 5;

/// Frame types (RFC 9113 §6).
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// The fields of a request or response, or of its trailers.
    pub const HEADERS: u8 = 1;
    /// Deprecated, but still sent.
    pub const PRIORITY: u8 = 2;
    /// Announces a response that was not asked for.
    pub const PUSH_PROMISE: u8 = 5;
    /// Allows the peer to send more.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The next part of a list of fields.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of a frame.
pub mod flag {
    /// The last frame of its stream.
    pub const END_STREAM: u8 = 1;
    /// The last part of a list of fields.
    pub const END_HEADERS: u8 = 4;
    /// The payload begins with the length of the padding at its end.
    pub const PADDED: u8 = 8;
    /// A list of fields begins after five bytes about the stream's priority.
    pub const PRIORITY: u8 = 0x20;
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// Bytes of the payload without padding.
    pub length: u32,
}

impl Frame {
    /// Whether all these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Bytes that are still to come: of the preface or before the content of a payload, of its content, and of its
    /// padding.
    before: u32,
    content: u32,
    padding: u32,
    /// The head, and the length of the padding.
    head: [u8; HEAD + 1],
    filled: usize,
}

impl FrameReader {
    /// Of the direction from client to server.
    pub fn after_preface() -> Self {
        Self {
            before: PREFACE,
            ..Self::default()
        }
    }

    /// The next frame whose head is complete. `None` once all bytes are read. Takes the bytes that it reads.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        self.content(bytes);
        skip(bytes, &mut self.padding);
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            self.head[self.filled] = *byte;
            self.filled += 1;
            if self.filled >= HEAD && self.filled == self.wanted() {
                return Some(self.take());
            }
        }
        None
    }

    /// What `bytes` begins with of the content of the last frame: its payload without padding, and without the priority
    /// of a stream. Takes the bytes that it reads.
    pub fn content<'a>(&mut self, bytes: &mut &'a [u8]) -> &'a [u8] {
        skip(bytes, &mut self.before);
        skip(bytes, &mut self.content)
    }

    /// Whether all content of the last frame was taken.
    pub fn is_whole(&self) -> bool {
        self.before == 0 && self.content == 0
    }

    /// Bytes of the head, with the length of the padding.
    fn wanted(&self) -> usize {
        let [_, _, _, kind, flags, ..] = self.head;
        let padded = matches!(kind, kind::DATA | kind::HEADERS) && flags & flag::PADDED != 0;
        HEAD + usize::from(padded && self.payload() > 0)
    }

    fn payload(&self) -> u32 {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c])
    }

    fn take(&mut self) -> Frame {
        let [_, _, _, kind, flags, s1, s2, s3, s4, padding] = self.head;
        let mut length = self.payload();
        self.padding = 0;
        if self.filled > HEAD {
            self.padding = u32::from(padding).min(length - 1);
            length -= 1 + self.padding;
        }
        self.filled = 0;
        let has_priority = kind == kind::HEADERS && flags & flag::PRIORITY != 0;
        self.before = if has_priority {
            PRIORITY.min(length)
        } else {
            0
        };
        self.content = length - self.before;
        Frame {
            kind,
            flags,
            // The first bit is reserved.
            stream: u32::from_be_bytes([s1, s2, s3, s4]) & (u32::MAX >> 1),
            length,
        }
    }
}

/// Takes up to `count` of the first bytes, and counts them.
fn skip<'a>(bytes: &mut &'a [u8], count: &mut u32) -> &'a [u8] {
    let taken = bytes.len().min(*count as usize);
    let (part, rest) = bytes.split_at(taken);
    *bytes = rest;
    *count -= u32::try_from(taken).unwrap_or(*count);
    part
}

#[cfg(test)]
mod tests {
    use super::{Frame, FrameReader, flag, kind};

    #[test]
    fn the_content_of_a_frame_has_no_padding_and_no_priority() {
        let mut bytes = b"\0\0\x0b\x01\x28\0\0\0\x01\x02ppppPabcxx".to_vec();
        bytes.extend(b"\0\0\x02\x09\x04\0\0\0\x01de");
        bytes.extend(b"\0\0\x03\x01\x24\0\0\0\x03ppp");
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for mut part in bytes.chunks(size) {
                loop {
                    found.extend_from_slice(reader.content(&mut part));
                    if reader.next(&mut part).is_none() {
                        break;
                    }
                }
            }
            assert_eq!(found, b"abcde", "in parts of {size}");
        }
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(b"\0\0\0\x04\0\0\0\0\0");
        bytes.extend(b"\0\0\x03\x01\x04\x80\0\0\x05abc");
        // A byte of content and two of padding.
        bytes.extend(b"\0\0\x04\0\x08\0\0\0\x05\x02x\0\0");
        bytes.extend(b"\0\0\x01\0\x09\0\0\0\x05\0");
        bytes.extend(b"\0\0\0\0\x08\0\0\0\x05");
        let frame = |kind, flags, stream, length| Frame {
            kind,
            flags,
            stream,
            length,
        };
        let expected = [
            frame(4, 0, 0, 0),
            frame(kind::HEADERS, flag::END_HEADERS, 5, 3),
            frame(kind::DATA, flag::PADDED, 5, 1),
            frame(kind::DATA, flag::PADDED | flag::END_STREAM, 5, 0),
            frame(kind::DATA, flag::PADDED, 5, 0),
        ];
        for size in 1..=bytes.len() {
            let mut reader = FrameReader::after_preface();
            let mut found = Vec::new();
            for mut part in bytes.chunks(size) {
                while let Some(frame) = reader.next(&mut part) {
                    found.push(frame);
                }
            }
            assert_eq!(found, expected, "in parts of {size}");
        }
    }
}
