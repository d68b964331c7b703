//! Bounds on the frames of an HTTP/2 peer that carry no request, no response and no body.
//!
//! The bounds are Envoy's where it has them (`ProtocolConstraints`). The HTTP/2 library bounds the parts of a list of
//! fields, and resets of streams that it has not handed out.

use super::frames::{Frame, flag, kind};
use std::time::Duration;
use thiserror::Error;

/// Frames with no content in a row (`max_consecutive_inbound_frames_with_empty_payload`).
const EMPTY: u32 = 1;
/// PRIORITY frames for each stream (`max_inbound_priority_frames_per_stream`).
const PRIORITY: u64 = 100;
/// WINDOW_UPDATE frames before the first stream, for each stream, and for each DATA frame that was sent
/// (`max_inbound_window_update_frames_per_data_frame_sent` is half of the last).
const WINDOW_UPDATE: (u64, u64, u64) = (5, 2, 20);

/// PING, SETTINGS, RST_STREAM and other such frames at one time. Envoy bounds its unsent answers to them by the same
/// number (`max_outbound_control_frames`).
const CONTROL: Allowance = Allowance {
    most: 1000,
    each_second: 100,
};
/// Such frames that each stream, and each DATA frame in either direction, allows: gRPC peers measure the way with PING
/// frames while they receive.
const CONTROL_EARNED: u32 = 2;

/// Lists of fields of an origin beyond those of its responses: 1xx responses and trailers.
const HEADS: Allowance = Allowance {
    most: 64,
    each_second: 10,
};
/// Lists of fields that each request allows.
const HEADS_EARNED: u32 = 3;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flood {
    /// More frames for the connection itself than its streams, its bodies and time allow.
    #[error("too many PING, SETTINGS, RST_STREAM or other control frames")]
    Control,
    /// Frames that carry nothing and end nothing.
    #[error("too many frames without content in a row")]
    Empty,
    /// More than a hundred for each stream.
    #[error("too many PRIORITY frames")]
    Priority,
    /// More than the DATA frames that the peer got explain.
    #[error("too many WINDOW_UPDATE frames")]
    WindowUpdate,
    /// More lists of fields from an origin than its responses need.
    #[error("too many 1xx responses")]
    Heads,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Client,
    Origin,
}

/// What the frames of a connection have used of their bounds.
#[derive(Debug)]
pub struct FloodLimit {
    peer: Peer,
    streams: u64,
    last_stream: u32,
    data_sent: u64,
    empty: u32,
    priority: u64,
    window_updates: u64,
    control: Spent,
    heads: Spent,
    in_block: bool,
}

impl FloodLimit {
    /// Of a connection whose peer is a client.
    pub fn of_client() -> Self {
        Self::new(Peer::Client)
    }

    /// Of a connection whose peer is an origin.
    pub fn of_origin() -> Self {
        Self::new(Peer::Origin)
    }

    fn new(peer: Peer) -> Self {
        Self {
            peer,
            streams: 0,
            last_stream: 0,
            data_sent: 0,
            empty: 0,
            priority: 0,
            window_updates: 0,
            control: Spent::default(),
            heads: Spent::default(),
            in_block: false,
        }
    }

    /// Whether the peer has begun a list of fields and not finished it.
    pub fn in_block(&self) -> bool {
        self.in_block
    }

    /// Whether a frame of the peer begins a stream.
    pub fn opens(&self, frame: &Frame) -> bool {
        self.peer == Peer::Client && frame.kind == kind::HEADERS && frame.stream > self.last_stream
    }

    /// Counts a frame of the peer. `now` is the time since any fixed moment.
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn received(&mut self, frame: &Frame, now: Duration) -> Result<(), Flood> {
        match frame.kind {
            kind::DATA => {
                self.content(frame)?;
                self.control
                    .earn(u32::from(frame.length > 0) * CONTROL_EARNED);
            }
            kind::HEADERS => {
                self.content(frame)?;
                self.in_block = !frame.has(flag::END_HEADERS);
                match self.peer {
                    _ if self.opens(frame) => self.opened(frame.stream),
                    Peer::Client => self.control(now)?,
                    Peer::Origin => self.heads.take(HEADS, now).ok_or(Flood::Heads)?,
                }
            }
            kind::CONTINUATION => {
                self.content(frame)?;
                self.in_block = !frame.has(flag::END_HEADERS);
            }
            kind::PRIORITY => {
                self.priority += 1;
                if self.priority > PRIORITY * (1 + self.streams) {
                    return Err(Flood::Priority);
                }
            }
            kind::WINDOW_UPDATE => {
                self.window_updates += 1;
                let (first, stream, data) = WINDOW_UPDATE;
                if self.window_updates > first + stream * self.streams + data * self.data_sent {
                    return Err(Flood::WindowUpdate);
                }
            }
            other => {
                self.in_block |= other == kind::PUSH_PROMISE && !frame.has(flag::END_HEADERS);
                self.control(now)?;
            }
        }
        Ok(())
    }

    /// Counts a frame that the peer gets.
    pub fn sent(&mut self, frame: &Frame) {
        match frame.kind {
            kind::DATA => {
                self.data_sent += 1;
                self.control.earn(CONTROL_EARNED);
            }
            kind::HEADERS if self.peer == Peer::Origin && frame.stream > self.last_stream => {
                self.opened(frame.stream);
                self.heads.earn(HEADS_EARNED);
            }
            _ => {}
        }
    }

    fn opened(&mut self, stream: u32) {
        self.last_stream = stream;
        self.streams += 1;
        self.control.earn(CONTROL_EARNED);
    }

