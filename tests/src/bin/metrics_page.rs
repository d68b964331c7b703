//! Prints docs/metrics.md, for `cargo xtask docs`.

fn main() {
    print!("{}", egress_agent::monitoring::page::markdown());
}
