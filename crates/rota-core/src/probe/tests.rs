// SPDX-License-Identifier: GPL-2.0-only
//! Kernels nobody has at hand, as trees of files with a BTF of their own.

use std::ffi::CString;
use std::fs;
use std::slice;

use libbpf_rs::libbpf_sys as sys;
use tempfile::TempDir;

use super::*;
use crate::error::EXIT_EJECTED;

/// Functions of sched_ext as a kernel may describe them.
#[derive(Clone, Copy)]
enum Shape {
    /// As callers see it.
    Plain,
    /// With the kernel's argument, and nothing besides.
    WithAux,
    /// As callers see it, and again with the kernel's argument as `<name>_impl`.
    Split,
}
use Shape::{Plain, Split, WithAux};

/// The raw BTF of a kernel with these functions and the flags of its ops.
fn btf(functions: &[(&str, Shape)], flags: &[(&str, i64)]) -> Vec<u8> {
    let name = |name: &str| CString::new(name).unwrap();
    // SAFETY: every name outlives the call it is passed to, and `btf` is freed last.
    unsafe {
        let btf = sys::btf__new_empty();
        let aux = sys::btf__add_struct(btf, name("bpf_prog_aux").as_ptr(), 8);
        let aux = sys::btf__add_const(btf, aux);
        let aux = sys::btf__add_ptr(btf, aux);
        let int = sys::btf__add_int(btf, name("int").as_ptr(), 4, 1);
        let function = |function: &str, with_aux: bool| {
            let prototype = sys::btf__add_func_proto(btf, int);
            sys::btf__add_func_param(btf, name("cpu").as_ptr(), int);
            if with_aux {
                sys::btf__add_func_param(btf, name("aux").as_ptr(), aux);
            }
            let linkage = sys::BTF_FUNC_GLOBAL;
            assert!(sys::btf__add_func(btf, name(function).as_ptr(), linkage, prototype) > 0);
        };
        for (name, shape) in functions {
            match shape {
                Plain => function(name, false),
                WithAux => function(name, true),
                Split => {
                    function(name, false);
                    function(&format!("{name}_impl"), true);
                }
            }
        }
        sys::btf__add_enum(btf, name("scx_ops_flags").as_ptr(), 4);
        for (flag, value) in flags {
            assert_eq!(
                sys::btf__add_enum_value(btf, name(flag).as_ptr(), *value),
                0
            );
        }
        let mut size = 0;
        let raw = sys::btf__raw_data(btf, &mut size);
        let bytes = slice::from_raw_parts(raw.cast::<u8>(), size as usize).to_vec();
        sys::btf__free(btf);
        bytes
    }
}

/// A kernel below a directory.
struct Tree(TempDir);

impl Tree {
    fn new(state: &str, btf: &[u8]) -> Self {
        let tree = Tree(tempfile::tempdir().unwrap());
        tree.write("sys/kernel/sched_ext/state", format!("{state}\n"));
        tree.write("sys/kernel/btf/vmlinux", btf);
        tree.write("proc/cmdline", "quiet\n");
        tree.write("proc/self/status", "CapEff:\t000001ffffffffff\n");
        tree
    }

    fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // At once, as sysfs does: a reader never sees it empty.
        let new = path.with_added_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    fn kernel(&self) -> Kernel {
        Kernel {
            release: "6.18.0-test".into(),
            sysfs: self.0.path().join("sys"),
            procfs: self.0.path().join("proc"),
        }
    }

    fn probe(&self, partial: bool) -> Result<Abilities, Error> {
        let object = object(&[
            ("scx_bpf_kick_cpu", false),
            ("scx_bpf_dispatch___old", true),
        ]);
        self.kernel().probe(&Needs {
            policy: "scx_test",
            object: &object,
            partial,
        })
    }

    fn refusal(&self) -> String {
        let error = self.probe(false).unwrap_err();
        assert!(!error.to_string().contains("os error"), "{error}");
        error.to_string()
    }
}

const SOUND: &[(&str, Shape)] = &[("scx_bpf_kick_cpu", Plain), ("scx_bpf_dsq_insert", Plain)];

fn sound() -> Tree {
    Tree::new("disabled", &btf(SOUND, &[("SCX_OPS_SWITCH_PARTIAL", 8)]))
}

