//! Where log lines go and how they look. Says nothing of what is logged.

use crate::config::{Log, LogFormat};
use crate::failure::Failure;
use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// Sends all log lines of this process to stderr from here on. Once per process.
pub fn init(log: &Log) -> Result<(), Failure> {
    let filter = filter(&log.filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let done = match log.format {
        LogFormat::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .with_target(false)
            .try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    done.map_err(|e| Failure::usage(format_args!("log: {e}")))
}

fn filter(directives: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::builder().parse(directives).map_err(|e| {
        Failure::usage(format_args!(
            "log.filter: `{directives}`: {e}; want a level or module=level,..."
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_filter_that_is_none_is_bad_input() {
        for good in ["info", "debug,hickory_resolver=warn", "off"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        let bad = filter("egress_agent=loud").unwrap_err();
        assert!(bad.message.contains("egress_agent=loud"), "{bad}");
    }
}
