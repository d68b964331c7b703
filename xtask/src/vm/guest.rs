//! The content of a machine: an initramfs with busybox, `ip`, the kernel's modules, the agent and
//! the escape suite, and an `init` that runs them and ends the machine.
//!
//! Owns its creation. The programs are copies of the host's, with their libraries.

use super::kernels::{Files, Kernel, Role, run};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The last output of `init`, before the exit code.
pub const END: &str = "xtask-vm-end";

/// The test of the suite of packets.
const PACKETS: &str = "kernel_and_host_agree_on_100_000_random_packets";

/// Modules for the paths that are not built into the kernel, below `kernel/`. Their dependences are added.
const MODULES: &[&str] = &[
    "drivers/net/veth",
    "net/sctp/sctp",
    "net/dccp/dccp",
    "net/dccp/dccp_ipv4",
    "net/dccp/dccp_ipv6",
    "net/tipc/tipc",
    "net/rds/rds",
    "net/smc/smc",
    "net/vmw_vsock/vsock",
    "net/l2tp/l2tp_ip",
    "net/l2tp/l2tp_ip6",
    "crypto/af_alg",
];

/// The host's programs that a machine gets.
pub struct Programs {
    /// The folder of the agent and of the escape suite.
    pub folder: PathBuf,
    /// The suite that compares the kernel's verdicts on packets with the host's.
    pub packets: PathBuf,
}

/// Writes the initramfs.
pub fn build(
    kernel: &Kernel,
    files: &Files,
    programs: &Programs,
    filter: &str,
    to: &Path,
) -> Result<()> {
    let root = to.with_extension("root");
    let _ = fs::remove_dir_all(&root);
    for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "run"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for program in ["busybox", "ip", "modprobe"] {
        let found = which(program)?;
        program_with_libraries(&found, &root, program)?;
    }
    let [agent, escape] = ["egress-agent", "escape"].map(|name| (name, programs.folder.join(name)));
    for (program, path) in [agent, escape, ("packets", programs.packets.clone())] {
        program_with_libraries(&path, &root, program)?;
        // Debug information is most of their size, and the machine does not need it.
        run(Command::new("strip").arg(root.join("bin").join(program)))?;
    }
    // The kernel runs this path to load the module of a socket family.
    std::os::unix::fs::symlink("/bin/modprobe", root.join("sbin/modprobe"))?;
    modules(files, &root)?;
    let init = root.join("init");
    fs::write(&init, script(kernel, filter))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(&root, to)?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn script(kernel: &Kernel, filter: &str) -> String {
    let work = match kernel.role {
        Role::Suite => format!("/bin/escape suite {filter} && /bin/packets {PACKETS}"),
        Role::Refusal => {
            "mkdir /tmp/rules /sys/fs/cgroup/w; /bin/egress-agent run --rules /tmp/rules --cgroup /sys/fs/cgroup/w"
                .to_owned()
        }
    };
    // Debian's kernels do not load the rarer protocols by themselves.
    let load: Vec<String> = MODULES
        .iter()
        .filter_map(|module| module.rsplit('/').next())
        .map(|module| format!("modprobe -q {module}"))
        .collect();
    let load = load.join("\n");
    format!(
        "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
/bin/ip link set lo up
{load}
export EGRESS_AGENT_BIN=/bin/egress-agent EGRESS_ESCAPE_BIN=/bin/escape EGRESS_TEST_SLOW=8
{work} 2>&1
echo {END} $?
sync
poweroff -f
"
    )
}

fn which(program: &str) -> Result<PathBuf> {
    crate::ebpf::find_on_path(program)
        .into_iter()
        .chain(["/usr/sbin", "/sbin", "/bin"].map(|dir| Path::new(dir).join(program)))
        .find(|path| path.is_file())
        .with_context(|| format!("no {program} on this machine"))
}

/// Copies a program to `/bin/NAME`, and its shared libraries to their own paths.
fn program_with_libraries(program: &Path, root: &Path, name: &str) -> Result<()> {
    fs::copy(program, root.join("bin").join(name))
        .with_context(|| format!("copying {}", program.display()))?;
    let output = Command::new("ldd").arg(program).output()?;
    for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
        let target = root.join(library.strip_prefix("/").unwrap_or(&library));
        if target.exists() {
            continue;
        }
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::copy(&library, &target).with_context(|| format!("copying {}", library.display()))?;
    }
    Ok(())
}

