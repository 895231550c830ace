// SPDX-License-Identifier: GPL-2.0-only
//! Goal: the objects that ship load on every kernel of the matrix, what they ask
//! is answered from that kernel's types, and what cannot load says why. Method:
//! the policies' sources and a probe are compiled as the policies' builds do, and
//! loaded against the BTF of three kernels, as it is and changed.
#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

mod support;

use proptest::prelude::*;
use rota_sim::btf::{self, Btf, Kind};
use rota_sim::kernel_api::{CpuMask, Kernel, NewTask};
use rota_sim::object::{Instance, Object, Reason};
use rota_sim::vm::{Call, Cause, Fault, Host, Memory};
use support::{POLICIES, policy, program};

fn kernels() -> impl Iterator<Item = (&'static str, Btf)> {
    btf::KERNELS
        .iter()
        .map(|(name, bytes)| (*name, Btf::parse(bytes).unwrap()))
}

/// A kernel in whose BTF names have changed, to others of the same length.
fn renamed(release: &str, names: &[(&str, &str)]) -> Btf {
    let (_, bytes) = btf::KERNELS
        .iter()
        .find(|(name, _)| *name == release)
        .unwrap();
    let mut changed = bytes.to_vec();
    for (old, new) in names {
        assert_eq!(old.len(), new.len());
        let whole = format!("\0{old}\0");
        let at = bytes
            .windows(whole.len())
            .position(|window| window == whole.as_bytes())
            .unwrap();
        changed[at + 1..at + 1 + new.len()].copy_from_slice(new.as_bytes());
    }
    Btf::parse(&changed).unwrap()
}

#[test]
fn every_policy_starts_on_every_kernel() {
    for (release, kernel) in kernels() {
        for name in POLICIES {
            let object = Object::load(name, policy(name), &kernel)
                .unwrap_or_else(|error| panic!("{release}: {error}"));
            assert!(object.unsupported_kfuncs().is_empty(), "{release} {name}");
            assert_eq!(object.license(), "GPL");
            for op in ["select_cpu", "enqueue", "dispatch", "init", "exit"] {
                assert!(object.ops().function(op).is_some(), "{name}: {op}");
            }
            let instance = object.start(8).unwrap();
            assert_eq!(instance.number("exit_record.kind"), Some(0));
        }
    }
}

#[test]
fn a_strong_kfunc_that_the_kernel_lacks_is_refused() {
    let kernel = renamed("7.3", &[("scx_bpf_kick_cpu", "scx_bpf_kick_xxx")]);
    let error = Object::load("vtime", policy("vtime"), &kernel).unwrap_err();
    assert_eq!(
        error.reason,
        Reason::MissingKfunc("scx_bpf_kick_cpu".into())
    );
    assert_eq!(
        error.to_string(),
        "vtime: this kernel has no kfunc scx_bpf_kick_cpu"
    );
}

#[test]
fn a_weak_kfunc_that_the_kernel_lacks_is_done_without() {
    let kernel = renamed(
        "7.3",
        &[("scx_bpf_task_set_slice", "scx_bpf_task_set_xxxxx")],
    );
    Object::load("vtime", policy("vtime"), &kernel).unwrap();
}

#[test]
fn a_kfunc_of_another_prototype_is_refused() {
    // Two names of the same length change places.
    let kernel = renamed(
        "6.18",
        &[
            ("scx_bpf_kick_cpu", "scx_bpf_task_cpu"),
            ("scx_bpf_task_cpu", "scx_bpf_kick_cpu"),
        ],
    );
    let error = Object::load("vtime", policy("vtime"), &kernel).unwrap_err();
    let expected = Reason::KfuncPrototype {
        name: "scx_bpf_kick_cpu".into(),
        damaged: false,
    };
    assert_eq!(error.reason, expected);
}

/// 7.3 with `scx_bpf_kick_cpu` in the form with the kernel's own argument.
fn with_kernels_form(more: &[(&str, &str)]) -> Reason {
    let mut names = vec![
        ("scx_bpf_kick_cpu_impl", "xxx_bpf_kick_cpu_impl"),
        ("scx_bpf_kick_cpu", "scx_bpf_kick_xxx"),
    ];
    names.extend(more);
    let mut bytes = renamed("7.3", &names).to_bytes();
    let from = b"\0xxx_bpf_kick_cpu_impl\0";
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at + 1..at + from.len()].copy_from_slice(b"scx_bpf_kick_cpu\0impl\0");
    let kernel = Btf::parse(&bytes).unwrap();
    let error = Object::load("probe", program("relocations"), &kernel).unwrap_err();
    error.reason
}

