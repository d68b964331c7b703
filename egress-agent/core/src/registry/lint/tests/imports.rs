//! Findings about what a `Sidecar` imports.

use super::{HEAD, HTTP, entry, findings};

#[test]
fn imports_of_a_sidecar_that_no_entry_lists_are_named() {
    let sidecar = |hosts: &str| {
        format!(
            "---\n{HEAD}kind: Sidecar\nmetadata: {{name: s}}\nspec: {{egress: [{{hosts: [{hosts}]}}]}}\n"
        )
    };
    let wild = entry("w", &HTTP.replace("a.com", "'*.w.com'"));
    let other = entry("o", &HTTP.replace("a.com", "o.com"))
        .replace("{name: o}", "{name: o, namespace: prod}");
    let entries = entry("a", HTTP) + &wild + &other;
    for (hosts, expected) in [
        (
            "./b.com",
            Some("no ServiceEntry of namespace default lists b.com: this imports nothing"),
        ),
        (
            "default/b.com",
            Some("no ServiceEntry of namespace default lists b.com"),
        ),
        (
            "'*/b.com'",
            Some("no ServiceEntry lists b.com: this imports nothing"),
        ),
        (
            "'*/*.b.com'",
            Some("no ServiceEntry lists *.b.com: this imports nothing"),
        ),
        (
            "'./*.o.com'",
            Some("no ServiceEntry of namespace default lists *.o.com"),
        ),
        // A wildcard is neither one of the names that it covers nor the name above them.
        ("'*/w.com'", Some("no ServiceEntry lists w.com")),
        ("'*/*.a.com'", Some("no ServiceEntry lists *.a.com")),
        (
            "./o.com",
            Some("lists o.com: this imports nothing (ServiceEntry prod/o does)"),
        ),
        (
            "'stage/*'",
            Some("no ServiceEntry of namespace stage lists any host"),
        ),
        (
            "'*/*', '~prod/b.com'",
            Some("prod lists b.com: this excludes nothing"),
        ),
        (
            "'*/*', '~/b.com'",
            Some("no ServiceEntry lists b.com: this excludes nothing"),
        ),
        ("'*/*'", None),
        ("'./*'", None),
        ("'~/*'", None),
        ("'istio-system/*'", None),
        ("./a.com", None),
        ("./A.com", None),
        ("'*/*.com'", None),
        ("'*/*.w.com'", None),
        ("prod/o.com", None),
        ("'prod/*'", None),
        ("'*/*', '~prod/o.com'", None),
    ] {
        let found = findings(&(entries.clone() + &sidecar(hosts)));
        let at = usize::from(hosts.starts_with("'*/*', "));
        let at = format!("3 spec.egress[0].hosts[{at}]: ");
        match expected {
            Some(text) => assert!(
                found.len() == 1 && found[0].starts_with(&at) && found[0].contains(text),
                "{hosts}: {found:?}"
            ),
            None => assert_eq!(found, [""; 0], "{hosts}"),
        }
    }
    assert_eq!(findings(&sidecar("'*/*'")), [""; 0]);
}
