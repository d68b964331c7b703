//! A `StringMatch` of a rule, ready to be asked.
//!
//! Forms as in istio `pilot/pkg/networking/util` `ConvertToEnvoyMatch`. It does not know what the string is.

use crate::istio::fields::StringMatch;
use crate::istio::validate::regex::translated;
use regex::bytes::{Regex, RegexBuilder};

/// Largest compiled expression, in bytes.
const REGEX_SIZE: usize = 4 << 20;

/// Compiles an expression of a rule; `None` if it is too large or invalid.
pub(super) fn compile(pattern: &str) -> Option<Regex> {
    build(&translated(pattern)?)
}

fn build(translated: &str) -> Option<Regex> {
    RegexBuilder::new(translated)
        .unicode(false)
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
                let whole = |inner| build(&format!(r"\A(?:{inner})\z"));
                let regex = translated(pattern).and_then(whole);
                regex.map_or(Self::Broken, Self::Regex)
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

    /// Whether it is an expression that cannot be compiled.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Broken)
    }

    /// Whether a value passes.
    pub fn accepts(&self, value: impl AsRef<[u8]>) -> bool {
        let value = value.as_ref();
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::ExactAnyCase(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::PrefixAnyCase(text) => {
                let start = value.get(..text.len());
                start.is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(value),
            Self::Broken => false,
        }
    }
}

/// Whether the expression of a match, if it has one, cannot be compiled.
pub(crate) fn is_broken(test: &StringMatch) -> bool {
    matches!(test, StringMatch::Regex(_)) && StringTest::new(test).is_broken()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(pattern: &str) -> StringTest {
        StringTest::new(&StringMatch::Regex(pattern.into()))
    }

    #[test]
    fn classes_are_ascii_and_large_counts_can_be_compiled() {
        for (pattern, yes, no) in [
            (r"\w+", "a", "é"),
            (r"/u/\w{1,100}", "/u/me", "/u/"),
            (r"(?i)[^/]{1,1000}", "é", "/"),
            (r".{0,1000}", "", "\n"),
            ("..", "é", "e"),
            (r"(\S{1,100}/){10}", "a/a/a/a/a/a/a/a/a/a/", "a"),
            (r"[a&&b]+", "&", "c"),
        ] {
            let test = test(pattern);
            assert!(test.accepts(yes) && !test.accepts(no), "{pattern}");
        }
        let large = "[acegikmoqsuwy02468]{1000}".repeat(39);
        for broken in [large.as_str(), "("] {
            assert!(test(broken).is_broken(), "{broken}");
        }
    }

    #[test]
    fn a_value_is_compared_by_its_bytes() {
        let replaced = "\u{fffd}".to_owned();
        assert!(test("b.").accepts(b"b\xff"));
        assert!(!test("b.").accepts("bé"));
        assert!(!StringTest::Exact(replaced.clone()).accepts(b"\xff"));
        assert!(!StringTest::Prefix(replaced).accepts(b"\xffb"));
    }
}
