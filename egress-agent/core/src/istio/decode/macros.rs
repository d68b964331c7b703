//! The macros that declare the API's messages and enums together with their reading.

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
                    &[$( ($camel, $crate::istio::decode::macros::proto_name(stringify!($field))) ),*];
                const ONEOFS: &[&[&str]] = &[$( &[$($member),+] ),*];
                let Some(message) = reader.message(node, FIELDS, ONEOFS) else { return Self::default() };
                Self {
                    $( $field: reader.field(
                        &message,
                        $camel,
                        const { $crate::istio::decode::macros::proto_name(stringify!($field)) },
                    ), )*
                }
            }
        }
    )*
        /// The messages of this file with their fields.
        #[cfg(test)]
        pub(crate) const MESSAGES: &[(&str, &[&str])] = &[$( (stringify!($name), &[$( $camel ),*]) ),*];
    };
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
                            format!("{} {shown:?} for enum istio.networking.v1alpha3.{}", $crate::istio::decode::reader::UNKNOWN_VALUE, $proto),
                        );
                    }
                    Value::Number(literal) => reader.say(
                        $crate::istio::message::Severity::Error,
                        node,
                        format!("{} {literal} for enum istio.networking.v1alpha3.{}", $crate::istio::decode::reader::UNKNOWN_VALUE, $proto),
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