/// The paths in the output of ldd: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(ldd: &str) -> Vec<PathBuf> {
    ldd.lines()
        .filter_map(|line| {
            let path = line.split("=>").last()?.trim().split(' ').next()?;
            path.starts_with('/').then(|| path.into())
        })
        .collect()
}

/// The listed modules and their dependences, with new indices.
fn modules(files: &Files, root: &Path) -> Result<()> {
    let from = files.root.join("lib/modules").join(&files.release);
    if !from.join("modules.dep").exists() {
        run(Command::new(which("depmod")?)
            .arg("-b")
            .arg(&files.root)
            .arg(&files.release))?;
    }
    let depends = fs::read_to_string(from.join("modules.dep"))?;
    let to = root.join("lib/modules").join(&files.release);
    for file in closure(&depends, MODULES) {
        let target = to.join(&file);
        fs::create_dir_all(target.parent().context("a folder")?)?;
        fs::copy(from.join(&file), target)?;
    }
    for index in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        // Not every release has all of these files.
        let _ = fs::copy(from.join(index), to.join(index));
    }
    run(Command::new(which("depmod")?)
        .arg("-b")
        .arg(root)
        .arg(&files.release))
}

/// The lines of modules.dep are `FILE: FILE...`, each below the release's folder.
fn closure(depends: &str, wanted: &[&str]) -> BTreeSet<String> {
    depends
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(file, _)| {
            wanted.iter().any(|w| {
                file.strip_prefix("kernel/")
                    .and_then(|f| f.strip_prefix(w))
                    .is_some_and(|rest| rest.starts_with(".ko"))
            })
        })
        .flat_map(|(file, more)| std::iter::once(file).chain(more.split_whitespace()))
        .map(str::to_owned)
        .collect()
}

/// The format that the kernel unpacks (Documentation/driver-api/early-userspace).
fn archive(root: &Path, to: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(root, root, &mut names)?;
    let mut cpio = Command::new("cpio")
        .args([
            "--create",
            "--format=newc",
            "--quiet",
            "--owner=0:0",
            "--null",
        ])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to)?)
        .spawn()
        .context("cannot run cpio")?;
    let mut input = cpio.stdin.take().context("a pipe")?;
    for name in names {
        input.write_all(name.as_os_str().as_encoded_bytes())?;
        input.write_all(b"\0")?;
    }
    drop(input);
    if !cpio.wait()?.success() {
        bail!("cpio failed");
    }
    Ok(())
}

fn list(dir: &Path, root: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        names.push(entry.path().strip_prefix(root)?.to_path_buf());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), root, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_of_libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so (0x3)\n\tnot a dynamic executable\n";
        let want: Vec<PathBuf> = vec!["/lib/x/libc.so.6".into(), "/lib64/ld.so".into()];
        assert_eq!(libraries(text), want);
    }

    #[test]
    fn a_module_comes_with_what_it_depends_on_and_no_namesake() {
        let depends = "kernel/net/rds/rds.ko.xz:\nkernel/net/rds/rds_tcp.ko.xz: kernel/net/rds/rds.ko.xz\nkernel/net/sctp/sctp.ko: kernel/lib/libcrc32c.ko\n";
        let files = closure(depends, &["net/rds/rds", "net/sctp/sctp"]);
        assert_eq!(
            files.into_iter().collect::<Vec<_>>(),
            [
                "kernel/lib/libcrc32c.ko",
                "kernel/net/rds/rds.ko.xz",
                "kernel/net/sctp/sctp.ko"
            ]
        );
    }
}