    fn content(&mut self, frame: &Frame) -> Result<(), Flood> {
        if frame.length > 0 || frame.has(flag::END_STREAM) {
            self.empty = 0;
            return Ok(());
        }
        self.empty += 1;
        if self.empty > EMPTY {
            return Err(Flood::Empty);
        }
        Ok(())
    }

    fn control(&mut self, now: Duration) -> Result<(), Flood> {
        self.control.take(CONTROL, now).ok_or(Flood::Control)
    }
}

/// So many at one time, and so many more with each second.
#[derive(Clone, Copy)]
struct Allowance {
    most: u32,
    each_second: u32,
}

/// What is spent of an allowance.
#[derive(Debug, Default)]
struct Spent {
    count: u32,
    /// When time last gave some back.
    since: Duration,
}

impl Spent {
    fn earn(&mut self, count: u32) {
        self.count = self.count.saturating_sub(count);
    }

    fn take(&mut self, allowed: Allowance, now: Duration) -> Option<()> {
        if self.count == 0 {
            self.since = now;
        }
        if self.count >= allowed.most {
            let seconds = now.saturating_sub(self.since).as_secs_f64();
            let back = seconds * f64::from(allowed.each_second);
            if back < 1.0 {
                return None;
            }
            self.since = now;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is not negative, and a cast to an integer saturates"
            )]
            self.earn(back as u32);
        }
        self.count += 1;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Flood, FloodLimit, Frame, flag, kind};
    use std::time::Duration;

    const PING: u8 = 6;

    fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Frame {
        Frame {
            kind,
            flags,
            stream,
            length,
        }
    }

    /// How many of `frame` pass in an instant.
    fn pass(limit: &mut FloodLimit, frame: &Frame, now: Duration) -> (usize, Option<Flood>) {
        for count in 0..100_000 {
            if let Err(flood) = limit.received(frame, now) {
                return (count, Some(flood));
            }
        }
        (100_000, None)
    }

    #[test]
    fn each_kind_of_frame_has_its_bound() {
        for (kind, flags, stream, length, count, flood) in [
            (PING, 0, 0, 8, 1000, Flood::Control),
            (4, 0, 0, 6, 1000, Flood::Control),
            (3, 0, 1, 4, 1000, Flood::Control),
            (0xfe, 0, 0, 100, 1000, Flood::Control),
            (kind::PRIORITY, 0, 3, 5, 100, Flood::Priority),
            (kind::WINDOW_UPDATE, 0, 0, 4, 5, Flood::WindowUpdate),
            (kind::DATA, 0, 1, 0, 1, Flood::Empty),
            (kind::CONTINUATION, 0, 1, 0, 1, Flood::Empty),
        ] {
            for mut limit in [FloodLimit::of_client(), FloodLimit::of_origin()] {
                let frame = frame(kind, flags, stream, length);
                let found = pass(&mut limit, &frame, Duration::ZERO);
                assert_eq!(found, (count, Some(flood)), "{frame:?}");
            }
        }
        let interim = frame(kind::HEADERS, flag::END_HEADERS, 1, 2);
        let mut origin = FloodLimit::of_origin();
        origin.sent(&interim);
        assert_eq!(
            pass(&mut origin, &interim, Duration::ZERO),
            (64, Some(Flood::Heads))
        );
    }

    #[test]
    fn a_peer_that_does_its_work_has_no_bound() {
        let head = flag::END_HEADERS | flag::END_STREAM;
        let mut client = FloodLimit::of_client();
        let mut origin = FloodLimit::of_origin();
        for number in 0..200_000 {
            let stream = 2 * number + 1;
            let request = frame(kind::HEADERS, head, stream, 40);
            // Each request is cancelled, and its response is measured and acknowledged.
            let more = [
                frame(kind::WINDOW_UPDATE, 0, 0, 4),
                frame(kind::WINDOW_UPDATE, 0, stream, 4),
                frame(PING, 0, 0, 8),
                frame(3, 0, stream, 4),
            ];
            client.received(&request, Duration::ZERO).unwrap();
            origin.sent(&request);
            for limit in [&mut client, &mut origin] {
                limit.sent(&frame(kind::DATA, 0, stream, 10));
                for frame in &more {
                    limit.received(frame, Duration::ZERO).unwrap();
                }
            }
            for length in [40, 20] {
                let response = frame(kind::HEADERS, flag::END_HEADERS, stream, length);
                origin.received(&response, Duration::ZERO).unwrap();
            }
        }
    }

    #[test]
    fn time_gives_control_frames_back() {
        let ping = frame(PING, 0, 0, 8);
        let mut limit = FloodLimit::of_client();
        // A stream without an end whose client asks every 10 ms for a day.
        for number in 0..8_640_000 {
            let now = Duration::from_millis(10 * number);
            limit.received(&ping, now).unwrap();
        }
        let now = Duration::from_secs(86_400 + 5);
        assert_eq!(pass(&mut limit, &ping, now).1, Some(Flood::Control));
        let now = now + Duration::from_millis(100);
        assert_eq!(pass(&mut limit, &ping, now), (10, Some(Flood::Control)));
    }

    #[test]
    fn a_list_of_fields_is_open_until_its_last_part() {
        for (mut limit, kind) in [
            (FloodLimit::of_client(), kind::HEADERS),
            (FloodLimit::of_origin(), kind::HEADERS),
            (FloodLimit::of_origin(), kind::PUSH_PROMISE),
        ] {
            for (kind, flags, open) in [
                (kind, 0, true),
                (kind::CONTINUATION, 0, true),
                (kind::CONTINUATION, flag::END_HEADERS, false),
                (kind, flag::END_HEADERS, false),
            ] {
                let part = frame(kind, flags, 1, 10);
                limit.received(&part, Duration::ZERO).unwrap();
                assert_eq!(limit.in_block(), open);
            }
        }
    }
}
