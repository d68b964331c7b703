//! Real resolvers and clients while addresses change: each resolves a name and connects at the first try.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod clients;
mod hosts;

use clients::{Built, clients};
use hosts::{Hosts, NAMES};
use std::env;
use std::fmt::Write as _;
use std::thread;

/// The variable that sets the rounds of every client. Without it they have fewer, so that the suite takes a minute.
const ROUNDS: &str = "EGRESS_TEST_ROUNDS";
/// The variable that names the clients to run, with commas. Without it all run.
const CLIENTS: &str = "EGRESS_TEST_CLIENTS";

#[test]
fn every_client_connects_at_the_first_try_while_addresses_rotate() {
    let mut hosts = Hosts::start();
    let built = Built::new();
    let mut clients = clients(&built);
    if let Ok(some) = env::var(CLIENTS) {
        clients.retain(|client| some.split(',').any(|word| word == client.word));
    }
    let words: Vec<&str> = clients.iter().map(|client| client.word).collect();
    hosts.serve(&words);
    let rounds: Option<usize> = env::var(ROUNDS).ok().map(|n| n.parse().unwrap());
    // As many at a time as CI has processors, twice: a client that waits leaves its processor to another.
    let mut wrong = String::new();
    for some in clients.chunks(4) {
        let ended: Vec<_> = thread::scope(|scope| {
            let run = |client| {
                let hosts = &hosts;
                scope.spawn(move || hosts.run(client, rounds))
            };
            let running: Vec<_> = some.iter().map(run).collect();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for (client, ended) in some.iter().zip(ended) {
            let seen = NAMES.map(|name| hosts.addresses(client.word, name).len());
            println!(
                "{}: {} rounds, {} failures, {seen:?} addresses, {:.1} s",
                client.word,
                ended.rounds,
                ended.failed.len(),
                ended.took.as_secs_f64()
            );
            for failure in &ended.failed {
                writeln!(wrong, "{}: {failure}", client.word).unwrap();
            }
            for (nth, least) in Hosts::least(client, &ended).into_iter().enumerate() {
                if seen[nth] < least {
                    let name = NAMES[nth];
                    writeln!(
                        wrong,
                        "{}: {} addresses of {name}, expected {least}: the test proves too little",
                        client.word, seen[nth]
                    )
                    .unwrap();
                }
            }
        }
    }
    let denied = hosts.denials();
    assert!(
        wrong.is_empty() && denied.is_empty(),
        "{wrong}\n{denied:#?}"
    );
}