#[test]
fn damaged_kfunc_types_are_called_so() {
    let prototype = |damaged| Reason::KfuncPrototype {
        name: "scx_bpf_kick_cpu".into(),
        damaged,
    };
    assert_eq!(with_kernels_form(&[]), prototype(true));
    // Beside a form of that name it is another prototype, but no damage.
    let twin = [("scx_bpf_dsq_nr_queued", "scx_bpf_kick_cpu_impl")];
    assert_eq!(with_kernels_form(&twin), prototype(false));
}

#[test]
fn an_op_that_the_kernel_does_not_know_is_refused() {
    let kernel = renamed("6.12", &[("update_idle", "update_xxxx")]);
    let error = Object::load("fifo", policy("fifo"), &kernel).unwrap_err();
    let expected = Reason::Ops("this kernel has no member update_idle".into());
    assert_eq!(error.reason, expected);
}

/// What the probe calls: nothing but the kick.
struct World {
    kicked: Option<u64>,
}

impl Host for World {
    fn kfunc(&mut self, call: Call<'_>, _: u16) -> Result<u64, Cause> {
        self.kicked = Some(call.args[0]);
        Ok(0)
    }
    fn ktime_ns(&self) -> u64 {
        0
    }
    fn jiffies(&self) -> u64 {
        0
    }
    fn cpu(&self) -> u32 {
        0
    }
    fn current(&mut self, _: &mut Memory) -> u64 {
        0
    }
    fn random(&mut self) -> u32 {
        0
    }
    fn timer_start(&mut self, _: u64, _: u64) {}
    fn timer_cancel(&mut self, _: u64) -> bool {
        false
    }
}

/// Run the probe on a task of weight 321 that is called `probe`.
fn probe(kernel: &Btf, reach: u64) -> (Instance, Result<u64, Box<Fault>>, World, u64) {
    let mut object = Object::load("probe", program("relocations"), kernel).unwrap();
    object.set_number("reach", reach).unwrap();
    object.set_number("rows[2].number", 1000).unwrap();
    let mut instance = object.start(4).unwrap();
    let value = 99_u64.to_le_bytes();
    let state = &mut instance.vm.state;
    assert!(state.maps[0].set(&mut state.memory, &[2, 0, 0, 0], &value, 0));
    let mut api = Kernel::new(kernel, &mut state.memory).unwrap();
    let mut images = api.images(&mut state.memory);
    let task = images.add(&NewTask {
        pid: 12,
        tgid: 12,
        comm: "probe",
        flags: 0,
        weight: 321,
        allowed: CpuMask::first(4),
        cpu: 0,
    });
    assert!(images.set(task, "migration_disabled", 0xffff));
    let address = images.address(task).unwrap();
    let mut world = World { kicked: None };
    let op = instance.ops.function("enqueue").unwrap();
    let result = instance.vm.call(&mut world, op, &[address, 0]);
    let slice = api.images(&mut instance.vm.state.memory).slice(task);
    (instance, result, world, slice)
}

#[test]
fn what_a_program_asks_is_answered_from_the_kernels_types() {
    for (release, kernel) in kernels() {
        let (instance, result, _, slice) = probe(&kernel, 0);
        assert_eq!(result.unwrap(), 0);
        let entity = kernel.find("sched_ext_entity", Kind::Struct).unwrap();
        let task = kernel.find("task_struct", Kind::Struct).unwrap();
        let vtime = kernel.field(task, &["scx", "dsq_vtime"]).unwrap();
        let expected = [
            1,
            0,
            16,
            1,
            0,
            kernel.size_of(entity).unwrap(),
            1,
            0,
            kernel.enumerator("SCX_ENQ_HEAD").unwrap(),
            u64::from(vtime.bit_offset / 8),
            0,
            1,
            0,
            0,
            321,
            0xffff,
            u64::from(b'r'),
            10,
            42,
            4,
            4,
            106,
            1003,
            99,
        ];
        for (index, expected) in expected.into_iter().enumerate() {
            let answer = instance.number(&format!("answers[{index}]")).unwrap();
            assert_eq!(answer, expected, "{release}: answer {index}");
        }
        assert_eq!(slice, 77, "{release}");
        assert_eq!(instance.number("hidden"), Some(10));
    }
}

