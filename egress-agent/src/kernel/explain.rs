//! Turns the errors of loading maps and programs into one line that says what to do.

use super::version::MINIMUM;
use crate::failure::Failure;
use aya::programs::ProgramError;

/// The innermost cause, on one line.
pub fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// For an error at creating or adopting the maps.
pub fn explain_load(error: aya::EbpfError) -> anyhow::Error {
    let text = format!("{error:#}");
    if denied(&error) {
        return Failure::privilege(format_args!(
            "loading BPF maps: {text}; run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
        .into();
    }
    anyhow::Error::new(error).context("loading BPF maps")
}

/// For an error at loading a program.
pub fn explain_program(name: &str, error: ProgramError) -> anyhow::Error {
    if denied(&error) {
        return Failure::privilege(format_args!(
            "loading program {name}: not permitted; run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        ))
        .into();
    }
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = &error
    {
        let log = verifier_log.to_string();
        if log.trim().is_empty() {
            return Failure::usage(format_args!(
                "this kernel has no hook for program {name} ({io_error}): it needs CONFIG_CGROUP_BPF and {}.{} or newer; nothing was attached",
                MINIMUM.0,
                MINIMUM.1
            ))
            .into();
        }
        return anyhow::anyhow!("the verifier rejected program {name} ({io_error}):\n{log}");
    }
    anyhow::Error::new(error).context(format!("loading program {name}"))
}

/// Whether the system call failed with EPERM. EACCES means that the verifier rejected the program.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return matches!(io.raw_os_error(), Some(libc::EPERM));
        }
        cause = e.source();
    }
    false
}
