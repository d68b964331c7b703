//! A `StringMatch` of a rule, ready to be asked.
//!
//! Forms as in istio `pilot/pkg/networking/util` `ConvertToEnvoyMatch`. It does not know what the string is.

use crate::istio::fields::StringMatch;
use regex::{Regex, RegexBuilder};

/// Largest compiled expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// Compiles an expression of a rule; `None` if it is too large or not RE2 as this library knows it.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE)
        .build()
        .ok()
}

/// See the module.
#[derive(Clone, Debug)]
pub enum StringTest {
    /// Any value.
    Present,
    /// Equal.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Equal, without case.
    ExactAnyCase(String),
    /// Starts with, without case.
    PrefixAnyCase(String),
    /// The whole value matches.
    Regex(Regex),
    /// An expression that cannot be compiled.
    Broken,
}

impl PartialEq for StringTest {
    fn eq(&self, other: &Self) -> bool {
        use StringTest::{Broken, Exact, ExactAnyCase, Prefix, PrefixAnyCase, Present, Regex};
        match (self, other) {
            (Present, Present) | (Broken, Broken) => true,
            (Exact(a), Exact(b))
            | (Prefix(a), Prefix(b))
            | (ExactAnyCase(a), ExactAnyCase(b))
            | (PrefixAnyCase(a), PrefixAnyCase(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            (
                Present | Exact(_) | Prefix(_) | ExactAnyCase(_) | PrefixAnyCase(_) | Regex(_)
                | Broken,
                _,
            ) => false,
        }
    }
}

impl StringTest {
    /// From a rule.
    pub fn new(test: &StringMatch) -> Self {
        match test {
            StringMatch::Present => Self::Present,
            // Not RE2; Istio uses it for "any value".
            StringMatch::Regex(pattern) if pattern == "*" => Self::Present,
            StringMatch::Exact(pattern) => Self::Exact(pattern.clone()),
            StringMatch::Prefix(pattern) => Self::Prefix(pattern.clone()),
            StringMatch::Regex(pattern) => {
                compile(&format!(r"\A(?:{pattern})\z")).map_or(Self::Broken, Self::Regex)
            }
        }
    }

    /// The same, where an exact string or a prefix is compared without case.
    pub fn any_case(asked: &StringMatch) -> Self {
        match asked {
            StringMatch::Exact(text) => Self::ExactAnyCase(text.to_ascii_lowercase()),
            StringMatch::Prefix(text) => Self::PrefixAnyCase(text.to_ascii_lowercase()),
            StringMatch::Present | StringMatch::Regex(_) => Self::new(asked),
        }
    }

    /// Whether a value passes.
    pub fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::ExactAnyCase(text) => value.eq_ignore_ascii_case(text),
            Self::PrefixAnyCase(text) => {
                let start = value.as_bytes().get(..text.len());
                start.is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(value),
            Self::Broken => false,
        }
    }
}