#[test]
fn a_member_that_the_kernel_lacks_faults_where_it_is_used() {
    let (_, result, ..) = probe(&btf::kernel("6.18").unwrap(), 1);
    let fault = result.unwrap_err();
    let cause = Cause::Poisoned("task_struct___other.no_such_member".into());
    assert_eq!(fault.cause, cause);
    assert_eq!(fault.function, "probe_enqueue");
}

#[test]
fn a_kfunc_is_called_with_its_arguments() {
    let (_, result, world, _) = probe(&btf::kernel("6.12").unwrap(), 2);
    assert_eq!(result.unwrap(), 0);
    assert_eq!(world.kicked, Some(1));
}

#[test]
fn a_program_may_not_write_what_the_kernel_keeps() {
    let (_, result, ..) = probe(&btf::kernel("7.3").unwrap(), 3);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("task 12 may not be written"), "{text}");
}

#[test]
fn the_ops_table_says_more_than_functions() {
    let kernel = btf::kernel("7.3").unwrap();
    let object = Object::load("probe", program("relocations"), &kernel).unwrap();
    let ops = object.ops();
    assert_eq!((ops.name(), ops.variable()), ("probe", "probe_ops"));
    assert_eq!([ops.number("flags"), ops.number("timeout_ms")], [3, 5000]);
    assert_eq!(ops.number("exit_dump_len"), 0);
    assert_eq!(ops.functions().count(), 1);
}

#[test]
fn variables_are_found_by_member_and_index() {
    let kernel = btf::kernel("7.3").unwrap();
    let mut object = Object::load("probe", program("relocations"), &kernel).unwrap();
    assert_eq!(object.get("rows[1].parts[3]").unwrap(), [4, 0]);
    assert_eq!(object.get("rows[1].number").unwrap(), [5, 0, 0, 0]);
    for (path, what) in [
        ("no_such", "none of that name"),
        ("rows[3]", "index 3 of 3"),
        ("rows[0].x", "no member x"),
        ("rows[x]", "is a number"),
        ("reach[0]", "no array"),
    ] {
        let error = object.get(path).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    assert!(object.set("reach", &[0; 5]).is_err(), "too large");
    assert!(object.set_number("rows", 1).is_err(), "no number");
    object.set_number("sum", 4).unwrap();
    let mut instance = object.start(1).unwrap();
    assert_eq!(instance.number("sum"), Some(4));
    assert!(instance.write_number("sum", 5));
    assert_eq!(instance.number("sum"), Some(5));
    assert!(!instance.write_number("reach", 1), "rodata is frozen");
}

#[test]
fn other_files_are_refused() {
    let kernel = btf::kernel("7.3").unwrap();
    for bytes in [&b""[..], b"\x7fELF", &[0; 4096]] {
        let error = Object::load("nothing", bytes, &kernel).unwrap_err();
        assert!(matches!(error.reason, Reason::Elf(_)), "{error}");
    }
    let host = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let error = Object::load("a test", &host, &kernel).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a test: not a BPF object: made for another machine"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged object is refused or runs into a fault, but never a panic.
    #[test]
    fn damage_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..8), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let kernel = btf::kernel("7.3").unwrap();
        let whole = program("relocations");
        let _ = Object::load("cut", &whole[..cut.index(whole.len())], &kernel);
        let mut bytes = whole.to_vec();
        for (at, bit) in flips {
            bytes[at.index(whole.len())] ^= 1 << bit;
        }
        let Ok(object) = Object::load("flipped", &bytes, &kernel) else {
            return Ok(());
        };
        let Ok(mut instance) = object.start(2) else {
            return Ok(());
        };
        let functions: Vec<usize> = instance.ops.functions().map(|(_, number)| number).collect();
        for function in functions {
            let mut execution = instance.vm.execution(function, &[0, 0]);
            let _ = execution.run(&mut instance.vm, &mut World { kicked: None }, 100_000);
        }
        for path in ["answers[3]", "rows[1].parts[2]", "hidden"] {
            let _ = instance.number(path);
        }
    }
}
