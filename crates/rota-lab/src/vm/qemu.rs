// SPDX-License-Identifier: GPL-2.0-only
//! QEMU: its command line, its accelerators, and its process.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::host_cpu::HostCpu;
use super::tsc;
use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::kernel::Store;
use crate::topology::Topology;

/// i440fx, because with q35 a counted run is not the same twice.
const PC: &str = "pc";
/// QEMU's own board, with an interrupt controller that any number of CPUs can share.
const VIRT: &str = "virt,gic-version=3";

/// The emulator, one virtual CPU at a time: guests enough run beside each other to use all of the
/// host's, and no CPU is held up in the middle of what others wait for.
const TCG: &str = "tcg,thread=single";
/// The emulator, with a thread of the host for each virtual CPU. QEMU 7.2 corrupted kernel text that
/// is patched in this way, 10.0 does not.
const TCG_PARALLEL: &str = "tcg,thread=multi";
/// Without Intel's vendor id the emulated cache ids differ between CPUs of one cache.
const TCG_CPU: &str = "max,vendor=GenuineIntel";
/// The last leaf of CPUID before the one that tells of dies: QEMU 10.0 aborts when a guest asks that
/// one for more levels than there are, as Linux does. Which CPUs share a cache is told by another.
const NO_DIES: &str = "level=0x1e";

/// Everything that an arm64 processor can have, but pointers are signed with a simple function: the
/// architecture's own takes most of an emulator's time.
const ARM_CPU: &str = "max,pauth-impdef=on";

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// The processor itself.
    Kvm,
    /// QEMU's emulator, which turns from one CPU to the next.
    Tcg,
    /// The same, all CPUs at once.
    TcgParallel,
}

impl Accel {
    /// The best that works on this machine for guests of `arch`, found out once.
    pub fn best(arch: Arch) -> Self {
        if arch != Arch::X86_64 {
            return Self::Tcg;
        }
        static BEST: OnceLock<Accel> = OnceLock::new();
        *BEST.get_or_init(|| if kvm_works() { Self::Kvm } else { Self::Tcg })
    }

    /// What gives guests of `arch` a time that passes like this.
    pub(super) fn with(clock: Clock, arch: Arch) -> Self {
        match (clock, Self::best(arch)) {
            (Clock::Host, best) => best,
            (Clock::Counted { .. }, _) => Self::Tcg,
            (Clock::Parallel, Self::Kvm) => Self::Kvm,
            (Clock::Parallel, _) => Self::TcgParallel,
        }
    }

    /// `KVM`, `TCG` or `parallel TCG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
            Self::TcgParallel => "parallel TCG",
        }
    }
}

/// How time passes in the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    /// As on the host; no two runs are alike.
    #[default]
    Host,
    /// Virtual: a fixed time for each instruction, so that a run depends on nothing but its seed. The
    /// guest gets one CPU of the host.
    Counted {
        /// An instruction takes 2^shift ns.
        shift: u8,
        /// Chooses one of many interleavings.
        seed: u64,
    },
    /// As on the host, and the CPUs run at the same time, as far as the host has any to spare: what
    /// two do at once meets in the middle, and not only between two instructions.
    Parallel,
}

impl Clock {
    /// Whether it counts instructions.
    fn counts(self) -> bool {
        matches!(self, Self::Counted { .. })
    }

    /// With another interleaving, if this clock has one to choose.
    pub fn seeded(mut self, by: u64) -> Self {
        if let Self::Counted { seed, .. } = &mut self {
            *seed = by;
        }
        self
    }
}

/// What QEMU is started with.
#[derive(Debug)]
pub struct Machine<'a> {
    pub accel: Accel,
    pub clock: Clock,
    pub topology: &'a Topology,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// What tells the kernel of its machine, where firmware does not.
    pub device_tree: Option<&'a Path>,
    pub console: &'a Path,
    /// Added to the kernel's command line.
    pub append: &'a [String],
}

