//! Builds the BPF programs and lays the object where the agent embeds it from:
//! `$OUT_DIR/egress-ebpf`.
//!
//! Owns only when that happens. How an object is built is xtask's module `ebpf`, included here
//! by path, so that a `cargo build` by hand does what `cargo xtask build` does. It installs
//! nothing.

use anyhow::{Context as _, Result};
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

/// A ready-made object, for machines that cannot compile for BPF.
const OBJECT: &str = "EGRESS_BPF_OBJECT";

fn main() {
    if let Err(error) = embed() {
        // Such a line fails the build, and cargo shows it without the rest of the output.
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn embed() -> Result<()> {
    let manifest = env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&manifest)
        .parent()
        .context("the agent stands in a workspace")?;
    for input in [
        "egress-ebpf/src",
        "egress-ebpf/Cargo.toml",
        "Cargo.lock",
        "xtask/src/ebpf.rs",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for variable in [OBJECT, "EGRESS_TOOLS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    // The feature `next`: see Cargo.toml.
    let next = env::var_os("CARGO_FEATURE_NEXT").is_some();
    if next {
        let version = env::var("CARGO_PKG_VERSION").context("cargo sets CARGO_PKG_VERSION")?;
        println!("cargo::rustc-env=CARGO_PKG_VERSION={version}+next");
    }
    let out = PathBuf::from(env::var("OUT_DIR").context("cargo sets OUT_DIR")?);
    let object = match env::var_os(OBJECT) {
        Some(object) => PathBuf::from(object),
        None => ebpf::build(
            &ebpf::find()?.context(ebpf::MISSING)?,
            root,
            &target_dir(root, &out),
            next,
        )?,
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object)
        .with_context(|| format!("cannot read the BPF object {}", object.display()))?;
    fs::write(out.join("egress-ebpf"), &bytes).context("cannot copy the BPF object to OUT_DIR")?;
    // By this digest the agent recognises programs that were loaded from the same object.
    let mut digest = DefaultHasher::new();
    bytes.hash(&mut digest);
    println!(
        "cargo::rustc-env=EGRESS_BPF_DIGEST={:016x}",
        digest.finish()
    );
    Ok(())
}

/// The workspace's target folder: the one above `OUT_DIR` that cargo marked as a cache.
fn target_dir(root: &Path, out: &Path) -> PathBuf {
    out.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| root.join("target"), Path::to_path_buf)
}
