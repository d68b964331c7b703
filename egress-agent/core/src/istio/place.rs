//! How messages name the source of an object: a file with a line, or an object of the Kubernetes API, whose text nobody
//! wrote and which therefore has no line.

/// How the name of a source begins that is an object of the Kubernetes API.
pub const API: &str = "kubernetes:";

/// Whether a source is an object of the Kubernetes API.
pub fn is_api(source: &str) -> bool {
    source.starts_with(API)
}

/// A source and a line, as messages show them.
pub fn place(source: &str, line: u32) -> String {
    if is_api(source) {
        source.to_owned()
    } else {
        format!("{source}:{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn only_a_file_has_lines() {
        assert_eq!(place("/r/a.yaml", 3), "/r/a.yaml:3");
        let object = "kubernetes:serviceentry/shop/a";
        assert_eq!(place(object, 1), object);
    }
}