impl Machine<'_> {
    fn args(&self) -> Vec<OsString> {
        let arch = self.topology.arch();
        let board = match arch {
            Arch::X86_64 => PC,
            Arch::Arm64 => VIRT,
        };
        let mut args: Vec<OsString> =
            ["-M", board, "-nodefaults", "-display", "none", "-no-reboot"]
                .map(Into::into)
                .into();
        let mut push = |words: &[&str]| args.extend(words.iter().map(OsString::from));
        let mut cpu = match self.accel {
            Accel::Kvm => "host".to_owned(),
            Accel::Tcg | Accel::TcgParallel => emulated(self.topology),
        };
        if self.clock.counts() && arch == Arch::X86_64 {
            // Those of arm64 follow from the seed.
            cpu += ",-rdrand,-rdseed";
        }
        let accel = match self.accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => TCG,
            Accel::TcgParallel => TCG_PARALLEL,
        };
        push(&["-accel", accel, "-cpu", &cpu]);
        if let Clock::Counted { shift, seed } = self.clock {
            push(&["-icount", &format!("shift={shift},sleep=off,align=off")]);
            push(&[
                "-rtc",
                "base=2026-01-01,clock=vm",
                "-seed",
                &seed.to_string(),
            ]);
        }
        args.extend(self.topology.qemu_args().into_iter().map(OsString::from));
        let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
        option("-kernel", self.kernel.into());
        option("-initrd", self.initramfs.into());
        option("-append", self.command_line().into());
        if let Some(device_tree) = self.device_tree {
            option("-dtb", device_tree.into());
        }
        option("-chardev", with_path("file,id=console,path=", self.console));
        option("-chardev", "stdio,id=protocol,signal=off".into());
        option("-serial", "chardev:console".into());
        match arch {
            Arch::X86_64 => option("-serial", "chardev:protocol".into()),
            // The board has one port, and room for cards.
            Arch::Arm64 => option("-device", "pci-serial,chardev=protocol".into()),
        }
        args
    }

    fn command_line(&self) -> String {
        // Nothing secret is in a guest: mitigations only cost time, random addresses only make
        // traces harder to compare.
        let arch = self.topology.arch();
        let console = match arch {
            Arch::X86_64 => "console=ttyS0",
            Arch::Arm64 => "console=ttyAMA0",
        };
        let mut words = vec![
            console,
            "panic=-1",
            "oops=panic",
            "nokaslr",
            "mitigations=off",
        ];
        // What would use CPU time beside the lab's tests, for seconds after a boot: the kernel's
        // tests of its ciphers, and its statistics of memory accesses.
        words.extend(["cryptomgr.notests=1", "damon_stat.enabled=0"]);
        words.push("rdinit=/init");
        if arch == Arch::X86_64 {
            // An emulated timer on a busy host may fail the kernel's test of its interrupt.
            words.extend(["tsc=reliable", "no_timer_check"]);
        }
        words.push("audit=0");
        if self.clock.counts() {
            words.push("random.trust_cpu=off");
            // QEMU turns to the next CPU after a part of the time until a timer is due. If all ticks
            // came at once, each CPU would have its part at the same place of every tick.
            words.push("skew_tick=1");
        }
        let real = self.accel != Accel::Kvm && !self.clock.counts();
        let khz = (arch == Arch::X86_64 && real).then(tsc::khz).flatten();
        let tsc = khz.map(|khz| format!("tsc_early_khz={khz}"));
        words.extend(tsc.as_deref());
        let topology = self.topology.kernel_args();
        words.extend(topology.as_deref());
        words.extend(self.append.iter().map(String::as_str));
        words.join(" ")
    }

    /// Starts QEMU with pipes to the protocol port.
    pub fn start(&self) -> Result<Process> {
        let arch = self.topology.arch();
        let mut command = emulator(arch)?;
        command.args(self.args());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A terminal's ^C is for the host program alone, which then ends the guest in order.
        command.process_group(0);
        let host_cpu = self.clock.counts().then(HostCpu::lease).flatten();
        let affinity = host_cpu.as_ref().map(HostCpu::set);
        let prepare = move || {
            if let Some(cpus) = &affinity {
                sched_setaffinity(Pid::from_raw(0), cpus)?;
            }
            prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
        };
        // SAFETY: the closure only makes system calls, which is allowed between fork and exec.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn().map_err(|error| qemu_error(&error))?;
        Ok(Process {
            child,
            _host_cpu: host_cpu,
        })
    }
}

