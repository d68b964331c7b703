//! Damaged files: no panic, no hang, whatever the bytes.

use egress_core::istio::decode;
use egress_core::istio::report::Report;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Far more than a file of this size needs, so that a busy machine does not matter, and far less than a quadratic
/// algorithm needs.
const LIMIT: Duration = Duration::from_secs(20);

fn data_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/istio");
    let mut folders = vec![root];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the data are in the repository") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 1000, "{} files", files.len());
    files
}

fn judge(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let decoded = decode("f", &text);
    let report = Report::new("f", &text, &decoded);
    let (shown, lines) = (report.text(true), report.json_lines());
    assert!(lines.lines().count() <= decoded.objects.len() + 1);
    assert_eq!(
        shown.is_empty(),
        decoded.skipped.is_empty() && !lines.contains("\"severity\""),
        "{shown}"
    );
}

/// The generator of Numerical Recipes, so that every run has the same damage.
struct Chance(u32);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(self.0 >> 8).expect("24 bits") % limit.max(1)
    }
}

#[test]
fn damaged_files_are_judged_without_panic() {
    const PIECES: [&str; 24] = [
        "\n---\n",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "\t",
        "null",
        "~",
        "0x",
        "1e999",
        "%",
        "\u{feff}",
        "\u{0}",
        "\u{1f600}",
    ];
    let mut chance = Chance(1);
    for file in data_files()
        .iter()
        .filter(|file| fs::metadata(file).is_ok_and(|meta| meta.len() < 16_384))
    {
        let original = fs::read(file).expect("a readable file");
        for _ in 0..2 {
            let mut bytes = original.clone();
            for _ in 0..=chance.below(4) {
                let at = chance.below(bytes.len());
                match chance.below(4) {
                    0 => bytes.truncate(at),
                    1 if !bytes.is_empty() => bytes[at] ^= 1 << chance.below(8),
                    2 if !bytes.is_empty() => {
                        bytes.drain(at..(at + chance.below(40)).min(bytes.len()));
                    }
                    _ => {
                        bytes.splice(at..at, PIECES[chance.below(PIECES.len())].bytes());
                    }
                }
            }
            judge(&bytes);
        }
    }
}

#[test]
fn files_made_to_be_slow_are_judged_in_time() {
    let head =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec:\n";
    let many =
        |item: &dyn Fn(usize) -> String, count: usize| (0..count).map(item).collect::<String>();
    let hosts = many(&|index| format!("  - h{index}.com\n"), 40_000);
    let cases = [
        (
            "equal hosts",
            format!("{head}  hosts:\n{}", "  - a.com\n".repeat(100_000)),
        ),
        ("many hosts and server names", {
            let names = many(&|index| format!("      - x{index}.com\n"), 40_000);
            format!("{head}  hosts:\n{hosts}  tls:\n  - match:\n    - sniHosts:\n{names}")
        }),
        (
            "equal conditions",
            format!(
                "{head}  http:\n  - match:\n{}",
                "    - uri: {prefix: /a}\n".repeat(40_000)
            ),
        ),
        ("growing prefixes", {
            let matches = many(
                &|index| format!("    - uri: {{prefix: /a{}}}\n", "b".repeat(index % 500)),
                10_000,
            );
            format!("{head}  http:\n  - match:\n{matches}")
        }),
        (
            "unknown fields",
            format!(
                "{head}{}",
                many(&|index| format!("  hostz{index}: 1\n"), 100_000)
            ),
        ),
        ("many documents", "---\na: 1\n".repeat(50_000)),
        ("empty documents", "---\n".repeat(100_000)),
        ("one long line", format!("a: [{}", "x,".repeat(300_000))),
        ("one long word", "a".repeat(4_000_000)),
        ("quotes", "\"".repeat(100_000)),
        ("open braces", "{".repeat(100_000)),
        (
            "open lists in blocks",
            many(&|index| format!("{}-\n", " ".repeat(index)), 1_500),
        ),
        ("anchors around anchors", {
            let open = many(&|index| format!("&a{index} ["), 60);
            format!("{open}{}{}", "x,".repeat(10_000), "]".repeat(60))
        }),
        (
            "colons in a list",
            format!("a: [{}]", "a::,".repeat(100_000)),
        ),
        (
            "long expressions",
            format!(
                "{head}  http:\n{}",
                "  - match: [{uri: {regex: \"((((a{9}){9}){9})\"}}]\n".repeat(10_000)
            ),
        ),
        (
            "merge keys",
            format!(
                "a: &a {{{}}}\n{}",
                many(&|index| format!("k{index}: 1,"), 300),
                many(&|index| format!("b{index}: {{<<: *a}}\n"), 5_000)
            ),
        ),
    ];
    for (name, text) in cases {
        let start = Instant::now();
        judge(text.as_bytes());
        let took = start.elapsed();
        println!("{name}: {took:?} for {} bytes", text.len());
        assert!(took < LIMIT, "{name}: {took:?}");
    }
}
