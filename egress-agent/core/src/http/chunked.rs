//! Finds the end of a chunked body (RFC 9112 §7.1) as it passes, and rejects a body that two
//! readers could frame differently.
//!
//! The HTTP library decodes the body. This reader is at least as strict as the library, so that
//! both see the end of the body at the same byte.

use thiserror::Error;

/// The most bytes of all chunk extensions of one body, and of all its trailers.
const MAX_EXTRA: usize = 16 * 1024;

/// A body that breaks the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the chunked body is malformed at {0}")]
pub struct ChunkError(&'static str);

/// The result for a piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes that belong to the body.
    pub used: usize,
    /// Whether the body ends with them.
    pub ended: bool,
}

/// Follows one body.
#[derive(Debug, Default)]
pub struct ChunkScanner {
    place: Place,
    size: u64,
    extra: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the first digit of a size.
    #[default]
    Size,
    /// After a digit.
    Digits,
    /// After the size.
    Padding,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a trailer, or of the last line.
    Line,
    Trailer,
    TrailerLf,
    LastLf,
}

impl ChunkScanner {
    /// Takes the next bytes. Do not use the scanner after an error or after the end.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Scanned, ChunkError> {
        let mut at = 0;
        while at < bytes.len() {
            if self.place == Place::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let take = left.min(bytes.len() - at);
                at += take;
                self.size -= take as u64;
                if self.size == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            if self.step(byte)? {
                let ended = true;
                return Ok(Scanned { used: at, ended });
            }
        }
        let ended = false;
        Ok(Scanned { used: at, ended })
    }

    /// Takes one byte that is not data; true at the last one.
    fn step(&mut self, byte: u8) -> Result<bool, ChunkError> {
        self.place = match (self.place, byte) {
            (Place::Size | Place::Digits, digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).unwrap_or_default();
                let size = self.size.checked_mul(16);
                self.size = size.ok_or(ChunkError("a size over 64 bits"))? | u64::from(digit);
                Place::Digits
            }
            (Place::Digits | Place::Padding, b' ' | b'\t') => self.more(Place::Padding)?,
            (Place::Digits | Place::Padding | Place::Extension, b'\r') => Place::SizeLf,
            (Place::Digits | Place::Padding, b';')
            | (Place::Extension, b'\t' | 0x20..=0x7e | 0x80..) => self.more(Place::Extension)?,
            (Place::SizeLf, b'\n') if self.size == 0 => Place::Line,
            (Place::SizeLf, b'\n') => Place::Data,
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size,
            (Place::Line, b'\r') => Place::LastLf,
            (Place::Trailer, b'\r') => Place::TrailerLf,
            (Place::TrailerLf, b'\n') => Place::Line,
            (Place::LastLf, b'\n') => return Ok(true),
            (Place::Line, b'!'..=b'~') | (Place::Trailer, b'\t' | 0x20..=0x7e | 0x80..) => {
                self.more(Place::Trailer)?
            }
            (Place::Size | Place::Digits | Place::Padding, _) => {
                return Err(ChunkError("a size"));
            }
            (Place::Extension | Place::SizeLf, _) => return Err(ChunkError("an extension")),
            (Place::Data | Place::DataCr | Place::DataLf, _) => {
                return Err(ChunkError("the end of a chunk"));
            }
            (Place::Line | Place::Trailer | Place::TrailerLf | Place::LastLf, _) => {
                return Err(ChunkError("a trailer"));
            }
        };
        Ok(false)
    }

    fn more(&mut self, place: Place) -> Result<Place, ChunkError> {
        self.extra += 1;
        if self.extra > MAX_EXTRA {
            return Err(ChunkError("more than 16 KiB of extensions or trailers"));
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece and byte by byte; what is left over after the end.
    fn scan(body: &str) -> Result<Option<&str>, ChunkError> {
        let whole = ChunkScanner::default().scan(body.as_bytes());
        let mut scanner = ChunkScanner::default();
        let mut used = 0;
        let split = loop {
            match body.as_bytes().get(used) {
                None => break Ok(Scanned { used, ended: false }),
                Some(byte) => match scanner.scan(&[*byte]) {
                    Ok(Scanned { ended: true, .. }) => {
                        let (used, ended) = (used + 1, true);
                        break Ok(Scanned { used, ended });
                    }
                    Ok(_) => used += 1,
                    Err(error) => break Err(error),
                },
            }
        };
        assert_eq!(whole, split, "{body:?}");
        whole.map(|scanned| scanned.ended.then(|| &body[scanned.used..]))
    }

    #[test]
    fn the_end_of_a_body_is_found_and_what_follows_is_not_part_of_it() {
        for body in [
            "0\r\n\r\n",
            "000\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "00000000000000000003\r\nabc\r\n0\r\n\r\n",
            "A\r\n0\r\n\r\n56789\r\n0\r\n\r\n",
            "3 ;a=b; c=\"d\"\r\nabc\r\n0;x\r\n\r\n",
            "3 \t\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\nx-sum: 1\r\nhost: a\r\n\r\n",
        ] {
            assert_eq!(scan(body), Ok(Some("")), "{body:?}");
            let followed = format!("{body}GET /");
            assert_eq!(scan(&followed), Ok(Some("GET /")), "{body:?}");
            let cut = &body[..body.len() - 1];
            assert_eq!(scan(cut), Ok(None), "{cut:?}");
        }
    }

    #[test]
    fn what_two_readers_could_frame_differently_is_an_error() {
        let long = format!("1;{}\r\n", "a".repeat(MAX_EXTRA));
        for body in [
            "\r\nabc",
            " 3\r\nabc",
            "xyz\r\n",
            "0x3\r\n",
            "-1\r\n",
            "+1\r\n",
            "3\nabc\r\n",
            "3\r\nabcX\r\n",
            "3\r\nabc\n0",
            "3;a\nb\r\n",
            "3;a\rb\r\n",
            "3;a\0\r\n",
            "3 3\r\n",
            "fffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\n x: 1\r\n\r\n",
            "0\r\nx: 1\n\r\n",
            "0\r\nx: \r1\r\n\r\n",
            &long,
        ] {
            assert!(scan(body).is_err(), "{body:?}");
        }
    }
}