/// Writes the device tree of an arm64 machine to `path`, as QEMU would hand it to the kernel.
pub fn dump_device_tree(topology: &Topology, path: &Path) -> Result<()> {
    let mut command = emulator(topology.arch())?;
    command.arg("-M");
    command.arg(with_path(&format!("{VIRT},dumpdtb="), path));
    command.args(["-cpu", ARM_CPU, "-nodefaults", "-display", "none"]);
    command.args(topology.qemu_args()).stdin(Stdio::null());
    let output = command.output().map_err(|error| qemu_error(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let words = text.lines().next().unwrap_or("no device tree");
    Err(Error::Qemu {
        detail: words.to_owned(),
    })
}

/// An option that ends with a path. A comma separates options, so one in a path is doubled.
fn with_path(option: &str, path: &Path) -> OsString {
    let mut option = OsString::from(option);
    option.push(path.to_string_lossy().replace(',', ",,"));
    option
}

/// The emulated processor.
fn emulated(topology: &Topology) -> String {
    match topology.arch() {
        Arch::X86_64 if topology.dies() > 1 => format!("{TCG_CPU},{NO_DIES}"),
        Arch::X86_64 => TCG_CPU.to_owned(),
        Arch::Arm64 => ARM_CPU.to_owned(),
    }
}

fn qemu_error(error: &io::Error) -> Error {
    Error::Qemu {
        detail: format!("it does not start: {error}"),
    }
}

/// What starts QEMU for guests of `arch`.
fn emulator(arch: Arch) -> Result<Command> {
    let found = Store::open()?.on(arch).find_emulator();
    let found = found.ok_or(Error::NoEmulator(arch))?;
    Ok(found.command())
}

/// The first file called `name` on the `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A running QEMU; killed when dropped, and by the kernel when the thread that started it dies.
#[derive(Debug)]
pub struct Process {
    /// The process and its pipes.
    pub child: Child,
    /// Where it runs, if that is one CPU alone.
    _host_cpu: Option<HostCpu>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether KVM works, which `/dev/kvm` alone does not promise: a VM must start with it.
fn kvm_works() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtual_machines = flags
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        });
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    virtual_machines && device && kvm_starts().unwrap_or(false)
}

