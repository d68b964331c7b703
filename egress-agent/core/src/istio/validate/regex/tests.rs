//! Expressions that Go accepts, those that it refuses, and their translations.

use super::*;

fn reason(text: &str) -> String {
    expression(text, "uri")
        .err()
        .map_or(String::new(), |reason| {
            reason
                .trim_start_matches("\"uri\": error parsing regexp: ")
                .split("; Istio")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
}

#[test]
fn expressions_that_go_compiles_are_accepted() {
    for text in [
        "",
        "a",
        "a|b",
        "(a)(?:b)(?P<n>c)(?<m>d)",
        "(?i)a",
        "(?i-s:a)",
        "[a-z]",
        "[]a]",
        "[^]a]",
        "[a-]",
        "[-a]",
        "[[:alpha:]_]",
        "[\\d\\w-]",
        "\\pL\\p{Greek}\\P{^Lu}",
        "a*?b+?c??",
        "a{2}b{2,}c{2,3}?",
        "a{,2}",
        "\\ \\_",
        "{",
        "a{",
        "\\.\\/\\-",
        "\\x41\\x{10FFFF}\\012",
        "\\Q*+\\E",
        "\\Qabc",
        "^$",
        "|",
        "()",
        "(|a)*",
        "^*",
        "(a{100}){10}",
        "/v[1-3]/(?:foo|bar)/.*",
        "\u{e9}+",
    ] {
        assert_eq!(reason(text), "", "{text}");
    }
}

#[test]
fn expressions_that_go_refuses_are_refused_in_its_words() {
    for (text, expected) in [
        ("*", "missing argument to repetition operator: `*`"),
        ("a|*", "missing argument to repetition operator: `*`"),
        ("(*)", "missing argument to repetition operator: `*`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a*+", "invalid nested repetition operator: `*+`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("[", "missing closing ]: `[`"),
        ("[a", "missing closing ]: `[a`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        ("(", "missing closing ): `(`"),
        ("a)", "unexpected ): `a)`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
        ("(?<=a)", "invalid named capture: `(?<=a)`"),
        ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
        ("\\1", "invalid escape sequence: `\\1`"),
        ("\\y", "invalid escape sequence: `\\y`"),
        ("\\", "trailing backslash at end of expression: ``"),
        ("\\p{Nope}", "invalid character class range: `\\p{Nope}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{3,2}", "invalid repeat count: `{3,2}`"),
        ("(a{100}){11}", "invalid repeat count: `{11}`"),
    ] {
        assert_eq!(reason(text), expected, "{text}");
    }
    assert!(expression(&"a".repeat(1025), "uri").is_err());
}

/// Whether a whole value matches an expression, after its translation.
fn takes(expression: &str, value: &[u8]) -> bool {
    let written = translated(expression).unwrap_or_else(|| panic!("{expression} is translated"));
    let regex = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{written})\z"))
        .unicode(false)
        .build();
    let regex = regex.unwrap_or_else(|error| panic!("{expression} as {written}: {error}"));
    regex.is_match(value)
}

#[test]
fn a_translation_matches_what_re2_matches() {
    for (expression, yes, no) in [
        (r"\d+", "42", "٤٢"),
        (r"\w+", "a_1", "é"),
        (r"\s", "\t", "\u{b}"),
        (r"\s", "\u{c}", "\u{a0}"),
        (r"\D\W\S+", "é٤", "1é٤"),
        (r"[\w-]+", "a-b", "é"),
        (r"[^\d]", "a", "4"),
        (r"é\ba.*", "éa", "éé"),
        (r"é\Bé|b\Bé", "éé", "bé"),
        (r"\bb\b{start}", "b{start}", "b"),
        (r"[[]", "[", "]"),
        (r"[[a]+", "[a", "b"),
        (r"[a&&b]+", "a&b", "c"),
        (r"[+--]+", "+,-", "."),
        (r"[a~~b]+", "a~b", "c"),
        (r"[]a]+", "]a", "b"),
        (r"[^]a]", "b", "]"),
        (r"[#a ]+", "# a", "b"),
        (r"[[:alpha:]_]+", "a_", "é"),
        (r"[[:^alpha:]]", "1", "a"),
        (r"\pL+", "a", "1"),
        (r"\p{^Lu}", "a", "A"),
        (r"\P{^Latin}", "a", "1"),
        (r"[\p{Latin}1]+", "a1", "2"),
        (r"\Qa.*\E+", "a.**", "abc"),
        (r"\Qa+", "a+", "aa"),
        (r"\x41\xc3\xa9\101\0", "AéA\0", "A"),
        (r"\a\f\v\_\ \<\@", "\u{7}\u{c}\u{b}_ <@", ""),
        ("a{,2}{", "a{,2}{", "aa"),
        ("a{1,2}?b", "aab", "aaab"),
        ("(?P<1>a)(?<n>b)(?:c)", "abc", "ab"),
        ("(?ii-i)a", "a", "A"),
        ("(?i-s)a(?)b(?m:$)", "AB", "ab\n"),
        ("(a|b|)*", "abba", "c"),
        (r"/u/\w{1,100}", "/u/me", "/u/"),
        ("..", "é", "ab "),
        ("é", "é", "e"),
        ("[é]+", "é", "e"),
        ("[^é]+", "a", "é"),
        ("[a-é]+", "aé", "A"),
    ] {
        assert!(takes(expression, yes.as_bytes()), "{expression} {yes:?}");
        assert!(!takes(expression, no.as_bytes()), "{expression} {no:?}");
    }
    assert!(takes(r"[^a]+\xff", b"b\xff\xff"));
    assert!(takes(r"\pL[\pL_]\PL\p{Greek}*", b"\xe9_\xd7"));
    assert!(takes(r"\P{Greek}[^\p{Han}]", b"\xff\xff"));
    assert!(!takes(r"(?i)\xe9", b"\xc9"));
    for expression in ["(", r"\x{d800}", r"\x{100}", r"\777", "a**", r"[\xfe-ÿ]"] {
        assert_eq!(translated(expression), None, "{expression}");
    }
}
