//! Typed reading of a tree of YAML values, with the rules of Istio's JSON decoder.
//!
//! Source of the rules: golang/protobuf `jsonpb/decode.go`, which istiod uses
//! (istio `pkg/util/protomarshal/protomarshal.go`). The structs themselves stand in the files of
//! the kinds; the macros here write their reading.

use std::collections::BTreeMap;

use base64::Engine as _;

use super::node::{Node, Value};
use super::suggest::nearest;
use crate::istio::duration::{TimeSpan, parse_duration};
use crate::istio::message::{self, Messages, Path, Severity, Step};

/// A map that is read as a message of the API.
#[derive(Debug)]
pub struct Message<'n> {
    node: &'n Node,
    /// Members of oneofs that another one overrides.
    overridden: Vec<&'static str>,
}

impl<'n> Message<'n> {
    /// A map that other fields than the known ones may stand in.
    pub fn open(node: &'n Node) -> Self {
        Self {
            node,
            overridden: Vec::new(),
        }
    }
}

/// The state of reading one document: where we are, and what was found wrong.
#[derive(Debug, Default)]
pub struct Reader {
    /// The way to the value being read.
    pub path: Path,
    /// What was found so far.
    pub messages: Messages,
}

impl Reader {
    /// Records a message at a node.
    pub fn say(&mut self, severity: Severity, node: &Node, text: impl Into<String>) {
        self.messages.push(message::Message {
            severity,
            field: self.path.to_string(),
            line: node.mark.line,
            column: node.mark.column,
            text: text.into(),
        });
    }

    /// Records that a value is of the wrong type, in the words of Go's decoder.
    pub fn mismatch(&mut self, node: &Node, wanted: &str) {
        let shown = match &node.value {
            Value::Number(literal) => format!("number {literal}"),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::List(_) | Value::Map(_) => {
                node.value.kind().to_owned()
            }
        };
        self.say(
            Severity::Error,
            node,
            format!("json: cannot unmarshal {shown} into Go value of type {wanted}"),
        );
    }

    /// Runs a closure one step further down.
    pub fn within<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.0.push(step);
        let value = read(self);
        self.path.0.pop();
        value
    }

    /// Checks that a node is a map with known fields. `None` for null (an empty message) and for
    /// anything else (an error).
    ///
    /// Of several members of a oneof, the decoder keeps the one that the .proto file has last. The
    /// API server's schema would have refused the object.
    pub fn message<'n>(
        &mut self,
        node: &'n Node,
        fields: &[(&'static str, &str)],
        oneofs: &[&[&str]],
    ) -> Option<Message<'n>> {
        let Value::Map(entries) = &node.value else {
            if node.value != Value::Null {
                self.mismatch(node, "map[string]json.RawMessage");
            }
            return None;
        };
        for entry in entries {
            // Finding the nearest name costs time, which a file of nothing but mistakes is not given.
            if self.messages.has_room(Severity::Warning)
                && !fields
                    .iter()
                    .any(|(camel, snake)| entry.key == *camel || entry.key == *snake)
            {
                let at = Node {
                    mark: entry.mark,
                    value: Value::Null,
                };
                let mut text = format!("unknown field {:?}", entry.key);
                if let Some(name) = nearest(&entry.key, fields.iter().map(|(camel, _)| *camel)) {
                    text = format!("{text}, did you mean {name:?}?");
                }
                self.within(Step::Key(entry.key.clone().into()), |reader| {
                    reader.say(Severity::Warning, &at, text);
                });
            }
        }
        let mut overridden = Vec::new();
        for group in oneofs {
            let mut set: Vec<&'static str> = fields
                .iter()
                .filter(|(camel, snake)| {
                    group.contains(camel)
                        && field_of(node, camel, snake)
                            .is_some_and(|value| value.value != Value::Null)
                })
                .map(|(camel, _)| *camel)
                .collect();
            if let Some(last) = set.pop().filter(|_| !set.is_empty()) {
                let text = format!(
                    "only one of {}, {last} may be set; Istio uses {last}",
                    set.join(", ")
                );
                self.say(Severity::Note, node, text);
                overridden.append(&mut set);
            }
        }
        Some(Message { node, overridden })
    }

    /// Reads one field; absent and null give the default.
    pub fn field<T: Decode>(
        &mut self,
        message: &Message<'_>,
        camel: &'static str,
        snake: &str,
    ) -> T {
        match field_of(message.node, camel, snake) {
            None => T::default(),
            Some(_) if message.overridden.contains(&camel) => T::default(),
            Some(node) if node.value == Value::Null => T::default(),
            Some(node) => self.within(Step::Key(camel.into()), |reader| T::decode(node, reader)),
        }
    }

    fn integer<T: std::str::FromStr + Default>(&mut self, node: &Node, go_type: &str) -> T {
        let literal = match &node.value {
            Value::Null => return T::default(),
            // The decoder strips one pair of quotes around a number.
            Value::Number(literal) | Value::String(literal) => literal,
            Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                self.mismatch(node, go_type);
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
                let text = format!(
                    "json: cannot unmarshal number {literal} into Go value of type {go_type}"
                );
                self.say(Severity::Error, node, text);
                T::default()
            }
            _ => {
                self.mismatch(node, go_type);
                T::default()
            }
        }
    }
}

