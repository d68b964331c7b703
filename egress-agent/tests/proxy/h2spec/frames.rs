//! Rules about each kind of frame but WINDOW_UPDATE and CONTINUATION (RFC 9113 §6).

use super::Want::{Connection, Data, Lives, Settings, Status, Stream};
use super::bytes::*;
use super::{Case, Step, case};
use crate::frames::*;

pub fn cases() -> Vec<Case> {
    [data_and_headers(), controls()]
        .into_iter()
        .flatten()
        .collect()
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn data_and_headers() -> Vec<Case> {
    let padded = |kind, pad: u8, rest: &[u8]| {
        frame(
            kind,
            PADDED | END_HEADERS | END_STREAM,
            1,
            &[&[pad], rest].concat(),
        )
    };
    let request_padded = || padded(HEADERS, 3, &[&fields()[..], &[0; 3]].concat());
    let with_priority = [&[0, 0, 0, 0, 15][..], &fields()].concat();
    let own = [&[0, 0, 0, 1, 15][..], &fields()].concat();
    vec![
        case(
            "RFC 9113 6.1",
            "DATA with padding",
            all(&[post(1), frame(DATA, PADDED | END_STREAM, 1, b"\x02ab\0\0")]),
            Status(200),
        ),
        case(
            "RFC 9113 6.1",
            "DATA on stream 0",
            frame(DATA, END_STREAM, 0, b"x"),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.1",
            "DATA with more padding than bytes",
            all(&[post(1), frame(DATA, PADDED | END_STREAM, 1, b"\x06test")]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.2",
            "HEADERS with padding",
            request_padded(),
            Status(200),
        ),
        case(
            "RFC 9113 6.2",
            "HEADERS with a priority",
            frame(
                HEADERS,
                WITH_PRIORITY | END_HEADERS | END_STREAM,
                1,
                &with_priority,
            ),
            Status(200),
        ),
        // RFC 7540 5.3.1 made it an error; RFC 9113 5.3.2 lets a server ignore priorities.
        case(
            "RFC 9113 5.3",
            "HEADERS that depend on themselves",
            all(&[
                frame(HEADERS, WITH_PRIORITY | END_HEADERS | END_STREAM, 1, &own),
                request(3),
            ]),
            Stream(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.2",
            "HEADERS on stream 0",
            request(0),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.2",
            "HEADERS with more padding than bytes",
            padded(HEADERS, 0xff, &fields()),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.2",
            "DATA within a field block",
            all(&[
                frame(HEADERS, 0, 1, &fields()),
                frame(DATA, END_STREAM, 1, b"x"),
            ]),
            Connection(&[PROTOCOL]),
        ),
        ignored(
            "RFC 9113 6.3",
            "PRIORITY",
            frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
        ),
        case(
            "RFC 9113 6.3",
            "PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.3",
            "PRIORITY of another length",
            all(&[post(1), frame(PRIORITY, 0, 1, &[0; 4])]),
            Stream(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 8.1",
            "PUSH_PROMISE of a client",
            all(&[
                post(1),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&number(2)[..], &fields()].concat(),
                ),
            ]),
            Connection(&[PROTOCOL]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn controls() -> Vec<Case> {
    vec![
        case(
            "RFC 9113 6.4",
            "RST_STREAM of a stream",
            all(&[post(1), frame(RST_STREAM, 0, 1, &number(8))]),
            Lives,
        ),
        case(
            "RFC 9113 6.4",
            "RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &number(8)),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.4",
            "RST_STREAM of another length",
            all(&[post(1), frame(RST_STREAM, 0, 1, &[0; 3])]),
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 6.5",
            "SETTINGS",
            settings(&[(1, 0), (2, 0), (3, 50), (4, 70_000), (5, 20_000), (6, 9000)]),
            Settings,
        ),
        case(
            "RFC 9113 6.5",
            "an acknowledgement with a payload",
            frame(SETTINGS, 1, 0, &[0; 6]),
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 6.5",
            "SETTINGS on a stream",
            all(&[post(1), frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 9])]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.5",
            "SETTINGS of another length",
            frame(SETTINGS, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 6.5.2",
            "ENABLE_PUSH over 1",
            settings(&[(2, 2)]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.5.2",
            "INITIAL_WINDOW_SIZE over the largest window",
            settings(&[(4, 1 << 31)]),
            Connection(&[FLOW_CONTROL]),
        ),
        case(
            "RFC 9113 6.5.2",
            "MAX_FRAME_SIZE below the least",
            settings(&[(5, 16_383)]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.5.2",
            "MAX_FRAME_SIZE over the most",
            settings(&[(5, 1 << 24)]),
            Connection(&[PROTOCOL]),
        ),
        script(
            "RFC 9113 6.5.3",
            "the last of two equal settings counts",
            vec![
                Step::Send(all(&[settings(&[(4, 100), (4, 1)]), request(1)])),
                Step::Wait(Data(1)),
            ],
        ),
        case("RFC 9113 6.7", "PING", Vec::new(), Lives),
        case(
            "RFC 9113 6.7",
            "the answer to a PING that nobody sent",
            frame(PING, 1, 0, b"answered"),
            Lives,
        ),
        case(
            "RFC 9113 6.7",
            "PING on a stream",
            all(&[post(1), frame(PING, 0, 1, &[0; 8])]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.7",
            "PING of another length",
            frame(PING, 0, 0, &[0; 6]),
            Connection(&[FRAME_SIZE]),
        ),
        case(
            "RFC 9113 6.8",
            "GOAWAY on a stream",
            all(&[post(1), frame(GOAWAY, 0, 1, &[0; 8])]),
            Connection(&[PROTOCOL]),
        ),
    ]
}
