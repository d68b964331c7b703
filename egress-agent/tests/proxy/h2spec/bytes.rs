//! Codes, and the frames that many cases send.

use super::Want::Status;
use super::{Case, Step, case};
use crate::frames::*;

pub const PROTOCOL: u32 = 1;
pub const FLOW_CONTROL: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE: u32 = 6;
pub const REFUSED: u32 = 7;
pub const COMPRESSION: u32 = 9;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

/// The parts of a case, one behind the other.
pub fn all(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// The head of a request whose body follows.
pub fn post(stream: u32) -> Vec<u8> {
    let mut block = fields();
    block[0] = 0x83;
    frame(HEADERS, END_HEADERS, stream, &block)
}

pub fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in pairs {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

pub fn number(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// Frames that must change nothing: the request behind them is answered.
pub fn ignored(section: &'static str, name: &'static str, before: Vec<u8>) -> Case {
    case(section, name, all(&[before, request(1)]), Status(200))
}

/// A case with several waits.
pub fn script(section: &'static str, name: &'static str, steps: Vec<Step>) -> Case {
    Case {
        section,
        name,
        steps,
    }
}