/// An ELF object that leaves these symbols undefined, with whether they are weak.
fn object(symbols: &[(&str, bool)]) -> Vec<u8> {
    let mut names = vec![0];
    let mut table = vec![0; 24];
    for (name, weak) in symbols {
        table.extend((names.len() as u32).to_le_bytes());
        let binding: u8 = if *weak { 2 } else { 1 };
        table.extend([binding << 4, 0, 0, 0]);
        table.extend([0; 16]);
        names.extend(name.bytes().chain([0]));
    }
    // Header, names, symbols, then the headers of three sections: none, names, symbols.
    let (names_at, table_at) = (64, 64 + names.len());
    let sections_at = table_at + table.len();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    elf.extend([0; 16]);
    elf.extend((sections_at as u64).to_le_bytes());
    elf.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 3, 0, 1, 0]);
    elf.extend(&names);
    elf.extend(&table);
    elf.extend([0; 64]);
    for (kind, at, size, link, entry) in [
        (3u32, names_at, names.len(), 0u32, 0u64),
        (2, table_at, table.len(), 1, 24),
    ] {
        elf.extend([0; 4]);
        elf.extend(kind.to_le_bytes());
        elf.extend([0; 16]);
        elf.extend((at as u64).to_le_bytes());
        elf.extend((size as u64).to_le_bytes());
        elf.extend(link.to_le_bytes());
        elf.extend(1u32.to_le_bytes());
        elf.extend([0; 8]);
        elf.extend(entry.to_le_bytes());
    }
    elf
}

#[test]
fn kfuncs_are_what_an_object_leaves_undefined() {
    let symbols = [
        ("scx_bpf_a___new", true),
        ("__scx_bpf_b", false),
        ("scx_bpf_c___v2___x", true),
    ];
    let found: Vec<_> = kfuncs(&object(&symbols))
        .into_iter()
        .map(|k| (k.name, k.weak))
        .collect();
    let expected = [
        ("__scx_bpf_b", false),
        ("scx_bpf_a", true),
        ("scx_bpf_c___v2", true),
    ];
    assert_eq!(found, expected.map(|(name, weak)| (name.to_owned(), weak)));
}

#[test]
fn a_sound_kernel_passes() {
    assert_eq!(sound().probe(false).unwrap(), Abilities { partial_flag: 0 });
    assert_eq!(sound().probe(true).unwrap(), Abilities { partial_flag: 8 });
}

#[test]
fn kfuncs_with_an_implementation_of_their_own_are_sound() {
    let functions = [("scx_bpf_kick_cpu", Split), ("scx_bpf_dsq_insert", Split)];
    assert!(
        Tree::new("disabled", &btf(&functions, &[]))
            .probe(false)
            .is_ok()
    );
}

#[test]
fn without_sched_ext_refused() {
    let tree = sound();
    fs::remove_dir_all(tree.0.path().join("sys/kernel/sched_ext")).unwrap();
    let refusal = tree.refusal();
    assert!(
        refusal.starts_with("Linux 6.18.0-test has no sched_ext: Linux 6.12"),
        "{refusal}"
    );
}

#[test]
fn damaged_btf_refused() {
    let functions = [
        ("scx_bpf_kick_cpu", WithAux),
        ("scx_bpf_dsq_insert", Split),
        ("scx_bpf_exit_bstr", WithAux),
    ];
    let error = Tree::new("disabled", &btf(&functions, &[]))
        .probe(false)
        .unwrap_err();
    let start = "damaged BTF: Linux 6.18.0-test lost the prototypes of 2 sched_ext kfuncs, 1 of \
                 which scx_test calls (scx_bpf_kick_cpu), ";
    assert!(error.to_string().starts_with(start), "{error}");
    assert_eq!(error.exit_code(), crate::error::EXIT_UNABLE);
}

#[test]
fn a_damaged_alternative_refused_if_the_other_is_gone() {
    let functions = [("scx_bpf_kick_cpu", Plain), ("scx_bpf_dsq_insert", WithAux)];
    let refusal = Tree::new("disabled", &btf(&functions, &[])).refusal();
    assert!(
        refusal.contains("of 1 sched_ext kfuncs, 1 of which scx_test calls (scx_bpf_dsq_insert)"),
        "{refusal}"
    );
    let functions = [
        ("scx_bpf_kick_cpu", Plain),
        ("scx_bpf_dsq_insert", WithAux),
        ("scx_bpf_dispatch", Plain),
    ];
    assert!(
        Tree::new("disabled", &btf(&functions, &[]))
            .probe(false)
            .is_ok()
    );
}

