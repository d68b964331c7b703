//! The page of the documentation: the table as text. The suite compares it with the kernel, and a
//! test with the committed page.

use super::table::{Expect, Over, Path, SECTIONS};
use std::fmt::Write as _;

/// The page's path, relative to the workspace's folder.
pub const FILE: &str = "docs/escape-matrix.md";

const HEAD: &str = "\
# Ways past the gate

This page lists every path by which a process behind the gate could send to a destination that no rule lists, the attempt, and the result. It is generated (`cargo xtask docs`) from the table of the escape suite. The suite tries each path with real sockets, as root with every capability: first outside the gate, where the path must reach the target, then behind the gate, while a packet socket at the far end of the cable captures anything that arrives. It tries paths that a rule can list once more with a listed destination, which must work. `cargo xtask test escape` runs it on the running kernel, `cargo xtask vm` on Linux 6.1 and 6.12; `escape suite` prints it.

**closed** = nothing leaves. **closed by LSM** = closed where the kernel lets a BPF LSM program load (`bpf` in the `lsm=` list), else open; `egress-agent status` says which. **open** = not closed, for the reason given. **works** = no escape, and must go through. A dash: there is no such path.
";

/// The whole page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for (title, paths) in SECTIONS {
        let _ = write!(
            page,
            "\n## {title}\n\n| path | what is tried | IPv4 | IPv6 | closed by, or why not |\n|---|---|---|---|---|\n"
        );
        for path in *paths {
            row(&mut page, path);
        }
    }
    page
}

fn row(page: &mut String, path: &Path) {
    let (word, why) = match path.expect {
        Expect::Closed(by) => ("closed", by.to_owned()),
        Expect::NeedsLsm(without) => (
            "closed by LSM",
            format!("lsm_cgroup/socket_create; without it: {without}"),
        ),
        Expect::Open(why) => ("open", why.to_owned()),
        Expect::Works(how) => ("works", how.to_owned()),
    };
    let (v4, v6) = match path.over {
        Over::Both | Over::Neither => (word, word),
        Over::V4 => (word, "–"),
        Over::V6 => ("–", word),
    };
    let _ = writeln!(
        page,
        "| `{}` | {} | {v4} | {v6} | {why} |",
        path.name, path.what
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::escape::table::paths;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_paths_have_one_name() {
        let names: BTreeSet<_> = paths().map(|p| p.name).collect();
        assert_eq!(names.len(), paths().count());
    }

    #[test]
    fn the_committed_page_says_what_the_suite_holds() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let committed = std::fs::read_to_string(root.join(FILE)).unwrap_or_default();
        assert_eq!(committed, markdown(), "run `cargo xtask docs`");
    }
}
