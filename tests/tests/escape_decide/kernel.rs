//! The programs as functions, by `BPF_PROG_TEST_RUN`.

use aya::programs::Program;
use aya::{Ebpf, EbpfLoader};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

/// The head of `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    more: [u64; 3],
}

/// What a program returns for an IP packet.
pub fn run(program: BorrowedFd<'_>, packet: &[u8]) -> u32 {
    const COMMAND: libc::c_long = 10;
    // No EtherType of IP: the kernel would refuse to run a packet that is cut short. The programs
    // begin at the IP header and do not look.
    let kind: u16 = 0x88b5;
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(packet);
    let mut attribute = TestRun {
        program: program.as_raw_fd().cast_unsigned(),
        size_in: u32::try_from(frame.len()).unwrap(),
        data_in: frame.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: the attribute is read and written within its own length; the frame outlives the call
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            COMMAND,
            &raw mut attribute,
            size_of::<TestRun>(),
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    attribute.result
}

/// Maps of a test's own and one loaded program. It must be loaded while every map is open.
pub fn loaded(name: &str) -> (Ebpf, OwnedFd) {
    let mut ebpf = EbpfLoader::new()
        .load(egress_agent::kernel::OBJECT)
        .unwrap();
    let program = ebpf.program_mut(name).unwrap();
    match program {
        Program::SocketFilter(p) => p.load().unwrap(),
        Program::CgroupSkb(p) => p.load().unwrap(),
        _ => panic!("{name}: not a program that BPF_PROG_TEST_RUN takes"),
    }
    let fd = program.fd().unwrap().as_fd().try_clone_to_owned().unwrap();
    (ebpf, fd)
}
