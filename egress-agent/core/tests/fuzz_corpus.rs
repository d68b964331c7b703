//! Replays the inputs in `tests/fuzz/corpus` through the functions that the fuzz targets run.

#[path = "../../../tests/fuzz/src/access_format.rs"]
mod access_format;
#[path = "../../../tests/fuzz/src/client_hello.rs"]
mod client_hello;
#[path = "../../../tests/fuzz/src/compile.rs"]
mod compile;
#[path = "../../../tests/fuzz/src/decision.rs"]
mod decision;
#[path = "../../../tests/fuzz/src/decode.rs"]
mod decode;
#[path = "../../../tests/fuzz/src/dns_policy.rs"]
mod dns_policy;
#[path = "../../../tests/fuzz/src/dns_question.rs"]
mod dns_question;
#[path = "../../../tests/fuzz/src/http2_frames.rs"]
mod http2_frames;
#[path = "../../../tests/fuzz/src/request_decision.rs"]
mod request_decision;
#[path = "../../../tests/fuzz/src/request_head.rs"]
mod request_head;
#[path = "../../../tests/fuzz/src/second_hello.rs"]
mod second_hello;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let mut inputs = 0;
    for entry in fs::read_dir(corpus.join(target)).expect("the corpus is there") {
        let path = entry.expect("the corpus can be listed").path();
        run(&fs::read(&path).expect("an input can be read"));
        inputs += 1;
    }
    assert!(inputs > 50, "{target}: {inputs} inputs");
}

#[test]
fn any_bytes_as_rules_decode_without_a_panic() {
    replay("decode", decode::run);
}

#[test]
fn any_bytes_as_rules_compile_without_a_panic() {
    replay("compile", compile::run);
}

#[test]
fn any_bytes_as_a_format_of_the_access_log_write_one_line() {
    replay("access_format", access_format::run);
}

#[test]
fn any_bytes_as_a_hello_are_read_alike_in_one_piece_and_byte_by_byte() {
    replay("client_hello", client_hello::run);
}

#[test]
fn any_bytes_as_a_request_have_one_canonical_head() {
    replay("request_head", request_head::run);
}

#[test]
fn any_bytes_as_a_request_go_nowhere_but_where_a_rule_lets_them() {
    replay("request_decision", request_decision::run);
}

#[test]
fn any_bytes_as_a_dns_answer_are_judged_as_by_a_plain_reader() {
    replay("dns_question", dns_question::run);
}

#[test]
fn any_bytes_as_a_query_and_its_answer_let_no_name_out_and_no_address_in() {
    replay("dns_policy", dns_policy::run);
}

#[test]
fn any_bytes_as_frames_are_those_of_a_plain_reader_and_bounded() {
    replay("http2_frames", http2_frames::run);
}

#[test]
fn any_bytes_behind_a_hello_hold_no_other_name_that_goes_on() {
    replay("client_hello", |hello| {
        for piece in [0, 1, 6, 63] {
            second_hello::run(&[&[piece], hello].concat());
            second_hello::run(&[&[piece], hello, hello].concat());
        }
    });
}
