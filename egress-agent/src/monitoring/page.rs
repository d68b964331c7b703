//! The page docs/metrics.md, made from the list of metrics.

use super::catalog::GROUPS;
use super::metric::{Described, Metric};
use std::fmt::{self, Write as _};

const ABOUT: &str = "# Metrics and health

`cargo xtask docs` writes this page from the list of metrics in `egress-agent/src/monitoring`; `cargo xtask lint` checks it.

The agent serves metrics and health over HTTP if `monitoring.address` is set (`--monitoring-address`):

```yaml
monitoring:
  address: 127.0.0.1:15020   # or IP:PORT, [IPv6]:PORT, or :PORT for every address of the agent's network namespace
```

In a pod without `hostNetwork`, `:15020` listens on the pod's address. It is off by default. [threat-model.md](threat-model.md) says what it reveals. If the agent cannot listen there, it logs that once and tries again; the gate is not affected.

| path | answer |
|---|---|
| `/metrics` | Prometheus' text format, or OpenMetrics if the client asks for it |
| `/livez` | 200 while the agent's engine answers, or has not answered for less than 30 s |
| `/readyz` | 200 if `egress-agent status` would exit with 0, else 503 with the reasons, one in each line |

Only GET and HEAD are answered, one request on each connection, without a body. Current values are gathered at most once a second, whatever the number of scrapes.

An agent that waits for another one to leave (`standby`) does not serve yet. In a DaemonSet with `maxSurge`, use `egress-agent status` as the readiness probe: with `/readyz` the waiting pod never becomes ready, and the update does not go on. A liveness probe is not needed, because a restart closes no gap.

`deploy/monitoring` has a PodMonitor, alerts and a dashboard.
";

/// The page.
pub fn markdown() -> String {
    let mut page = ABOUT.to_owned();
    // A write to a String does not fail.
    let _ = write_tables(&mut page);
    page
}

fn write_tables(page: &mut String) -> fmt::Result {
    for group in GROUPS {
        writeln!(page, "\n## {}\n", group.title)?;
        writeln!(
            page,
            "| metric | type | labels | meaning |\n|---|---|---|---|"
        )?;
        for Described {
            name,
            kind,
            labels,
            help,
        } in group.metrics.iter().filter_map(Metric::described)
        {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            let (kind, labels) = (kind.word(), labels.join(", "));
            writeln!(page, "| `{name}` | {kind} | {labels} | {help} |")?;
        }
    }
    Ok(())
}
