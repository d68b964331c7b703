//! HTTP/1.1 messages as they were on the wire: the parser for what clients and origins of this suite received.
//!
//! It keeps everything that it reads, and fails on nothing: what is not a message is kept as text.

/// What kind of message the bytes begin with.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    Request,
    /// The answer to a request with this method.
    Response(&'a str),
}

/// A head with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    pub start: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Whether everything was there that the framing announced.
    pub whole: bool,
}

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The status of a response; 0 if it is none.
    pub fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    fn chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|coding| coding.to_ascii_lowercase().ends_with("chunked"))
    }
}

/// The first message of `bytes`, and how many bytes it takes. `None` if its head is not there yet. At the end of the
/// connection (`ended`), a message that is not whole is returned as far as it came.
pub fn first(bytes: &[u8], kind: Kind<'_>, ended: bool) -> Option<(Message, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let mut message = head(&bytes[..end]);
    let from = end + 4;
    let rest = &bytes[from..];
    let endless = match kind {
        Kind::Request => false,
        Kind::Response(method) => match message.status() {
            101 => true,
            100..200 | 204 | 304 => return Some((whole(message), from)),
            _ if method == "HEAD" => return Some((whole(message), from)),
            200..300 if method == "CONNECT" => true,
            _ => message.header("content-length").is_none() && !message.chunked(),
        },
    };
    let used = if endless {
        message.whole = ended;
        message.body = rest.to_vec();
        rest.len()
    } else if message.chunked() {
        chunks(&mut message, rest)
    } else {
        let length = message
            .header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        message.whole = rest.len() >= length;
        message.body = rest[..length.min(rest.len())].to_vec();
        message.body.len()
    };
    Some((message, from + used))
}

fn whole(mut message: Message) -> Message {
    message.whole = true;
    message
}

fn head(bytes: &[u8]) -> Message {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split("\r\n");
    Message {
        start: lines.next().unwrap_or_default().to_owned(),
        headers: lines.map(field).collect(),
        ..Message::default()
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_ascii_lowercase(), value.trim().to_owned())
}

/// Reads the chunks of a body, and returns how many bytes they took.
fn chunks(message: &mut Message, bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else {
            return bytes.len();
        };
        let text = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let size = text.split(';').next().unwrap_or_default().trim().to_owned();
        let Ok(size) = usize::from_str_radix(&size, 16) else {
            return bytes.len();
        };
        at += line + 2;
        if size > 0 {
            let Some(data) = bytes.get(at..at + size) else {
                message.body.extend_from_slice(&bytes[at..]);
                return bytes.len();
            };
            message.body.extend_from_slice(data);
            at = (at + size + 2).min(bytes.len());
            continue;
        }
        loop {
            let Some(line) = find(&bytes[at..], b"\r\n") else {
                return bytes.len();
            };
            let text = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
            at += line + 2;
            if text.is_empty() {
                message.whole = true;
                return at;
            }
            message.trailers.push(field(&text));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|part| part == what)
}
