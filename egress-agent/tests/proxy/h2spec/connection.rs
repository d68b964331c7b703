//! Rules about connections, the form of frames, and the states of streams (RFC 9113 §3 to §5, §7).

use super::Want::{Connection, Lives, Settings, Status, Stream};
use super::bytes::*;
use super::{Case, Step, case};
use crate::frames::*;

pub fn cases() -> Vec<Case> {
    [connection(), formats(), states()]
        .into_iter()
        .flatten()
        .collect()
}

fn connection() -> Vec<Case> {
    vec![
        case(
            "RFC 9113 3.4",
            "a request behind the preface",
            request(1),
            Status(200),
        ),
        case(
            "RFC 9113 3.4",
            "settings are acknowledged",
            settings(&[]),
            Settings,
        ),
        case(
            "RFC 9113 5.4.1",
            "a connection error ends the connection",
            frame(PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL]),
        ),
        ignored(
            "RFC 9113 5.5",
            "an unknown frame",
            frame(0x16, 0, 0, b"anything"),
        ),
        ignored("RFC 9113 5.5", "an unknown setting", settings(&[(0xff, 1)])),
        case(
            "RFC 9113 5.5",
            "an unknown frame within a field block",
            all(&[
                frame(HEADERS, END_STREAM, 1, &fields()),
                frame(0x16, 0, 0, b""),
            ]),
            Connection(&[PROTOCOL]),
        ),
        ignored(
            "RFC 9113 7",
            "GOAWAY with an unknown code",
            frame(GOAWAY, 0, 0, &all(&[vec![0; 4], vec![0, 0, 0, 0xff]])),
        ),
        case(
            "RFC 9113 7",
            "RST_STREAM with an unknown code",
            all(&[post(1), frame(RST_STREAM, 0, 1, &number(0xff))]),
            Lives,
        ),
    ]
}

fn formats() -> Vec<Case> {
    let big = 16 * 1024;
    vec![
        ignored(
            "RFC 9113 4.1",
            "undefined flags",
            frame(PING, 0x16, 0, &[0; 8]),
        ),
        ignored(
            "RFC 9113 4.1",
            "a reserved bit in the stream's number",
            frame(PING, 0, 1 << 31, &[0; 8]),
        ),
        case(
            "RFC 9113 4.2",
            "DATA of the largest size",
            all(&[post(1), frame(DATA, END_STREAM, 1, &vec![b'x'; big])]),
            Status(200),
        ),
        case(
            "RFC 9113 4.2",
            "DATA over the largest size",
            all(&[post(1), frame(DATA, END_STREAM, 1, &vec![b'x'; big + 1])]),
            Stream(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 4.2",
            "HEADERS over the largest size",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &vec![0x84; big + 1]),
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 4.3",
            "a field block that cannot be decoded",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40"),
            Connection(&[COMPRESSION]),
        ),
        case(
            "RFC 9113 4.3",
            "PRIORITY within a field block",
            all(&[
                frame(HEADERS, END_STREAM, 1, &fields()),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
            ]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 4.3",
            "HEADERS of another stream within a field block",
            all(&[frame(HEADERS, END_STREAM, 1, &fields()), request(3)]),
            Connection(&[PROTOCOL]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn states() -> Vec<Case> {
    let reset = |stream| frame(RST_STREAM, 0, stream, &number(8));
    let closed = || all(&[post(1), reset(1)]);
    let data = || frame(DATA, END_STREAM, 1, b"x");
    let late = |name, first: Vec<u8>, then: Vec<u8>, want| {
        // The first stream is over only when its response has come.
        let steps = vec![
            Step::Send(first),
            Step::Wait(Status(200)),
            Step::Wait(Lives),
            Step::Send(then),
            Step::Wait(want),
        ];
        script("RFC 9113 5.1", name, steps)
    };
    vec![
        case(
            "RFC 9113 5.1",
            "idle: DATA",
            data(),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1",
            "idle: RST_STREAM",
            reset(1),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1",
            "idle: WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 1, &number(100)),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1",
            "idle: CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1, &fields()),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1",
            "half-closed: DATA",
            all(&[request(1), data()]),
            Stream(&[STREAM_CLOSED]),
        ),
        case(
            "RFC 9113 5.1",
            "half-closed: HEADERS",
            all(&[request(1), request(1)]),
            Stream(&[STREAM_CLOSED]),
        ),
        case(
            "RFC 9113 5.1",
            "half-closed: CONTINUATION",
            all(&[request(1), frame(CONTINUATION, END_HEADERS, 1, &fields())]),
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        // Frames that were on their way may come behind a RST_STREAM, and are ignored then.
        case(
            "RFC 9113 5.1",
            "reset: HEADERS",
            all(&[closed(), request(1)]),
            Stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1",
            "reset: CONTINUATION",
            all(&[closed(), frame(CONTINUATION, END_HEADERS, 1, &fields())]),
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        case(
            "RFC 9113 5.1",
            "reset: PRIORITY, WINDOW_UPDATE and RST_STREAM",
            all(&[
                closed(),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
                frame(WINDOW_UPDATE, 0, 1, &number(1)),
                reset(1),
            ]),
            Lives,
        ),
        late("over: DATA", request(1), data(), Stream(&[STREAM_CLOSED])),
        late(
            "over: HEADERS",
            request(1),
            request(1),
            Connection(&[STREAM_CLOSED, PROTOCOL]),
        ),
        late(
            "over: CONTINUATION",
            request(1),
            frame(CONTINUATION, END_HEADERS, 1, &fields()),
            Connection(&[STREAM_CLOSED, PROTOCOL]),
        ),
        late(
            "over: WINDOW_UPDATE",
            request(1),
            frame(WINDOW_UPDATE, 0, 1, &number(1)),
            Lives,
        ),
        case(
            "RFC 9113 5.1.1",
            "a stream with an even number",
            request(2),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 5.1.1",
            "a stream with a lower number than one before",
            all(&[post(5), request(3)]),
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        case(
            "RFC 9113 5.1.2",
            "more streams than the server allows",
            (0..2000).flat_map(|n| post(stream(n))).collect(),
            Stream(&[PROTOCOL, REFUSED, ENHANCE_YOUR_CALM]),
        ),
    ]
}
