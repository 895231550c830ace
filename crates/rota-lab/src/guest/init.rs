// SPDX-License-Identifier: GPL-2.0-only
//! PID 1: mounts, the worker, orphans, and the end.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, sync};

use super::{Port, WORKER, machine};
use crate::job::{BIN_DIR, Event};
use crate::topology::ONLINE_CPUS;

/// What is mounted: type, where, and options. Kernels without one of them still serve.
const MOUNTS: [(&str, &str, &str); 11] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755"),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("securityfs", "/sys/kernel/security", ""),
];

/// Brings the system up, runs the worker, takes the system down.
pub fn main() -> ExitCode {
    for (kind, place, options) in MOUNTS {
        // In /sys the place is there already, or the kernel has nothing to mount on it.
        let _ = fs::create_dir(place);
        if let Err(error) = mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            Some(options),
        ) {
            log::debug!("mounting {kind} on {place}: {error}");
        }
    }
    if let Err(error) = loopback_up() {
        log::warn!("bringing up lo: {error}");
    }
    take_cpus_offline();
    let end = supervise();
    let port = Port::open();
    match (port, end) {
        (Ok(port), Err(message)) => port.emit(&Event::Failed { message }),
        (Ok(port), Ok(())) => port.drain(),
        (Err(error), _) => log::error!("opening the protocol port: {error}"),
    }
    sync();
    // QEMU runs with -no-reboot, so this ends it.
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    log::error!("reboot: {error}");
    ExitCode::FAILURE
}

/// Runs the worker and reaps whatever else ends. An error is a worker that broke down.
fn supervise() -> Result<(), String> {
    let path = format!("{BIN_DIR}:/bin");
    // SAFETY: PID 1 has no other thread.
    unsafe {
        env::set_var("PATH", path);
        env::set_var("HOME", "/root");
    }
    let worker = Command::new("/proc/self/exe").arg(WORKER).spawn();
    let worker = worker.map_err(|error| format!("starting the worker: {error}"))?;
    let worker = Pid::from_raw(i32::try_from(worker.id()).expect("a pid fits"));
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, 0)) if pid == worker => return Ok(()),
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)))
                if pid == worker =>
            {
                return Err(format!("the worker broke down: {status:?}"));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("waiting for the worker: {error}")),
        }
    }
}

/// Leaves as many CPUs online as the host asks for.
fn take_cpus_offline() {
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let value = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(ONLINE_CPUS));
    let Some(count) = value.and_then(|value| value.strip_prefix('=')?.parse::<usize>().ok()) else {
        return;
    };
    for cpu in count..machine().possible_cpus {
        let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        if let Err(error) = fs::write(&file, "0") {
            log::error!("{file}: {error}");
        }
    }
}

/// `ip link set lo up`
fn loopback_up() -> io::Result<()> {
    let socket: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid ifreq, a struct of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        // C's own char, signed or not.
        *to = *from as libc::c_char;
    }
    let up = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("the flags are small");
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: the request lives across the call, and this command reads an ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &request) };
    Errno::result(result)?;
    Ok(())
}