/// Starts a VM that executes nothing, and ends it through QEMU's monitor.
fn kvm_starts() -> io::Result<bool> {
    let mut command = emulator(Arch::X86_64).map_err(io::Error::other)?;
    let mut child = command
        .args([
            "-M", "pc", "-accel", "kvm", "-cpu", "host", "-m", "64M", "-S",
        ])
        .args(["-nodefaults", "-display", "none", "-monitor", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    // Without KVM, QEMU is gone before it reads this.
    let _ = child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(b"quit\n");
    Ok(child.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(clock: Clock, accel: Accel, console: &str) -> String {
        line_of("1x4x1", clock, accel, console)
    }

    fn line_of(topology: &str, clock: Clock, accel: Accel, console: &str) -> String {
        let topology: Topology = topology.parse().unwrap();
        let tree = topology.is_hybrid().then_some(Path::new("/r/machine.dtb"));
        let machine = Machine {
            accel,
            clock,
            topology: &topology,
            kernel: Path::new("/k/vmlinuz"),
            initramfs: Path::new("/r/initramfs"),
            device_tree: tree,
            console: Path::new(console),
            append: &["isolcpus=1".into()],
        };
        let args: Vec<_> = machine
            .args()
            .iter()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        args.join(" ")
    }

    #[test]
    fn the_guest_has_two_serial_ports_and_our_command_line() {
        let line = line(Clock::Host, Accel::Tcg, "/r/console.log");
        for part in [
            "-accel tcg,thread=single -cpu max,vendor=GenuineIntel",
            "-kernel /k/vmlinuz -initrd /r/initramfs",
            "-chardev file,id=console,path=/r/console.log",
            "-serial chardev:console -serial chardev:protocol",
            "panic=-1",
            " isolcpus=1 ",
        ] {
            assert!(format!("{line} ").contains(part), "{part}: {line}");
        }
        assert!(!line.contains("icount"));
    }

    #[test]
    fn a_counted_clock_shuts_out_the_host() {
        let clock = Clock::Counted { shift: 3, seed: 7 };
        // Whatever this machine has.
        let accel = Accel::with(clock, Arch::X86_64);
        let line = line(clock, accel, "/r/console.log");
        for part in [
            "tcg,thread=single",
            "-icount shift=3,sleep=off,align=off",
            "-seed 7",
            "-rtc base=2026-01-01,clock=vm",
            "-rdrand,-rdseed",
            "random.trust_cpu=off",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("virtio") && !line.contains("kvm"));
    }

    #[test]
    fn a_hybrid_machine_is_an_arm64_board_with_our_device_tree() {
        let line = line_of("hybrid:2+2", Clock::Host, Accel::Tcg, "/r/console.log");
        for part in [
            "-M virt,gic-version=3 -nodefaults",
            "-accel tcg,thread=single -cpu max,pauth-impdef=on",
            "-smp cpus=4,",
            "-dtb /r/machine.dtb",
            "-append console=ttyAMA0 panic=-1 ",
            "-serial chardev:console -device pci-serial,chardev=protocol",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(
            !line.contains("tsc") && !line.contains("no_timer_check"),
            "{line}"
        );
    }

    #[test]
    fn a_machine_of_several_dies_is_not_asked_for_them() {
        let dies = line_of("1x2x4x1", Clock::Host, Accel::Tcg, "/r/console.log");
        assert!(
            dies.contains("-cpu max,vendor=GenuineIntel,level=0x1e -"),
            "{dies}"
        );
    }

    #[test]
    fn an_x86_machine_is_what_it_was() {
        let counted = Clock::Counted { shift: 3, seed: 7 };
        assert_eq!(
            line(counted, Accel::Tcg, "/r/console.log"),
            "-M pc -nodefaults -display none -no-reboot \
             -accel tcg,thread=single -cpu max,vendor=GenuineIntel,-rdrand,-rdseed \
             -icount shift=3,sleep=off,align=off -rtc base=2026-01-01,clock=vm -seed 7 \
             -m 768M -smp cpus=4,sockets=1,dies=1,cores=4,threads=1 \
             -kernel /k/vmlinuz -initrd /r/initramfs \
             -append console=ttyS0 panic=-1 oops=panic nokaslr mitigations=off \
             cryptomgr.notests=1 damon_stat.enabled=0 rdinit=/init tsc=reliable no_timer_check \
             audit=0 random.trust_cpu=off skew_tick=1 isolcpus=1 \
             -chardev file,id=console,path=/r/console.log \
             -chardev stdio,id=protocol,signal=off \
             -serial chardev:console -serial chardev:protocol"
        );
    }

    #[test]
    fn parallel_cpus_are_threads_of_the_emulator() {
        let line = line(Clock::Parallel, Accel::TcgParallel, "/r/console.log");
        assert!(line.contains("-accel tcg,thread=multi -cpu max,vendor=GenuineIntel -m"));
        assert_eq!(
            Accel::with(Clock::Parallel, Arch::Arm64),
            Accel::TcgParallel
        );
    }

    #[test]
    fn a_comma_in_a_path_is_no_separator() {
        assert!(line(Clock::Host, Accel::Tcg, "/a,b/log").contains("path=/a,,b/log"));
    }
}