#[test]
fn a_missing_kfunc_refused() {
    let tree = Tree::new("disabled", &btf(&[("scx_bpf_dsq_insert", Plain)], &[]));
    let refusal = tree.refusal();
    assert!(
        refusal.contains("no kfunc scx_bpf_kick_cpu, which scx_test needs"),
        "{refusal}"
    );
    let tree = Tree::new("disabled", &btf(&[("scx_bpf_kick_cpu", Plain)], &[]));
    let refusal = tree.refusal();
    assert!(
        refusal.contains("no kfunc scx_bpf_dsq_insert or scx_bpf_dispatch,"),
        "{refusal}"
    );
}

#[test]
fn an_unusable_btf_refused() {
    crate::loader::capture();
    let tree = Tree::new("disabled", b"no BTF");
    assert!(
        tree.refusal().contains("(it is malformed)"),
        "{}",
        tree.refusal()
    );
    fs::remove_file(tree.0.path().join("sys/kernel/btf/vmlinux")).unwrap();
    assert!(
        tree.refusal().contains("no usable BTF"),
        "{}",
        tree.refusal()
    );
}

#[test]
fn what_cannot_be_read_is_not_called_missing() {
    crate::loader::capture();
    for file in ["sys/kernel/btf/vmlinux", "sys/kernel/sched_ext/state"] {
        let tree = sound();
        let path = tree.0.path().join(file);
        fs::remove_file(&path).unwrap();
        // Nobody can read a directory as a file, not even root.
        fs::create_dir(&path).unwrap();
        let error = tree.probe(false).unwrap_err();
        let told = format!("cannot read {}: ", path.display());
        assert!(error.to_string().starts_with(&told), "{error}");
        assert_eq!(error.exit_code(), EXIT_EJECTED);
    }
}

#[test]
fn another_scheduler_refused_by_name() {
    let tree = sound();
    tree.write("sys/kernel/sched_ext/state", "enabled\n");
    tree.write("sys/kernel/sched_ext/root/ops", "fifo_0.1.0\n");
    let error = tree.probe(false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("scheduler is running: fifo_0.1.0"),
        "{error}"
    );
    assert_eq!(error.exit_code(), crate::error::EXIT_BUSY);
}

#[test]
fn a_scheduler_that_leaves_is_waited_for() {
    let tree = sound();
    tree.write("sys/kernel/sched_ext/state", "disabling\n");
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            tree.write("sys/kernel/sched_ext/state", "disabled\n");
        });
        assert!(tree.probe(false).is_ok());
    });
}

#[test]
fn missing_privileges_refused() {
    let tree = sound();
    tree.write("proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    assert!(
        tree.refusal().contains("CAP_PERFMON and CAP_BPF needed"),
        "{}",
        tree.refusal()
    );
    for enough in ["000000c000000000", "0000000000200000"] {
        tree.write("proc/self/status", format!("CapEff:\t{enough}\n"));
        assert!(tree.probe(false).is_ok(), "{enough}");
    }
}

#[test]
fn cpus_isolated_at_boot_refused() {
    let tree = sound();
    tree.write("sys/devices/system/cpu/isolated", "2-3\n");
    assert!(
        tree.probe(false).is_ok(),
        "a partition of cpusets is no obstacle"
    );
    tree.write("proc/cmdline", "quiet isolcpus=2-3\n");
    assert!(
        tree.refusal().contains("CPUs 2-3 are isolated"),
        "{}",
        tree.refusal()
    );
}

#[test]
fn an_option_the_kernel_lacks_refused() {
    let error = Tree::new("disabled", &btf(SOUND, &[]))
        .probe(true)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has no SCX_OPS_SWITCH_PARTIAL, which --partial needs")
    );
}

#[test]
fn every_old_flavour_has_its_alternative() {
    let header = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../bpf-common/include/rota/compat.bpf.h"
    );
    let header = fs::read_to_string(header).unwrap();
    let old = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in old.filter_map(|word| word.strip_suffix("___old")) {
        let known = kfuncs::ALTERNATIVES
            .iter()
            .any(|(names, _)| names.contains(&name));
        assert!(known, "{name} is missing in ALTERNATIVES");
    }
}
