//! Reading of single values: strings, booleans, numbers, durations and bytes.

use super::node::{Node, Value};
use super::reader::{Decode, Reader};
use crate::istio::duration::{TimeSpan, parse_duration};
use crate::istio::message::Severity;
use base64::Engine as _;

/// An integer, whose quotes the decoder strips.
fn integer<T: std::str::FromStr + Default>(node: &Node, reader: &mut Reader, go_type: &str) -> T {
    let literal = match &node.value {
        Value::Null => return T::default(),
        // The decoder strips one pair of quotes around a number.
        Value::Number(literal) | Value::String(literal) => literal,
        Value::Bool(_) | Value::List(_) | Value::Map(_) => {
            reader.mismatch(node, go_type);
            return T::default();
        }
    };
    let digits = literal.strip_prefix('-').unwrap_or(literal);
    let canonical = digits == "0"
        || (!digits.starts_with('0')
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit()));
    match literal.parse() {
        Ok(value) if canonical => value,
        _ if literal.parse::<f64>().is_ok() => {
            let text =
                format!("json: cannot unmarshal number {literal} into Go value of type {go_type}");
            reader.say(Severity::Error, node, text);
            T::default()
        }
        _ => {
            reader.mismatch(node, go_type);
            T::default()
        }
    }
}

impl Decode for String {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        match &node.value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                reader.mismatch(node, "string");
                String::new()
            }
        }
    }
}

impl Decode for bool {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        match &node.value {
            Value::Bool(value) => *value,
            Value::Null => false,
            Value::Number(_) | Value::String(_) | Value::List(_) | Value::Map(_) => {
                reader.mismatch(node, "bool");
                false
            }
        }
    }
}

impl Decode for u32 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        integer(node, reader, "uint32")
    }
}

impl Decode for i32 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        integer(node, reader, "int32")
    }
}

impl Decode for u64 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        integer(node, reader, "uint64")
    }
}

impl Decode for f64 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let (Value::Number(literal) | Value::String(literal)) = &node.value else {
            if node.value != Value::Null {
                reader.mismatch(node, "float64");
            }
            return 0.0;
        };
        match literal.as_str() {
            "NaN" => return f64::NAN,
            "Infinity" => return f64::INFINITY,
            "-Infinity" => return f64::NEG_INFINITY,
            _ => {}
        }
        match literal.parse::<f64>() {
            Ok(value)
                if value.is_finite()
                    && literal
                        .bytes()
                        .all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) =>
            {
                value
            }
            _ => {
                reader.mismatch(node, "float64");
                0.0
            }
        }
    }
}

impl Decode for TimeSpan {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let text = match &node.value {
            Value::String(text) => text.as_str(),
            Value::Null => return Self::default(),
            // The decoder takes the raw JSON as the text, so a bare number has no unit.
            Value::Number(literal) => literal.as_str(),
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                reader.mismatch(node, "string");
                return Self::default();
            }
        };
        parse_duration(text).unwrap_or_else(|error| {
            reader.say(Severity::Error, node, format!("bad Duration: {error}"));
            Self::default()
        })
    }
}

/// Bytes, written in base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Decode for Bytes {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let text = match &node.value {
            Value::String(text) => text.as_bytes(),
            Value::Null => return Self::default(),
            Value::Bool(_) | Value::Number(_) | Value::List(_) | Value::Map(_) => {
                reader.mismatch(node, "[]uint8");
                return Self::default();
            }
        };
        // Go ignores line ends inside base64.
        let text: Vec<u8> = text
            .iter()
            .copied()
            .filter(|b| !b"\r\n".contains(b))
            .collect();
        let engine = base64::engine::general_purpose::GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            base64::engine::general_purpose::PAD.with_decode_allow_trailing_bits(true),
        );
        Self(engine.decode(text).unwrap_or_else(|error| {
            reader.say(
                Severity::Error,
                node,
                format!("illegal base64 data: {error}"),
            );
            Vec::new()
        }))
    }
}
