//! When a head that is not whole yet is parsed again.
//!
//! It parses nothing.

/// Counts the bytes of one head.
#[derive(Debug, Default)]
pub struct Looks {
    /// The number of bytes that contain no end of a head.
    searched: usize,
    /// The number of bytes at which an unfinished head is parsed again.
    next: usize,
}

impl Looks {
    /// Whether no byte was looked at.
    pub fn is_fresh(&self) -> bool {
        self.searched == 0
    }

    /// Whether to parse these bytes of a head, of which at most `limit` are allowed: if the head may have ended, if it is
    /// too long, and else each time its length has doubled. This finds malformed bytes early, and limits the work for a
    /// slow peer.
    pub fn is_due(&mut self, raw: &[u8], limit: usize) -> bool {
        let from = self.searched.saturating_sub(3);
        let ended = ends_head(&raw[from..]);
        self.searched = raw.len();
        if !ended && raw.len() < self.next && raw.len() <= limit {
            return false;
        }
        self.next = raw.len() * 2;
        true
    }
}

/// Whether an empty line is among these bytes. A bare LF ends a line too (RFC 9112 §2.2).
fn ends_head(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::MAX_HEAD;

    /// How often a head that arrives byte by byte is parsed.
    fn looks(head: &[u8], limit: usize) -> usize {
        let mut looks = Looks::default();
        let due = |end: &usize| looks.is_due(&head[..*end], limit);
        (1..=head.len()).filter(due).count()
    }

    #[test]
    fn a_head_byte_by_byte_is_parsed_a_few_times() {
        let lines = "a: b\r\n".repeat(10_000);
        for end in ["\r\n", "\n"] {
            let head = format!("HTTP/1.1 200 OK\r\n{lines}{end}");
            assert_eq!(looks(head.as_bytes(), MAX_HEAD), 17, "{end:?}");
        }
        assert_eq!(looks(b"HTTP/1.1 200 OK\n\n", MAX_HEAD), 6);
        // Behind the limit each byte is looked at; the first of them ends the connection.
        assert_eq!(looks(&[b'a'; 20], 16), 9);
    }
}