/// A field by either name; the camelCase one wins, as in the decoder.
fn field_of<'n>(message: &'n Node, camel: &str, snake: &str) -> Option<&'n Node> {
    message.get(camel).or_else(|| message.get(snake))
}

/// A type that can be read from a YAML value. What cannot be read is reported to the [`Reader`]
/// and gives the default.
pub trait Decode: Default {
    /// Reads the value.
    fn decode(node: &Node, reader: &mut Reader) -> Self;
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        Some(T::decode(node, reader))
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        Box::new(T::decode(node, reader))
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let Value::List(items) = &node.value else {
            reader.mismatch(node, "[]json.RawMessage");
            return Vec::new();
        };
        items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                reader.within(Step::Index(index), |reader| T::decode(item, reader))
            })
            .collect()
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        let Value::Map(entries) = &node.value else {
            reader.mismatch(node, "map[string]json.RawMessage");
            return BTreeMap::new();
        };
        entries
            .iter()
            .map(|entry| {
                let step = Step::Key(entry.key.clone().into());
                (
                    entry.key.clone(),
                    reader.within(step, |reader| T::decode(&entry.value, reader)),
                )
            })
            .collect()
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
        reader.integer(node, "uint32")
    }
}

impl Decode for i32 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        reader.integer(node, "int32")
    }
}

impl Decode for u64 {
    fn decode(node: &Node, reader: &mut Reader) -> Self {
        reader.integer(node, "uint64")
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

/// Declares messages of the API: structs whose fields are read by their camelCase name and by the
/// Rust name, which is the `snake_case` one of the .proto file. `oneof` names exclusive fields.
macro_rules! messages {
    ($(
        $(#[$meta:meta])*
        $name:ident $(oneof ($($member:literal)|+))* {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty = $camel:literal, )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
        }

        impl $crate::istio::decode::reader::Decode for $name {
            fn decode(
                node: &$crate::istio::decode::node::Node,
                reader: &mut $crate::istio::decode::reader::Reader,
            ) -> Self {
                const FIELDS: &[(&str, &str)] =
                    &[$( ($camel, $crate::istio::decode::reader::proto_name(stringify!($field))) ),*];
                const ONEOFS: &[&[&str]] = &[$( &[$($member),+] ),*];
                let Some(message) = reader.message(node, FIELDS, ONEOFS) else { return Self::default() };
                Self {
                    $( $field: reader.field(
                        &message,
                        $camel,
                        const { $crate::istio::decode::reader::proto_name(stringify!($field)) },
                    ), )*
                }
            }
        }
    )*};
}

/// Declares enums of the API, read by exact name or by number. The first variant is the default.
/// A value under `refuse` exists in the API, but not where the enum is used; it has its own reason.
macro_rules! enums {
    ($(
        $(#[$meta:meta])*
        $name:ident = $proto:literal $( refuse($refused_number:literal $refused:literal $reason:literal) )? { $( $(#[$variant_meta:meta])* $variant:ident = $number:literal $text:literal, )* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            #[default]
            $( $(#[$variant_meta])* $variant, )*
        }

        impl $name {
            /// The name as Istio writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }

        impl $crate::istio::decode::reader::Decode for $name {
            fn decode(
                node: &$crate::istio::decode::node::Node,
                reader: &mut $crate::istio::decode::reader::Reader,
            ) -> Self {
                use $crate::istio::decode::node::Value;
                match &node.value {
                    Value::Null => return Self::default(),
                    $( Value::String(text) if text == $text => return Self::$variant, )*
                    $( Value::Number(literal) if literal == $number => return Self::$variant, )*
                    $( Value::String(text) if text == $refused => {
                        reader.say($crate::istio::message::Severity::Error, node, $reason);
                    }
                    Value::Number(literal) if literal == $refused_number => {
                        reader.say($crate::istio::message::Severity::Error, node, $reason);
                    } )?
                    Value::String(text) => {
                        let shown = format!("\"{text}\"");
                        reader.say(
                            $crate::istio::message::Severity::Error,
                            node,
                            format!("unknown value {shown:?} for enum istio.networking.v1alpha3.{}", $proto),
                        );
                    }
                    Value::Number(literal) => reader.say(
                        $crate::istio::message::Severity::Error,
                        node,
                        format!("unknown value {literal} for enum istio.networking.v1alpha3.{}", $proto),
                    ),
                    Value::Bool(_) | Value::List(_) | Value::Map(_) => reader.mismatch(node, "protoreflect.EnumNumber"),
                }
                Self::default()
            }
        }
    )*};
}

pub(crate) use {enums, messages};

/// The field's name in the .proto file: the Rust name without the mark of a raw identifier.
pub const fn proto_name(rust: &str) -> &str {
    match rust.as_bytes() {
        [b'r', b'#', ..] => rust.split_at(2).1,
        _ => rust,
    }
}
