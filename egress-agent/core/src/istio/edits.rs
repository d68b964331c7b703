//! Counts the edits between two names, for hints about misspelt names.

/// The number of edits of single bytes (insert, delete, replace, swap of neighbours) that turn one name into
/// the other; `None` for more than `most`. It stops when every way takes more.
pub fn edits(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let far = most + 1;
    let mut before = vec![far; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = before.clone();
    for i in 1..=a.len() {
        // Outside this band, more than `most` insertions or deletions are needed.
        let band = i.saturating_sub(most)..=(i + most).min(b.len());
        let mut nearest = far;
        row.fill(far);
        for j in band {
            let mut cost = i;
            if j > 0 {
                cost = (last[j - 1] + usize::from(a[i - 1] != b[j - 1]))
                    .min(last[j] + 1)
                    .min(row[j - 1] + 1);
            }
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row[j] = cost;
            nearest = nearest.min(cost);
        }
        if nearest > most {
            return None;
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    Some(last[b.len()]).filter(|edits| *edits <= most)
}

#[cfg(test)]
mod tests {
    use super::edits;

    #[test]
    fn edits_are_counted_up_to_the_most() {
        for (a, b, count) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "ab", 2),
            ("abc", "abcd", 1),
            ("abcd", "bcd", 1),
            ("abcd", "abxd", 1),
            ("abcd", "abdc", 1),
            ("abcd", "badc", 2),
            ("kitten", "sitting", 3),
            ("api.shop.example", "api.shp.exampel", 2),
        ] {
            for (a, b) in [(a, b), (b, a)] {
                for most in 0..5 {
                    let expected = (count <= most).then_some(count);
                    assert_eq!(edits(a, b, most), expected, "{a:?} {b:?} {most}");
                }
            }
        }
    }
}
