//! Request targets by table. The results are those of Envoy 1.40 with `normalize_path`, unless a
//! row says otherwise.

use super::*;

fn path(raw: &str) -> Result<String, TargetError> {
    parse_target(b"GET", raw.as_bytes()).map(|target| target.path)
}

#[test]
fn a_path_has_one_canonical_form() {
    for (raw, canonical) in [
        ("/", "/"),
        ("/public", "/public"),
        ("/PUBLIC", "/PUBLIC"),
        ("/public/../admin", "/admin"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/%2E%2e/admin", "/admin"),
        ("/public/.%2e/admin", "/admin"),
        ("/public\\..\\admin", "/admin"),
        ("/public/..\\admin", "/admin"),
        ("/public/\\..\\..\\admin", "/admin"),
        ("/public/%5c../admin", "/public/%5c../admin"),
        ("/public/%2f..%2fadmin", "/public/%2f..%2fadmin"),
        ("/public/%2e%2e%2fadmin", "/public/..%2fadmin"),
        ("/%70ublic", "/public"),
        ("/%50ublic", "/Public"),
        ("/%7e%2d%5f%2e%41%30", "/~-_.A0"),
        ("/%21%24%40%3b", "/%21%24%40%3b"),
        ("/%c3%A9%ff", "/%c3%A9%ff"),
        ("/public//a", "/public//a"),
        ("//public", "//public"),
        ("/./public", "/public"),
        ("/../../public", "/public"),
        ("/public/.", "/public/"),
        ("/public/..", "/"),
        ("/public/a/..", "/public/"),
        ("/public/...", "/public/..."),
        ("/public/..a", "/public/..a"),
        ("/a//../x", "/a/x"),
        ("/a/b//..//c", "/a/b//c"),
        ("//..//a", "//a"),
        ("///../", "//"),
        ("/a/b;x=1/../c", "/a/c"),
        ("/a/..;/b", "/b"),
        ("/a/..;x=1;y/b", "/b"),
        ("/a/.;x", "/a/"),
        ("/a/.;.;/b", "/a/b"),
        ("/a/...;/b", "/a/...;/b"),
        ("/a/..%3b/b", "/a/..%3b/b"),
        // Envoy decodes after it has looked for parameters and leaves `/a/..;/b`.
        ("/a/%2e%2e;/b", "/b"),
        // Envoy treats the bytes after a backslash as parameters, and leaves `/`.
        ("/a/..;\\b", "/b"),
        ("/%", "/%"),
        ("/%zz%2", "/%zz%2"),
        ("/%u002e", "/%u002e"),
        ("/%252e%252e", "/%252e%252e"),
        ("/%%32%65", "/%252e"),
        ("/%%32e", "/%252e"),
        ("/%2%65", "/%252e"),
        ("/%2%35", "/%2525"),
        ("/%%30%30", "/%2500"),
        ("/%%7", "/%%7"),
        ("/%\\..", "/"),
        ("/<>\"`{}|^", "/%3C%3E%22%60%7B%7D%7C%5E"),
        ("/[]!$&'()*+,;=:@~", "/[]!$&'()*+,;=:@~"),
        ("/a?", "/a?"),
        ("/a?../%2e\\%70%00?", "/a?../%2e\\%70%00?"),
        // Envoy leaves these three as they are in a query.
        ("/a?\"<>`{}|^", "/a?%22%3C%3E`{}|^"),
        ("/a/..?x", "/?x"),
        ("/a#b?c", "/a"),
        ("/a?b#c", "/a?b"),
    ] {
        assert_eq!(path(raw).as_deref(), Ok(canonical), "{raw}");
        assert_eq!(path(canonical).as_deref(), Ok(canonical), "again: {raw}");
    }
}

#[test]
fn an_absolute_target_gives_its_authority_and_its_path() {
    for (raw, authority, path) in [
        ("http://a.example/x?y", "a.example", "/x?y"),
        ("HTTP://A.example:80/../x", "A.example:80", "/x"),
        ("https://a.example/x", "a.example", "/x"),
        ("http://a.example", "a.example", "/"),
        ("http://a.example?x=/y", "a.example", "/?x=/y"),
        ("http://a.example#/y", "a.example", "/"),
        ("http://u@a.example/", "u@a.example", "/"),
    ] {
        let target = parse_target(b"GET", raw.as_bytes()).unwrap();
        let got = (target.authority.as_deref(), target.path.as_str());
        assert_eq!(got, (Some(authority), path), "{raw}");
    }
    assert_eq!(parse_target(b"OPTIONS", b"*").unwrap().path, "*");
}

#[test]
fn what_is_neither_a_path_nor_an_http_uri_is_an_error() {
    for raw in [
        "",
        "?",
        "#",
        "public",
        "\\public",
        "http:/a",
        "a.example:80",
    ] {
        assert_eq!(path(raw), Err(TargetError::Form), "{raw}");
    }
    for raw in [
        "http://",
        "http:///a",
        "http://a.example\\@b.example/",
        "http://a.example:/",
        "http://a.example:",
        "https://a.example:?b",
    ] {
        assert_eq!(path(raw), Err(TargetError::Url), "{raw}");
    }
    assert_eq!(path("*"), Err(TargetError::Asterisk));
    assert_eq!(path("ftp://a.example/"), Err(TargetError::Scheme));
    for (raw, bad) in [
        ("/a b", b' '),
        ("/a\t", b'\t'),
        ("/\u{1}", 1),
        ("/\u{7f}", 0x7f),
        ("/?\u{e9}", 0xc3),
    ] {
        assert_eq!(path(raw), Err(TargetError::BadByte(bad)), "{raw:?}");
    }
    for raw in ["/%00", "/a/%00b", "/%00/../a"] {
        assert_eq!(path(raw), Err(TargetError::Nul), "{raw}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(3_000))]

    #[test]
    fn a_canonical_path_is_its_own_canonical_form(raw in "/[/.%2eE5cC70;\\\\?aA<]{0,24}") {
        let Ok(once) = path(&raw) else {
            return Ok(());
        };
        assert_eq!(path(&once).as_deref(), Ok(once.as_str()), "{raw}");
        let without_query = once.split('?').next().unwrap();
        for segment in without_query.split('/') {
            let name = segment.split(';').next().unwrap();
            assert!(name != "." && name != ".." && !name.contains('\\'), "{raw}: {once}");
        }
    }
}
