//! There is no way around the gate: every path of the matrix, with real sockets, on this kernel.

use egress_tests::escape::suite;

#[test]
fn no_path_gets_past_the_gate_but_those_that_the_page_names() {
    let cells = suite::run("", &mut |cell| println!("{cell}")).unwrap();
    let wrong: Vec<_> = cells.iter().filter(|c| !c.agreed).collect();
    assert!(wrong.is_empty(), "not as the page says: {wrong:#?}");
}

#[test]
fn no_path_leads_to_a_dns_server_past_the_agent_that_answers_queries() {
    let cells = suite::run_dns(&mut |cell| println!("{cell}")).unwrap();
    let wrong: Vec<_> = cells.iter().filter(|c| !c.agreed).collect();
    assert!(wrong.is_empty(), "something reached port 53: {wrong:#?}");
}
