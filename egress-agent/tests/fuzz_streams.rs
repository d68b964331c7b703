//! Replays the inputs in `tests/fuzz/corpus/stream_decision` through the function that the fuzz target runs.

#[path = "../../tests/fuzz/src/decision.rs"]
mod decision;
#[path = "../../tests/fuzz/src/stream_decision.rs"]
mod stream_decision;

use std::fs;
use std::path::Path;

#[test]
fn any_bytes_as_streams_go_nowhere_but_where_a_rule_lets_them() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/stream_decision");
    let mut inputs = 0;
    for entry in fs::read_dir(corpus).expect("the corpus is there") {
        let path = entry.expect("the corpus can be listed").path();
        stream_decision::run(&fs::read(&path).expect("an input can be read"));
        inputs += 1;
    }
    assert!(inputs > 50, "{inputs} inputs");
}
