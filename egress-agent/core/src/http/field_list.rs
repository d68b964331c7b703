//! How much memory a list of fields takes once the HTTP/2 library has decoded it, from its compressed bytes (HPACK,
//! RFC 7541).
//!
//! It finds where fields and strings end. It decodes no string and keeps no table.

/// Bytes of a field in a map of fields, besides its name and value.
pub const FIELD: usize = 96;

/// Bytes of memory for each compressed byte: the bytes themselves, from which names and values may be parts, and the
/// buffer for a string in Huffman's code, which the library makes twice as long as the code.
const EACH: usize = 3;

/// A list of fields as its bytes pass. A field from a table shares the table's memory.
#[derive(Clone, Debug, Default)]
pub struct FieldList {
    fields: usize,
    bytes: usize,
    next: Next,
    /// Strings of the present field that are still to come.
    strings: u8,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    /// The first one of a field, or of a change of the table's size.
    #[default]
    Field,
    /// The first one of a string.
    String,
    /// Part of an index.
    Index,
    /// Part of a string's length, of which this much is known.
    Length { value: u64, shift: u32 },
    /// In a string with so many bytes left.
    Text(u64),
}

impl FieldList {
    /// Counts the next bytes.
    pub fn read(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len();
        while let Some((byte, rest)) = bytes.split_first() {
            if let Next::Text(left) = self.next {
                let text = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.text(left - text as u64);
                bytes = &bytes[text..];
            } else {
                self.byte(*byte);
                bytes = rest;
            }
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        FIELD * self.fields + EACH * self.bytes
    }

    fn byte(&mut self, byte: u8) {
        match self.next {
            // RFC 7541 §6: indexed; literal that is added to the table; change of its size; other literals.
            Next::Field => match byte {
                0x80.. => self.field(0, byte, 0x7f),
                0x40.. => self.field(1, byte, 0x3f),
                0x20.. => {
                    self.strings = 0;
                    self.index(byte & 0x1f == 0x1f);
                }
                _ => self.field(1, byte, 0x0f),
            },
            Next::String => match byte & 0x7f {
                0x7f => {
                    self.next = Next::Length {
                        value: 0x7f,
                        shift: 0,
                    }
                }
                length => self.text(length.into()),
            },
            Next::Index => self.index(byte & 0x80 != 0),
            Next::Length { value, shift } => {
                // The library accepts no longer number than five bytes.
                let value = value.saturating_add(u64::from(byte & 0x7f) << shift.min(56));
                if byte & 0x80 != 0 {
                    self.next = Next::Length {
                        value,
                        shift: shift + 7,
                    };
                } else {
                    self.text(value);
                }
            }
            Next::Text(_) => {}
        }
    }

    /// A field with a name from a table (`mask` has the bits of its index) or as a string, and with so many values.
    fn field(&mut self, values: u8, byte: u8, mask: u8) {
        self.fields += 1;
        self.strings = values + u8::from(values > 0 && byte & mask == 0);
        self.index(byte & mask == mask);
    }

    fn index(&mut self, goes_on: bool) {
        if goes_on {
            self.next = Next::Index;
        } else {
            self.strings();
        }
    }

    fn text(&mut self, left: u64) {
        if left > 0 {
            self.next = Next::Text(left);
            return;
        }
        self.strings = self.strings.saturating_sub(1);
        self.strings();
    }

    fn strings(&mut self) {
        self.next = if self.strings > 0 {
            Next::String
        } else {
            Next::Field
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{EACH, FIELD, FieldList};

    fn count(bytes: &[u8], piece: usize) -> usize {
        let mut list = FieldList::default();
        for part in bytes.chunks(piece) {
            list.read(part);
        }
        let memory = list.memory() - EACH * bytes.len();
        assert_eq!(memory % FIELD, 0);
        memory / FIELD
    }

    #[test]
    fn fields_are_counted_however_the_bytes_are_cut() {
        // RFC 7541 Appendix C: C.2.1 to C.2.4, C.3.1, C.4.1.
        for (text, fields) in [
            ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", 1),
            ("040c2f73616d706c652f70617468", 1),
            ("100870617373776f726406736563726574", 1),
            ("82", 1),
            ("828684410f7777772e6578616d706c652e636f6d", 4),
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", 4),
            // Sizes of the table, an index of two bytes, an empty name, an empty value.
            ("203fe11f82", 1),
            ("ff8001bf", 2),
            ("0000000000010082", 3),
            ("0f8001017682", 2),
        ] {
            let bytes: Vec<_> = (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            for piece in 1..=bytes.len() {
                assert_eq!(count(&bytes, piece), fields, "{text} in parts of {piece}");
            }
        }
        let mut long = b"\0\x01a\x7f\x81\x03".to_vec();
        long.extend([0x82; 0x7f + 1 + 3 * 128]);
        assert_eq!(count(&long, 5), 1);
        long.push(0x82);
        assert_eq!(count(&long, 5), 2);
    }

    #[test]
    fn a_number_without_an_end_is_no_field() {
        let mut bytes = b"\0\x7f".to_vec();
        bytes.extend([0xff; 1000]);
        assert_eq!(count(&bytes, 7), 1);
    }
}
