//! Programs of other software on an enforced root: `status` names them, and the gate denies as before.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::Lab;
use egress_tests::lab::{host, v4};
use egress_tests::readiness::wait_status;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// `BPF_CGROUP_INET4_CONNECT` of `enum bpf_attach_type`.
const CONNECT4: u32 = 10;

fn bpf(command: libc::c_long, attr: &[u64; 16]) -> i64 {
    // SAFETY: the kernel reads the attributes, and the memory that they point to outlives the call
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    assert!(
        result >= 0,
        "bpf({command}): {}",
        io::Error::last_os_error()
    );
    result
}

/// A program that allows every connect, as one that translates addresses does.
fn program(name: &str) -> OwnedFd {
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u64 = 18;
    // r0 = 1; exit
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let mut attr = [0_u64; 16];
    attr[0] = BPF_PROG_TYPE_CGROUP_SOCK_ADDR | (code.len() as u64) << 32;
    attr[1] = code.as_ptr() as u64;
    let licence = c"GPL";
    attr[2] = licence.as_ptr() as u64;
    let mut shown = [0_u8; 16];
    shown[..name.len()].copy_from_slice(name.as_bytes());
    // `prog_name` and `expected_attach_type` of `union bpf_attr`.
    attr[6] = u64::from_ne_bytes(shown[..8].try_into().unwrap());
    attr[7] = u64::from_ne_bytes(shown[8..].try_into().unwrap());
    attr[8] = u64::from(CONNECT4) << 32;
    let fd = bpf(BPF_PROG_LOAD, &attr);
    // SAFETY: the kernel has just returned this descriptor
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}

/// Attaches a program as Cilium does; it is detached with the cgroup.
fn attach(program: &OwnedFd, cgroup: &Path) {
    const BPF_PROG_ATTACH: libc::c_long = 8;
    const BPF_F_ALLOW_MULTI: u64 = 2;
    let folder = File::open(cgroup).unwrap();
    let number = |fd: i32| u64::from(fd.cast_unsigned());
    let mut attr = [0_u64; 16];
    attr[0] = number(folder.as_raw_fd()) | number(program.as_raw_fd()) << 32;
    attr[1] = u64::from(CONNECT4) | BPF_F_ALLOW_MULTI << 32;
    bpf(BPF_PROG_ATTACH, &attr);
}

#[test]
fn another_program_at_the_root_is_named_and_changes_no_verdict() {
    let lab = Lab::start().unwrap();
    let status = wait_status(&lab, "a status", |s| s["running"] == true).unwrap();
    assert_eq!(status["kernel"]["neighbours"], serde_json::json!([]));
    attach(&program("other_connect"), lab.workloads().path());
    let status = wait_status(&lab, "a status", |s| s["running"] == true).unwrap();
    let named = serde_json::json!(["connect4: other_connect"]);
    assert_eq!(status["kernel"]["neighbours"], named);
    let to = SocketAddr::new(v4(host::BYSTANDER), 80);
    assert!(lab.attempt("tcp", to).unwrap().denied());
    let socket = lab.admin_socket().display().to_string();
    let text = lab
        .verb(&["status", "--admin-socket", &socket])
        .unwrap()
        .stdout;
    assert!(
        text.contains("connect4: other_connect: other programs"),
        "{text}"
    );
}
