//! The house rules that no compiler checks, as a pure function from a file to findings.
//!
//! Owns the rules. It reads no file and prints nothing.

/// A longer file gets a note, so that it is split.
const LONG: usize = 400;

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// Information, not an error.
    Note(String),
    /// A broken rule at a line, counted from 1.
    Broken {
        /// The line.
        line: usize,
        /// What is broken, for people.
        rule: String,
    },
}

/// Files with a limit of their own: the composition root and the entry stay small.
const LIMITS: [(&str, usize); 2] = [("app.rs", 250), ("main.rs", 80)];

/// What the pure crate may not touch: the runtime, the kernel, sockets, files, the clock.
const IMPURE: [&str; 13] = [
    "tokio",
    "aya::",
    "aya_log",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::net",
    "std::fs",
    "std::env",
    "std::process",
    "Instant::now",
    "SystemTime::now",
];

/// Paths that exist on one machine only. They are written in halves, so that this file passes its own check.
const MACHINE: [&str; 4] = [
    concat!("/work", "/"),
    concat!("/root", "/"),
    concat!("shared", "/"),
    concat!("/home", "/"),
];

/// Leftovers.
const LEFTOVERS: [&str; 4] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("dbg", "!("),
    concat!("XX", "X:"),
];

/// Whether a file with this name is checked.
pub fn is_checked(name: &str) -> bool {
    let kinds = ["rs", "toml", "md", "yaml", "yml", "sh", "service"];
    kind(name).is_some_and(|kind| kinds.contains(&kind)) || name == "Dockerfile"
}

fn kind(path: &str) -> Option<&str> {
    path.rsplit_once('.').map(|(_, kind)| kind)
}

/// The findings of one file; `path` is relative to the workspace.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    every_file(text, &mut findings);
    if kind(path) == Some("rs") {
        rust_file(path, text, &mut findings);
    }
    findings
}

fn every_file(text: &str, findings: &mut Vec<Finding>) {
    for (line, content) in numbered(text) {
        for place in MACHINE {
            if mentions_place(content, place) {
                findings.push(broken(
                    line,
                    format!("names a place on one machine: {place}"),
                ));
            }
        }
    }
}

/// Whether `place` is in the line as the start of a path, and not inside a longer word.
fn mentions_place(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '}' | '~');
        // After `../` it also is the start of a path; inside a longer path it is not.
        !before.is_some_and(inside) && (before != Some('/') || line[..at].ends_with("../"))
    })
}

/// Modules that are not their folder's `mod.rs` although they have one, by the paths of all files.
pub fn beside_their_folder(paths: &[String]) -> Vec<&str> {
    let has_folder = |path: &str| {
        let folder = path.strip_suffix(".rs").map(|stem| format!("{stem}/"));
        folder.is_some_and(|folder| paths.iter().any(|p| p.starts_with(&folder)))
    };
    let all = paths.iter().map(String::as_str);
    all.filter(|path| has_folder(path)).collect()
}

/// Imports are one block, so that rustfmt sorts all of them. An empty line would split the block.
fn imports(text: &str, findings: &mut Vec<Finding>) {
    // The indentation of the import that ended last, with nothing but empty lines since.
    let (mut last, mut apart): (Option<usize>, bool) = (None, false);
    let mut open = None;
    for (line, content) in numbered(text) {
        let code = content.trim();
        let indent = content.len() - content.trim_start().len();
        if code.is_empty() {
            apart = true;
            continue;
        }
        if code.starts_with("use ") {
            if apart && last == Some(indent) {
                findings.push(broken(line, "an empty line between imports".into()));
            }
            open = Some(indent);
        } else if open.is_none() {
            last = None;
        }
        if code.ends_with(';') && open.is_some() {
            last = open.take();
        }
        apart = false;
    }
}

fn rust_file(path: &str, text: &str, findings: &mut Vec<Finding>) {
    imports(text, findings);
    if !text.starts_with("//!") {
        findings.push(broken(
            1,
            "does not begin with `//!`: what it owns and what it does not".into(),
        ));
    }
    let length = text.lines().count();
    let name = path.rsplit('/').next().unwrap_or(path);
    for (limited, limit) in LIMITS {
        // The BPF programs' main.rs lists the kernel's entry points, and a suite's its tests: the
        // length is their number.
        let listing = path.starts_with("egress-ebpf/") || path.starts_with("tests/");
        if name == limited && length >= limit && !listing {
            findings.push(broken(
                length,
                format!("{length} lines: {limited} stays below {limit}"),
            ));
        }
    }
    if length > LONG {
        findings.push(Finding::Note(format!(
            "{length} lines: split what passes {LONG}"
        )));
    }
    // Tests may use a clock, because they create the times that they pass.
    let mut pure = path.starts_with("egress-agent/core/src/")
        && !(name.ends_with("tests.rs") || path.contains("/tests/"));
    let mut code_above: Vec<&str> = Vec::new();
    for (line, content) in numbered(text) {
        let below_cfg_test = code_above
            .last()
            .is_some_and(|above| above.trim() == "#[cfg(test)]");
        if below_cfg_test && content.starts_with("mod ") && content.ends_with('{') {
            pure = false;
        }
        for leftover in LEFTOVERS {
            if content.contains(leftover) {
                findings.push(broken(line, format!("leftover: {leftover}")));
            }
        }
        let code = content.split("//").next().unwrap_or_default();
        if pure {
            for word in IMPURE {
                if contains_word(code, word) {
                    findings.push(broken(line, format!("the pure crate uses {word}")));
                }
            }
        }
        if opens_unsafe(code) && !justified(content, &code_above) {
            findings.push(broken(line, "`unsafe` without a SAFETY comment".into()));
        }
        code_above.push(content);
    }
}

