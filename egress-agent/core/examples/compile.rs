//! Prints what 10 000 ServiceEntries and 10 000 VirtualServices cost: compiling them, changing one,
//! planning a change that does not come, the names of a denial, and the memory of it all.
//! `cargo run --release -p egress-core --example compile [POLICIES]`.

use egress_core::istio::{Object, decode};
use egress_core::policy::leases::Answer;
use egress_core::policy::state::{Settings, State};
use egress_core::policy::tables::Transport;
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::Reason;
use std::io;
use std::net::IpAddr;
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

/// A service of one namespace alone, so that its workloads have a policy of their own.
fn own(n: usize) -> Vec<Arc<Object>> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: own, namespace: n{n}}}\n\
         spec:\n  hosts: [own{n}.example]\n  exportTo: ['.']\n  resolution: STATIC\n  \
         ports: [{{number: 5432, name: t, protocol: TCP}}]\n  endpoints: [{{address: 198.51.100.7}}]\n"
    );
    let objects = decode("own.yaml", &text).objects.into_iter();
    objects.map(Arc::new).collect()
}

/// Resident memory of this process, in MiB.
fn resident() -> io::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    let pages = pages.ok_or_else(|| io::Error::other("statm has no resident pages"))?;
    Ok(pages * 4096.0 / 1024.0 / 1024.0)
}

fn main() -> io::Result<()> {
    let policies = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let policies: usize = policies.unwrap_or(0);
    let mut rules: Vec<_> = (0..HOSTS).flat_map(|n| objects(n, 3)).collect();
    rules.extend((0..policies).flat_map(own));
    println!("decoded: {:.0} MiB resident", resident()?);
    let now = Instant::now();
    let mut state = State::new(Settings::default());
    let begin = Instant::now();
    state.handle_rules(now, &rules);
    drop(state.routes());
    println!("compiled without addresses: {:?}", begin.elapsed());
    let begin = Instant::now();
    for n in 0..policies {
        let workload = Workload {
            namespace: format!("n{n}"),
            ..Workload::default()
        };
        state.handle_workload(now, CgroupId(n as u64 + 1), workload);
    }
    drop((state.routes(), state.poll_ops()));
    println!("{policies} policies more: {:?}", begin.elapsed());
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
    denials(&state);
    let objects = [&rules[1..], &[]].concat();
    let begin = Instant::now();
    drop(state.plan_rules(now, &objects));
    println!("a change planned and dropped: {:?}", begin.elapsed());
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

/// What the log asks for each denied destination: one that is listed on other ports, and one that
/// nothing lists.
fn denials(state: &State) {
    let names = state.names();
    let known = (0..HOSTS).map(|n| IpAddr::from([203, 0, (n >> 8) as u8, n as u8]));
    let unknown = (0..HOSTS).map(|n| IpAddr::from([198, 18, (n >> 8) as u8, n as u8]));
    for (what, addresses) in [
        ("known", known.collect::<Vec<_>>()),
        ("unknown", unknown.collect()),
    ] {
        let begin = Instant::now();
        for ip in &addresses {
            std::hint::black_box(names.of(*ip));
            std::hint::black_box(names.nearest(
                PolicyId(0),
                *ip,
                8080,
                Transport::Tcp,
                Reason::NotListed,
            ));
        }
        let each = begin.elapsed() / HOSTS as u32;
        println!("names of a denial, {what} address: {each:?}");
    }
}
