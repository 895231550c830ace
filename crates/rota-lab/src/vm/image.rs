// SPDX-License-Identifier: GPL-2.0-only
//! Fills a guest's initramfs: its first process, busybox, the programs under test and the job.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::qemu::find_program;
use crate::error::{Error, IoContext as _, Result};
use crate::initramfs::Initramfs;
use crate::job::{BIN_DIR, JOB_PATH, Job};

/// The guest's first process, by the name of its file.
const GUEST: &str = "rota-guest";
const BUSYBOX: &str = "busybox";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// The initramfs for `job`.
pub fn build(programs: &[PathBuf], files: &[(String, PathBuf)], job: &Job) -> Result<Initramfs> {
    let mut tree = Initramfs::new();
    for mount_point in ["/dev", "/proc", "/sys", "/run", "/root"] {
        tree.dir(mount_point, 0o755);
    }
    tree.dir("/tmp", 0o1777)
        // The kernel opens it for the first process before anything is mounted.
        .char_device("/dev/console", 0o600, 5, 1)
        .file("/etc/passwd", 0o644, PASSWD)
        .file("/etc/group", 0o644, GROUP)
        .file("/etc/hosts", 0o644, "127.0.0.1 localhost\n")
        .symlink("/sbin", "bin")
        .symlink("/usr/bin", "../bin")
        .symlink("/usr/sbin", "../bin");
    add_busybox(&mut tree, programs)?;
    add_programs(&mut tree, programs)?;
    for (path, from) in files {
        tree.host_file(path, mode(from), from);
    }
    tree.file(
        JOB_PATH,
        0o644,
        serde_json::to_vec(job).expect("a job is plain data"),
    );
    Ok(tree)
}

/// A file that can be executed on the host can be in the guest.
fn mode(file: &Path) -> u32 {
    // One that cannot be read is named when the archive is written.
    let executable =
        std::fs::metadata(file).is_ok_and(|data| data.permissions().mode() & 0o111 != 0);
    if executable { 0o755 } else { 0o644 }
}

fn add_programs(tree: &mut Initramfs, programs: &[PathBuf]) -> Result<()> {
    for path in programs {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name == GUEST {
            tree.host_file("/init", 0o755, path);
        } else if name != BUSYBOX {
            tree.host_file(&format!("{BIN_DIR}/{name}"), 0o755, path);
        }
    }
    tree.dir(BIN_DIR, 0o755);
    if tree.contains("/init") {
        return Ok(());
    }
    let source = std::io::Error::from(std::io::ErrorKind::NotFound);
    Err(source).at("looking for the guest's first process", GUEST)
}

fn add_busybox(tree: &mut Initramfs, programs: &[PathBuf]) -> Result<()> {
    let missing = || Error::MissingPackages(vec!["busybox-static"]);
    let busybox = find_program(BUSYBOX)
        .filter(|path| is_static(path))
        .ok_or_else(missing)?;
    let list = Command::new(&busybox)
        .arg("--list")
        .output()
        .at("running", &busybox)?;
    // Another machine's cannot be asked here what it can do, but it is hardly anything else.
    let given = programs.iter().find(|path| path.ends_with(BUSYBOX));
    tree.host_file("/bin/busybox", 0o755, given.unwrap_or(&busybox));
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        let path = format!("/bin/{applet}");
        if !tree.contains(&path) {
            tree.symlink(&path, "busybox");
        }
    }
    Ok(())
}

/// Whether an ELF file asks for no interpreter, so runs where there are no libraries.
fn is_static(path: &Path) -> bool {
    const PROGRAM_HEADERS_AT: usize = 0x20;
    const HEADER_SIZE_AT: usize = 0x36;
    const HEADER_COUNT_AT: usize = 0x38;
    const PT_INTERP: u32 = 3;
    let Ok(elf) = std::fs::read(path) else {
        return false;
    };
    let short = |at: usize| {
        elf.get(at..at + 2)
            .map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    let start = elf.get(PROGRAM_HEADERS_AT..PROGRAM_HEADERS_AT + 8);
    let start = start
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    let start = start.and_then(|start| usize::try_from(start).ok());
    let (Some(start), Some(size), Some(count)) =
        (start, short(HEADER_SIZE_AT), short(HEADER_COUNT_AT))
    else {
        return false;
    };
    let kinds = (0..count)
        .map(|index| start.saturating_add(index * size))
        .map(|at| {
            elf.get(at..at.saturating_add(4))
                .and_then(|bytes| bytes.try_into().ok())
        });
    elf.starts_with(b"\x7fELF\x02\x01")
        && kinds
            .map(|kind| kind.map(u32::from_le_bytes))
            .all(|kind| kind.is_some_and(|kind| kind != PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Exec;

    fn job() -> Job {
        Job::Exec(Exec {
            argv: vec!["true".into()],
            ..Exec::default()
        })
    }

    #[test]
    fn a_static_program_is_told_from_others() {
        // The test itself is linked dynamically.
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/etc/passwd")));
        assert!(!is_static(Path::new("/nonexistent")));
        let dir = tempfile::tempdir().unwrap();
        let mut elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // Without program headers there is no interpreter among them.
        elf[0x38..0x3a].fill(0);
        let path = dir.path().join("static");
        std::fs::write(&path, elf).unwrap();
        assert!(is_static(&path));
    }

    #[test]
    fn files_stay_executable() {
        assert_eq!(mode(&std::env::current_exe().unwrap()), 0o755);
        assert_eq!(mode(Path::new("/etc/passwd")), 0o644);
        assert_eq!(mode(Path::new("/nonexistent")), 0o644);
    }

    #[test]
    fn programs_are_on_the_path_and_the_guest_is_init() {
        let mut tree = Initramfs::new();
        let programs = ["/target/rota-guest", "/target/scx_fifo"].map(PathBuf::from);
        add_programs(&mut tree, &programs).unwrap();
        assert!(tree.contains("/init") && tree.contains("/rota/bin/scx_fifo"));
        assert!(!tree.contains("/rota/bin/rota-guest"));
    }

    #[test]
    fn a_guest_without_a_first_process_is_refused() {
        let error = add_programs(&mut Initramfs::new(), &["/target/scx_fifo".into()]).unwrap_err();
        assert!(error.to_string().contains("rota-guest"), "{error}");
    }

    #[test]
    fn the_job_is_where_the_guest_looks_for_it() {
        if find_program("busybox").is_none_or(|path| !is_static(&path)) {
            // Its absence has its own error, and the lab itself cannot do without.
            assert!(matches!(
                build(&[], &[], &job()),
                Err(Error::MissingPackages(_))
            ));
            return;
        }
        let tree = build(&["/x/rota-guest".into()], &[], &job()).unwrap();
        assert!(tree.contains(JOB_PATH) && tree.contains("/bin/sh"));
    }
}
