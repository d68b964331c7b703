//! A pattern for cgroups below an enforced root.

use std::str::FromStr;

/// A pattern for the path of a cgroup below its enforced root. `*` matches any text without a slash, a
/// part `**` matches any number of parts, and `.` is the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupGlob(Vec<String>);

impl CgroupGlob {
    /// Whether the pattern matches the whole path.
    pub fn fits(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        parts_fit(&self.0, &path)
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "." {
            return Ok(Self(Vec::new()));
        }
        let parts: Vec<String> = s.split('/').map(str::to_owned).collect();
        if s.starts_with('/') {
            return Err(format!(
                "`{s}` starts with a slash: it is matched below the enforced root, not below the mount"
            ));
        }
        if parts.iter().any(|p| p.is_empty() || p == "." || p == "..") {
            return Err(format!(
                "`{s}` is not a cgroup pattern: want shop.slice/web-*"
            ));
        }
        Ok(Self(parts))
    }
}

/// Compares part by part from the left. If a part does not match, the last `**` takes one part more.
/// Earlier ones need no other try, so the time is bounded by the product of the lengths.
fn parts_fit(glob: &[String], path: &[&str]) -> bool {
    let (mut g, mut p) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while p < path.len() {
        if glob.get(g).is_some_and(|part| part == "**") {
            again = Some((g, p));
            g += 1;
        } else if glob.get(g).is_some_and(|part| part_fits(part, path[p])) {
            g += 1;
            p += 1;
        } else if let Some((star, taken)) = again {
            again = Some((star, taken + 1));
            (g, p) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|part| part == "**")
}

/// Matches one part: finds each piece between two stars after the previous piece.
fn part_fits(glob: &str, part: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else {
        return glob == part;
    };
    let Some(mut part) = part.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        let Some(at) = part.find(piece) else {
            return false;
        };
        part = &part[at + piece.len()..];
    }
    part.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_fits_whole_paths_below_the_root() {
        for (glob, fits, not) in [
            (".", vec![""], vec!["a"]),
            ("a", vec!["a", "/a/"], vec!["", "ab", "a/b", "b/a"]),
            ("*", vec!["a", "abc"], vec!["", "a/b"]),
            (
                "shop-*",
                vec!["shop-", "shop-1"],
                vec!["shop", "x-shop-1", "shop-1/c"],
            ),
            (
                "*-web-*.slice",
                vec!["a-web-b.slice", "-web-.slice"],
                vec!["a-web.slice"],
            ),
            ("a*b*a", vec!["aba", "axbxa"], vec!["ab", "aa", "abxb"]),
            (
                "kubepods/*/pod1",
                vec!["kubepods/burstable/pod1"],
                vec!["kubepods/pod1"],
            ),
            (
                "**/pod1",
                vec!["pod1", "a/pod1", "a/b/pod1"],
                vec!["a/pod1/c", "pod11"],
            ),
            ("a/**", vec!["a", "a/b", "a/b/c"], vec!["b/a", ""]),
            ("**/b/**/c", vec!["b/c", "a/b/b/x/c"], vec!["b", "c/b"]),
            ("**", vec!["", "a", "a/b"], vec![]),
        ] {
            let glob: CgroupGlob = glob.parse().unwrap();
            for path in fits {
                assert!(glob.fits(path), "{glob:?} {path:?}");
            }
            for path in not {
                assert!(!glob.fits(path), "{glob:?} {path:?}");
            }
        }
    }

    #[test]
    fn a_glob_that_can_fit_nothing_is_refused() {
        for text in ["", "/a", "a//b", "a/", "../a", "a/./b"] {
            assert!(text.parse::<CgroupGlob>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_glob_of_many_stars_is_judged_at_once() {
        let glob: CgroupGlob = ["**"; 30].join("/x/").parse().unwrap();
        assert!(!glob.fits(&["x"; 20].join("/")));
        let glob: CgroupGlob = ["*"; 30].join("a").parse().unwrap();
        assert!(!glob.fits(&"a".repeat(20)));
    }
}
