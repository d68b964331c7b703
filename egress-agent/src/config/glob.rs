//! A pattern for cgroups below an enforced root.

use std::str::FromStr;

/// A pattern for the path of a cgroup below its enforced root. `*` matches any text without a slash, a
/// part `**` matches any number of parts, and `.` is the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupGlob(Vec<Part>);

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`
    Any,
    /// Text without a star.
    Exact(String),
    /// Text with stars.
    Stars(String),
}

impl Part {
    /// Whether it says more than that there is a folder.
    fn has_text(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Exact(_) => true,
            Self::Stars(text) => text.bytes().any(|byte| byte != b'*'),
        }
    }

    fn fits(&self, part: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Exact(text) => text == part,
            Self::Stars(text) => part_fits(text, part),
        }
    }
}

impl From<&str> for Part {
    fn from(part: &str) -> Self {
        match part {
            "**" => Self::Any,
            _ if part.contains('*') => Self::Stars(part.to_owned()),
            _ => Self::Exact(part.to_owned()),
        }
    }
}

impl CgroupGlob {
    /// Whether the pattern matches the whole path.
    pub fn fits(&self, path: &str) -> bool {
        self.fits_parts(&Self::parts(path))
    }

    /// The parts of a path, to compare many patterns with it.
    pub fn parts(path: &str) -> Vec<&str> {
        path.split('/').filter(|part| !part.is_empty()).collect()
    }

    /// The same as [`Self::fits`], for [`Self::parts`].
    pub fn fits_parts(&self, path: &[&str]) -> bool {
        parts_fit(&self.0, path)
    }

    /// Whether the pattern matches the whole path, and a part with text matches the folder with this number.
    pub fn names_folder(&self, path: &[&str], folder: usize) -> bool {
        let (Some(name), Some(below)) = (path.get(folder), path.get(folder + 1..)) else {
            return false;
        };
        let mut parts = self.0.iter().enumerate();
        parts.any(|(number, part)| {
            part.has_text()
                && part.fits(name)
                && parts_fit(&self.0[..number], &path[..folder])
                && parts_fit(&self.0[number + 1..], below)
        })
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "." {
            return Ok(Self(Vec::new()));
        }
        let parts: Vec<&str> = s.split('/').collect();
        if s.starts_with('/') {
            return Err(format!(
                "`{s}` starts with a slash: it is matched below the enforced root, not below the mount"
            ));
        }
        if parts.iter().any(|p| matches!(*p, "" | "." | "..")) {
            return Err(format!(
                "`{s}` is not a cgroup pattern: want shop.slice/web-*"
            ));
        }
        Ok(Self(parts.into_iter().map(Part::from).collect()))
    }
}

/// Compares part by part from the left. If a part does not match, the last `**` takes one part more.
/// Earlier ones need no other try, so the time is bounded by the product of the lengths.
fn parts_fit(glob: &[Part], path: &[&str]) -> bool {
    let (mut g, mut p) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while p < path.len() {
        if glob.get(g) == Some(&Part::Any) {
            again = Some((g, p));
            g += 1;
        } else if glob.get(g).is_some_and(|part| part.fits(path[p])) {
            g += 1;
            p += 1;
        } else if let Some((star, taken)) = again {
            again = Some((star, taken + 1));
            (g, p) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|part| *part == Part::Any)
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