/// An unsafe block or impl. An `unsafe fn` asks its callers to justify, in `# Safety`.
fn opens_unsafe(code: &str) -> bool {
    let code = code.trim_start();
    !code.contains('"')
        && (contains_word(code, "unsafe {") || contains_word(code, "unsafe impl"))
        && !code.starts_with('#')
}

/// Whether the comment block above the statement, or the line itself, says SAFETY.
fn justified(line: &str, above: &[&str]) -> bool {
    line.contains("SAFETY:")
        || above
            .iter()
            .rev()
            // The statement may begin some lines before its `unsafe`.
            .take(12)
            .take_while(|line| !line.trim().is_empty() && !line.trim_end().ends_with('}'))
            .any(|line| line.contains("SAFETY:"))
}

fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !before.is_some_and(part) && (word.ends_with([':', '{']) || !after.is_some_and(part))
    })
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

fn broken(line: usize, rule: String) -> Finding {
    Finding::Broken { line, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<String> {
        check(path, text)
            .into_iter()
            .filter_map(|finding| match finding {
                Finding::Broken { line, rule } => Some(format!("{line}: {rule}")),
                Finding::Note(_) => None,
            })
            .collect()
    }

    #[test]
    fn each_rule_finds_its_breach_and_lets_the_good_form_pass() {
        let core = "egress-agent/core/src/a.rs";
        let shell = "egress-agent/src/a.rs";
        let place = concat!("/work", "/x");
        let cases: [(&str, String, usize); 24] = [
            (shell, "//! a\nfn a() {}\n".into(), 0),
            (shell, "fn a() {}\n".into(), 1),
            (core, "//! a\nuse tokio::net;\n".into(), 1),
            (shell, "//! a\nuse tokio::net;\n".into(), 0),
            (
                core,
                "//! a\n// unlike tokio, this waits for nobody\n".into(),
                0,
            ),
            (core, "//! a\nlet now = Instant::now();\n".into(), 1),
            (core, "//! a\nfn f(now: Instant) {}\n".into(), 0),
            (core, "//! a\nuse std::net::IpAddr;\n".into(), 0),
            (core, "//! a\nuse std::fs::read;\n".into(), 1),
            (
                core,
                "//! a\n#[cfg(test)]\nmod tests {\nInstant::now()\n}\n".into(),
                0,
            ),
            (
                core,
                "//! a\n#[cfg(test)]\nmod tests;\nInstant::now()\n".into(),
                1,
            ),
            (
                "egress-agent/core/src/a_tests.rs",
                "//! a\nInstant::now()\n".into(),
                0,
            ),
            (
                shell,
                format!("//! a\n// {}: later\n", concat!("TO", "DO")),
                1,
            ),
            (shell, "//! a\n    unsafe { f() };\n".into(), 1),
            (
                shell,
                "//! a\n    // SAFETY: f asks for nothing\n    unsafe { f() };\n".into(),
                0,
            ),
            (
                shell,
                "//! a\n// SAFETY: f\nunsafe { f() }\n\nunsafe { g() }\n".into(),
                1,
            ),
            (shell, "//! a\npub unsafe fn f() {}\n".into(), 0),
            (shell, format!("//! a\n// {place}\n"), 1),
            (shell, "//! a\nuse a::b;\nuse std::c;\n".into(), 0),
            (
                shell,
                "//! a\nuse a::{\n    b,\n};\n\nuse std::c;\n".into(),
                1,
            ),
            (
                shell,
                "//! a\nuse a;\n\npub use b;\n\nmod c;\n\nuse d;\n".into(),
                0,
            ),
            (
                shell,
                "//! a\nuse a;\n\nmod tests {\n    use b;\n\n    use c;\n}\n".into(),
                1,
            ),
            ("a.md", format!("see {place}\n"), 1),
            ("a.md", "see src/network/x and my/work/x\n".into(), 0),
        ];
        for (path, text, expected) in cases {
            let found = rules(path, &text);
            assert_eq!(found.len(), expected, "{path}: {text:?}: {found:?}");
        }
    }

    #[test]
    fn the_entry_and_the_composition_root_have_hard_limits() {
        let lines = |count: usize| format!("//! a\n{}", "\n".repeat(count - 1));
        assert!(rules("egress-agent/src/main.rs", &lines(79)).is_empty());
        assert_eq!(rules("egress-agent/src/main.rs", &lines(80)).len(), 1);
        assert!(rules("egress-agent/src/app.rs", &lines(249)).is_empty());
        assert_eq!(rules("egress-agent/src/app.rs", &lines(250)).len(), 1);
    }

    #[test]
    fn a_module_with_a_folder_is_in_it() {
        let paths = ["src/a.rs", "src/a/b.rs", "src/c/mod.rs", "src/c/d.rs"].map(str::to_owned);
        assert_eq!(beside_their_folder(&paths), ["src/a.rs"]);
    }

    #[test]
    fn a_long_file_is_named_and_no_error() {
        let text = format!("//! a\n{}", "\n".repeat(LONG));
        let findings = check("egress-agent/src/a.rs", &text);
        assert!(
            matches!(findings.as_slice(), [Finding::Note(_)]),
            "{findings:?}"
        );
    }

    #[test]
    fn sources_and_texts_are_checked_and_data_is_not() {
        for name in [
            "a.rs",
            "Cargo.toml",
            "README.md",
            "deploy.yaml",
            "Dockerfile",
        ] {
            assert!(is_checked(name), "{name}");
        }
        for name in ["Cargo.lock", "a.png", "rs", ".gitignore"] {
            assert!(!is_checked(name), "{name}");
        }
    }
}
