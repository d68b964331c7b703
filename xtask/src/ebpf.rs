//! Finds a toolchain for the BPF programs, and compiles them into one object file.
//!
//! Owns the list of usable toolchains and the command line of that build. xtask uses it as a module, and the agent's
//! build script includes this file, so that `cargo build` and `cargo xtask` cannot differ. `provision` installs the
//! tools.

use anyhow::{Context as _, Result, bail};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The LLVM that the provisioned `bpf-linker` is built against.
///
/// The linker reads the compiler's bitcode, so it must not be older than the compiler's LLVM.
pub const LINKER_LLVM: u32 = 22;

/// The oldest compiler that builds this workspace: its `rust-version`.
const OLDEST: (u32, u32) = (1, 95);

/// The target that the programs are built for: BPF, little endian.
const TARGET: &str = "bpfel-unknown-none";

/// A compiler for the BPF target, with the library source that `-Z build-std` needs, and a
/// linker that understands its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Its name, for people.
    pub name: String,
    /// The compiler itself, never a rustup proxy, because a proxy would obey `RUSTUP_TOOLCHAIN`.
    pub rustc: PathBuf,
    /// The cargo that belongs to it.
    pub cargo: PathBuf,
    /// Whether the compiler is a stable release, which needs a setting to accept `-Z`.
    pub bootstrap: bool,
    /// `bpf-linker`.
    pub linker: PathBuf,
}

/// A compiler, without a linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    name: String,
    rustc: PathBuf,
    cargo: PathBuf,
    bootstrap: bool,
    llvm: u32,
}

/// The folder where xtask keeps the tools that it built: `$EGRESS_TOOLS`, else
/// `egress-xtask` in the user's cache folder.
pub fn tools_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("EGRESS_TOOLS") {
        return Ok(dir.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set: set EGRESS_TOOLS to a folder for the build tools")?;
    Ok(cache.join("egress-xtask"))
}

/// Where the provisioned linker stands below [`tools_dir`].
pub fn provisioned_linker() -> Result<PathBuf> {
    Ok(tools_dir()?.join(format!("linker-llvm{LINKER_LLVM}/bin/bpf-linker")))
}

/// The toolchain to use, or `None` if a part of it is missing.
pub fn find() -> Result<Option<Toolchain>> {
    let own = provisioned_linker()?;
    let on_path = find_on_path("bpf-linker");
    Ok(compilers().into_iter().find_map(|compiler| {
        let linker = if own.is_file() && compiler.llvm <= LINKER_LLVM {
            own.clone()
        } else {
            on_path.clone()?
        };
        Some(Toolchain {
            name: compiler.name,
            rustc: compiler.rustc,
            cargo: compiler.cargo,
            bootstrap: compiler.bootstrap,
            linker,
        })
    }))
}

/// Every compiler of this machine with the library source: a rustup nightly first, then the distribution's (`rustc-web`
/// and `rust-web-src` on Debian).
pub fn compilers() -> Vec<Compiler> {
    let mut found = Vec::new();
    if let Some(sysroot) = rustup_nightly_sysroot() {
        found.extend(compiler("rustup nightly", &sysroot.join("bin")));
    }
    found.extend(compiler("the distribution's rustc", Path::new("/usr/bin")));
    found
}

/// The programs on `PATH`, first match.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn rustup_nightly_sysroot() -> Option<PathBuf> {
    // RUSTUP_AUTO_INSTALL: a query must never start a download.
    let output = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| sysroot.trim().into())
}

fn compiler(name: &str, bin: &Path) -> Option<Compiler> {
    let (rustc, cargo) = (bin.join("rustc"), bin.join("cargo"));
    if !cargo.is_file() {
        return None;
    }
    let ask = |args: &[&str]| -> Option<String> {
        let output = Command::new(&rustc)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8(output.stdout).ok())?
    };
    let sysroot = ask(&["--print", "sysroot"])?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let version = ask(&["-vV"])?;
    let version = Version::parse(&version)?;
    (core.is_file() && version.rust >= OLDEST).then(|| Compiler {
        name: name.to_owned(),
        rustc,
        cargo,
        bootstrap: version.release,
        llvm: version.llvm,
    })
}

