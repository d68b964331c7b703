//! Watches the request bytes of one HTTP/1.1 connection for a head that frames its body twice:
//! by `content-length` and by `transfer-encoding` (RFC 9112 §6.3, the classic request smuggling).
//!
//! It is no HTTP parser: the real one refuses what is malformed. It exists because a parser that
//! follows the RFC drops the length and goes on, and then nobody behind it can tell.

/// Bytes of a line that are kept; both field names and every legal value fit.
const KEPT: usize = 128;

/// Follows one connection.
#[derive(Debug, Default)]
pub struct FramingWatch {
    place: Place,
    line: Vec<u8>,
    lines: usize,
    length: Option<u64>,
    encoded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers,
    /// The bytes make no sense here; the real parser has closed the connection or is about to.
    Lost,
}

impl FramingWatch {
    /// Takes the next bytes; true where a head among them frames its body twice. The connection is
    /// then to be closed, and nothing more is watched.
    pub fn push(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self.place {
                Place::Lost => return false,
                Place::Body(left) | Place::ChunkData(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[take..];
                    let left = left - take as u64;
                    self.place = match self.place {
                        Place::Body(_) if left == 0 => Place::Head,
                        Place::Body(_) => Place::Body(left),
                        _ if left == 0 => Place::ChunkSize,
                        _ => Place::ChunkData(left),
                    };
                }
                Place::Head | Place::ChunkSize | Place::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
                    let room = KEPT.saturating_sub(self.line.len()).min(part.len());
                    self.line.extend_from_slice(&part[..room]);
                    bytes = rest.get(1..).unwrap_or_default();
                    if end.is_some() && self.end_of_line() {
                        self.place = Place::Lost;
                        return true;
                    }
                }
            }
        }
        false
    }

    fn end_of_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        match self.place {
            Place::Head if line.is_empty() && self.lines == 0 => {}
            Place::Head if line.is_empty() => return self.end_of_head(),
            Place::Head => {
                self.lines += 1;
                self.field(line);
            }
            Place::ChunkSize => self.chunk_size(line),
            Place::Trailers if line.is_empty() => self.place = Place::Head,
            Place::Trailers | Place::Body(_) | Place::ChunkData(_) | Place::Lost => {}
        }
        false
    }

    fn field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.encoded = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // An unreadable length counts as one: the real parser refuses it.
            let length = str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            self.length = Some(length.unwrap_or(0));
        }
    }

    fn end_of_head(&mut self) -> bool {
        let (length, encoded) = (self.length.take(), std::mem::take(&mut self.encoded));
        self.lines = 0;
        self.place = match (length, encoded) {
            (Some(_), true) => return true,
            (None, true) => Place::ChunkSize,
            (Some(0) | None, false) => Place::Head,
            (Some(length), false) => Place::Body(length),
        };
        false
    }

    fn chunk_size(&mut self, line: &[u8]) {
        let digits = line
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let size = str::from_utf8(digits)
            .ok()
            .and_then(|text| u64::from_str_radix(text, 16).ok());
        self.place = match size.map(|size| (size, size.checked_add(2))) {
            Some((0, _)) => Place::Trailers,
            // The chunk and the line end behind it.
            Some((_, Some(with_line_end))) => Place::ChunkData(with_line_end),
            Some((_, None)) | None => Place::Lost,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWICE: &str =
        "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    const TWICE_OTHERWISE: &str = "POST / HTTP/1.1\ntransfer-encoding:x\nCONTENT-LENGTH:4\n\n";
    const PLAIN: &str = "GET /transfer-encoding: HTTP/1.1\r\nHost: a\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nContent-Length: 66\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn a_head_that_frames_its_body_twice_is_seen_wherever_it_stands_and_however_it_is_cut() {
        assert_eq!(TWICE.len(), 66);
        let in_chunk = format!(
            "{CHUNKED}42;a=b\r\n{TWICE}\r\n0\r\nTransfer-Encoding: x\r\nContent-Length: 9\r\n\r\n"
        );
        let in_body = format!("{LENGTH}{TWICE}");
        let long = format!(
            "GET / HTTP/1.1\r\nX: {}\r\n\r\n",
            "content-length: 1".repeat(1000)
        );
        for (bytes, expected) in [
            (TWICE.to_owned(), true),
            (TWICE_OTHERWISE.to_owned(), true),
            (format!("\r\n{PLAIN}{TWICE}"), true),
            (format!("{long}{TWICE}"), true),
            (PLAIN.to_owned(), false),
            (long.clone(), false),
            (in_body.clone(), false),
            (format!("{in_body}{TWICE}"), true),
            (in_chunk.clone(), false),
            (format!("{in_chunk}{PLAIN}"), false),
            (format!("{in_chunk}{TWICE}"), true),
            (format!("{CHUNKED}nonsense\r\n{TWICE}"), false),
            (format!("{CHUNKED}ffffffffffffffff\r\n{TWICE}"), false),
            (
                "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n".to_owned() + "abcd" + PLAIN,
                false,
            ),
        ] {
            assert_eq!(
                FramingWatch::default().push(bytes.as_bytes()),
                expected,
                "{bytes}"
            );
            let mut watch = FramingWatch::default();
            let seen = bytes.as_bytes().iter().any(|byte| watch.push(&[*byte]));
            assert_eq!(seen, expected, "byte by byte: {bytes}");
        }
    }
}
