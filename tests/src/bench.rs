//! The parts that all benches have: a line about the machine, and the end of the program.
//!
//! Owns neither figures nor arguments.

use anyhow::Result;
use std::process::ExitCode;

/// The machine's kernel, number of CPUs and present load. The figures apply to these only.
pub fn machine() -> Result<String> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Linux {}, {} CPUs, load {}",
        rustix::system::uname().release().to_string_lossy(),
        std::thread::available_parallelism()?,
        load.split(' ').next().unwrap_or_default()
    ))
}

/// Prints the error of a bench that failed. Returns the exit code of the program.
pub fn end(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
