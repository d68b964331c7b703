//! Rules about windows and CONTINUATION (RFC 9113 §6.9, §6.10).

use super::Want::{Connection, Data, Status, Stream};
use super::bytes::*;
use super::{Case, Step, case};
use crate::frames::*;

pub fn cases() -> Vec<Case> {
    [windows(), continuation()].into_iter().flatten().collect()
}

fn windows() -> Vec<Case> {
    let update = |stream, value| frame(WINDOW_UPDATE, 0, stream, &number(value));
    let most = (1_u32 << 31) - 1;
    vec![
        case(
            "RFC 9113 6.9",
            "an update of the connection by 0",
            update(0, 0),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.9",
            "an update of a stream by 0",
            all(&[post(1), update(1, 0)]),
            Stream(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.9",
            "WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE]),
        ),
        script(
            "RFC 9113 6.9.1",
            "a window of one byte",
            vec![
                Step::Send(all(&[settings(&[(4, 1)]), request(1)])),
                Step::Wait(Data(1)),
                Step::Send(update(1, 2)),
                Step::Wait(Data(3)),
            ],
        ),
        case(
            "RFC 9113 6.9.1",
            "the connection's window grows over the most",
            all(&[update(0, most), update(0, most)]),
            Connection(&[FLOW_CONTROL]),
        ),
        case(
            "RFC 9113 6.9.1",
            "a stream's window grows over the most",
            all(&[post(1), update(1, most), update(1, most)]),
            Stream(&[FLOW_CONTROL]),
        ),
        script(
            "RFC 9113 6.9.2",
            "a new initial window holds for open streams",
            vec![
                Step::Send(all(&[settings(&[(4, 0)]), request(1)])),
                Step::Wait(Data(0)),
                Step::Send(settings(&[(4, 1)])),
                Step::Wait(Data(1)),
            ],
        ),
        script(
            "RFC 9113 6.9.2",
            "a window may become negative",
            vec![
                Step::Send(all(&[settings(&[(4, 3)]), request(1)])),
                Step::Wait(Data(3)),
                Step::Send(all(&[settings(&[(4, 2)]), update(1, 2)])),
                Step::Wait(Data(4)),
            ],
        ),
    ]
}

fn continuation() -> Vec<Case> {
    let block = fields();
    let (first, rest) = block.split_at(2);
    let open = || frame(HEADERS, END_STREAM, 1, first);
    let last = |stream| frame(CONTINUATION, END_HEADERS, stream, rest);
    vec![
        case(
            "RFC 9113 6.10",
            "several CONTINUATIONs",
            all(&[
                open(),
                frame(CONTINUATION, 0, 1, &rest[..1]),
                frame(CONTINUATION, END_HEADERS, 1, &rest[1..]),
            ]),
            Status(200),
        ),
        case(
            "RFC 9113 6.10",
            "another frame between CONTINUATIONs",
            all(&[
                open(),
                frame(CONTINUATION, 0, 1, &rest[..1]),
                frame(PING, 0, 0, &[0; 8]),
            ]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.10",
            "CONTINUATION on stream 0",
            all(&[open(), last(0)]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.10",
            "CONTINUATION of another stream",
            all(&[open(), last(3)]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.10",
            "CONTINUATION behind a whole field block",
            all(&[frame(HEADERS, END_HEADERS, 1, &block), last(1)]),
            Connection(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 6.10",
            "CONTINUATION behind DATA",
            all(&[post(1), frame(DATA, 0, 1, b"x"), last(1)]),
            Connection(&[PROTOCOL]),
        ),
    ]
}