/// The needed part of `rustc -vV`.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    rust: (u32, u32),
    /// A release, not a nightly.
    release: bool,
    /// The major version.
    llvm: u32,
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let release = value("release: ")?;
        let mut numbers = release.split('.').map_while(|part| part.parse().ok());
        Some(Self {
            rust: (numbers.next()?, numbers.next()?),
            release: !release.contains("nightly") && !release.contains("dev"),
            llvm: value("LLVM version: ")?.split('.').next()?.parse().ok()?,
        })
    }
}

/// Compiles the BPF programs of the workspace at `root` and returns the object's path.
///
/// `target` is the workspace's target folder; the programs get a folder of their own in it, so that the build can run
/// inside another cargo without waiting for its lock. If nothing changed, only cargo's freshness check runs. `next`
/// builds the version to which the tests upgrade, in another folder, so that neither build makes the other stale.
pub fn build(toolchain: &Toolchain, root: &Path, target: &Path, next: bool) -> Result<PathBuf> {
    let (folder, features) = if next {
        ("bpf-next", "bpf,next")
    } else {
        ("bpf", "bpf")
    };
    let target_dir = target.join(folder);
    let mut cargo = Command::new(&toolchain.cargo);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "egress-ebpf",
            "--bin",
            "egress-ebpf",
        ])
        .args(["--no-default-features", "--features", features])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target_dir)
        .stdin(Stdio::null());
    // An outer cargo runs xtask and the build script. Its variables describe the host's compiler.
    for (name, _) in env::vars_os() {
        if describes_outer_build(&name) {
            cargo.env_remove(name);
        }
    }
    cargo
        .env("RUSTC", &toolchain.rustc)
        // BTF comes from the debug information, and aya's maps and CO-RE need BTF.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        // More units give code that the verifier rejects.
        .env("CARGO_INCREMENTAL", "0")
        // The release profile strips the agent, but must not strip the object that it loads.
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker);
    if toolchain.bootstrap {
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = cargo
        .output()
        .with_context(|| format!("cannot run {}", toolchain.cargo.display()))?;
    if !output.status.success() {
        bail!(
            "the BPF programs do not build with {} and {}:\n{}",
            toolchain.name,
            toolchain.linker.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let object = target_dir.join(TARGET).join("release/egress-ebpf");
    if !fs::metadata(&object).is_ok_and(|meta| meta.len() > 0) {
        bail!(
            "the build of the BPF programs left no object at {}",
            object.display()
        );
    }
    Ok(object)
}

/// Whether this variable of an outer cargo, rustup or clippy would change the inner build.
fn describes_outer_build(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    matches!(
        name,
        "RUSTC"
            | "RUSTC_WRAPPER"
            | "RUSTC_WORKSPACE_WRAPPER"
            | "RUSTC_BOOTSTRAP"
            | "RUSTDOC"
            | "RUSTDOCFLAGS"
            | "RUSTFLAGS"
            | "RUSTUP_TOOLCHAIN"
            | "CARGO"
            | "CARGO_ENCODED_RUSTFLAGS"
            | "CARGO_MANIFEST_DIR"
            | "CARGO_TARGET_DIR"
            | "TARGET"
            | "HOST"
            | "PROFILE"
            | "OPT_LEVEL"
            | "DEBUG"
    ) || [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}

/// The error text if there is no toolchain.
pub const MISSING: &str = "\
no compiler for the BPF programs: run `cargo xtask setup`, which finds or installs one.
By hand: `rustup toolchain install nightly --component rust-src` and a bpf-linker of the same LLVM on PATH,
or build the object elsewhere and set EGRESS_BPF_OBJECT to its path";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_a_release_and_of_a_nightly_are_told_apart() {
        let parse = |release: &str| {
            Version::parse(&format!(
                "rustc x\nrelease: {release}\nLLVM version: 22.1.8\n"
            ))
        };
        let expected = |rust, release| {
            Some(Version {
                rust,
                release,
                llvm: 22,
            })
        };
        assert_eq!(parse("1.96.0"), expected((1, 96), true));
        assert_eq!(parse("1.97.0-nightly"), expected((1, 97), false));
        assert_eq!(Version::parse("release: 1.96.0\n"), None);
    }

    #[test]
    fn the_inner_build_does_not_inherit_the_outer_builds_settings() {
        for name in [
            "RUSTUP_TOOLCHAIN",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_CFG_TARGET_OS",
        ] {
            assert!(describes_outer_build(&name.into()), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "PATH", "CARGO_MAKEFLAGS"] {
            assert!(!describes_outer_build(&name.into()), "{name}");
        }
    }
}
