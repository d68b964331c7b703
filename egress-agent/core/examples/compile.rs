//! Prints what 10 000 ServiceEntries and 10 000 VirtualServices cost: compiling them, changing
//! one, and the memory of it all. `cargo run --release -p egress-core --example compile`.

use egress_core::istio::{Object, decode};
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{Settings, State};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const HOSTS: usize = 10_000;

fn objects(n: usize, timeout: u32) -> Vec<Arc<Object>> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e{n}}}\nspec:\n  \
         hosts: [h{n}.example.com]\n  ports: [{{number: 443, name: t, protocol: TLS}}, \
         {{number: 80, name: h, protocol: HTTP}}]\n  resolution: DNS\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v{n}}}\nspec:\n  \
         hosts: [h{n}.example.com]\n  http: [{{timeout: {timeout}s, route: \
         [{{destination: {{host: h{n}.example.com, port: {{number: 80}}}}}}]}}]\n"
    );
    let objects = decode("many.yaml", &text).objects.into_iter();
    objects
        .map(|mut o| {
            o.forget_places();
            Arc::new(o)
        })
        .collect()
}

/// Resident memory of this process, in MiB.
fn resident() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("statm has no resident pages"))?;
    Ok(pages * 4096.0 / 1024.0 / 1024.0)
}

fn main() -> io::Result<()> {
    let mut rules: Vec<_> = (0..HOSTS).flat_map(|n| objects(n, 3)).collect();
    println!("decoded: {:.0} MiB resident", resident()?);
    let now = Instant::now();
    let mut state = State::new(Settings::default());
    let begin = Instant::now();
    state.handle_rules(now, &rules);
    drop(state.routes());
    println!("compiled without addresses: {:?}", begin.elapsed());
    while state.poll_query().is_some() {}
    for n in 0..HOSTS {
        let answer = Answer {
            addresses: vec![[203, 0, (n >> 8) as u8, n as u8].into()],
            ttl: Duration::from_mins(1),
        };
        state.handle_answer(now, &format!("h{n}.example.com"), Ok(answer));
    }
    drop((state.routes(), state.poll_ops()));
    println!("answered: {:.0} MiB resident", resident()?);
    let mut costs = Vec::new();
    for turn in 0..20 {
        let fresh = objects(turn * 7, 4 + turn as u32);
        // One turn the VirtualService, the next the ServiceEntry; then both gone and back.
        rules[turn * 14 + turn % 2] = Arc::clone(&fresh[turn % 2]);
        let begin = Instant::now();
        state.handle_rules(now, &rules);
        drop((state.routes(), state.poll_ops()));
        costs.push(begin.elapsed());
    }
    costs.sort();
    println!("one change: median {:?}, worst {:?}", costs[10], costs[19]);
    let begin = Instant::now();
    let mut fresh = State::new(Settings::default());
    fresh.handle_rules(now, &rules);
    drop((fresh.routes(), fresh.poll_ops()));
    println!(
        "compiled anew: {:?}; {:.0} MiB resident",
        begin.elapsed(),
        resident()?
    );
    Ok(())
}
