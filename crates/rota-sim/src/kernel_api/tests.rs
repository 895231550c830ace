// SPDX-License-Identifier: GPL-2.0-only
//! Goal: arguments arrive at the core as the program meant them, what is lent is
//! given back, and images say what the core has put there. Method: kfuncs are
//! called by name, on a core that notes what it is asked.

use super::*;
use crate::btf;
use crate::vm::{Call, Cause, Held, Host, Kind, Memory};

/// A core of 70 CPUs that notes what it is asked.
#[derive(Default)]
struct Core {
    inserts: Vec<DsqInsert>,
    moves: Vec<(Option<IterId>, DsqMove)>,
    iterators: Vec<u64>,
    queue: Vec<TaskId>,
    current: Option<TaskId>,
    idle: CpuMask,
    kicks: Vec<(i32, u64)>,
    said: Vec<String>,
    asked: Vec<(CpuMask, Option<i32>, u64)>,
    cpu: u32,
}

const NR_CPUS: u32 = 70;

impl CoreApi for Core {
    fn ktime_ns(&self) -> u64 {
        5000
    }
    fn jiffies(&self) -> u64 {
        0
    }
    fn cpu(&self) -> u32 {
        self.cpu
    }
    fn current(&self) -> Option<TaskId> {
        self.current
    }
    fn random(&mut self) -> u32 {
        4
    }
    fn nr_cpu_ids(&self) -> u32 {
        NR_CPUS
    }
    fn nr_node_ids(&self) -> u32 {
        2
    }
    fn cpu_node(&mut self, cpu: i32) -> i32 {
        cpu / 35
    }
    fn possible_cpus(&self) -> CpuMask {
        CpuMask::first(NR_CPUS)
    }
    fn online_cpus(&self) -> CpuMask {
        CpuMask::first(NR_CPUS - 1)
    }
    fn idle_mask(&mut self, which: IdleMask, node: Option<i32>) -> CpuMask {
        self.peek_idle_mask(which, node)
    }
    fn peek_idle_mask(&self, _: IdleMask, _: Option<i32>) -> CpuMask {
        self.idle
    }
    fn create_dsq(&mut self, dsq: u64, node: i32) -> i32 {
        self.said.push(format!("create {dsq} {node}"));
        if dsq == 13 { -17 } else { 0 }
    }
    fn destroy_dsq(&mut self, dsq: u64) {
        self.said.push(format!("destroy {dsq}"));
    }
    fn dsq_nr_queued(&mut self, dsq: u64) -> i32 {
        if dsq == 1 {
            self.queue.len() as i32
        } else {
            -2
        }
    }
    fn dsq_peek(&mut self, _: u64) -> Option<TaskId> {
        self.queue.first().copied()
    }
    fn dsq_insert(&mut self, images: &mut Images<'_>, insert: DsqInsert) -> bool {
        if let Some(task) = insert.task {
            images.set_slice(task, insert.slice_ns);
        }
        self.inserts.push(insert);
        insert.task.is_some()
    }
    fn dsq_move_to_local(&mut self, _: &mut Images<'_>, dsq: u64, enq_flags: u64) -> bool {
        self.said.push(format!("consume {dsq} {enq_flags}"));
        dsq == 1
    }
    fn dsq_iter_new(&mut self, dsq: u64, flags: u64) -> Result<IterId, i32> {
        if dsq != 1 {
            return Err(-2);
        }
        self.iterators.push(flags);
        Ok(IterId(self.iterators.len() as u32 - 1))
    }
    fn dsq_iter_next(&mut self, _: &mut Images<'_>, _: IterId) -> Option<TaskId> {
        self.queue.pop()
    }
    fn dsq_iter_destroy(&mut self, _: IterId) {
        self.iterators.pop();
    }
    fn dsq_move(&mut self, _: &mut Images<'_>, iter: Option<IterId>, to: DsqMove) -> bool {
        self.moves.push((iter, to));
        true
    }
    fn dispatch_nr_slots(&mut self) -> u32 {
        32
    }
    fn dispatch_cancel(&mut self) {}
    fn reenqueue_local(&mut self) -> u32 {
        3
    }
    fn dsq_reenq(&mut self, dsq: u64, flags: u64) {
        self.said.push(format!("reenq {dsq:#x} {flags}"));
    }
    fn kick_cpu(&mut self, cpu: i32, flags: u64) {
        self.kicks.push((cpu, flags));
    }
    fn select_cpu_dfl(
        &mut self,
        _: &mut Images<'_>,
        _: Option<TaskId>,
        prev_cpu: i32,
        _: u64,
    ) -> (i32, bool) {
        (prev_cpu + 1, prev_cpu == 4)
    }
    fn select_cpu_and(
        &mut self,
        _: &mut Images<'_>,
        _: Option<TaskId>,
        prev_cpu: i32,
        wake_flags: u64,
        allowed: &CpuMask,
        flags: u64,
    ) -> i32 {
        self.asked
            .push((*allowed, Some(prev_cpu), wake_flags << 8 | flags));
        -16
    }
    fn pick_idle_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        self.asked.push((*allowed, node, flags));
        -16
    }
    fn pick_any_cpu(&mut self, allowed: &CpuMask, node: Option<i32>, flags: u64) -> i32 {
        self.asked.push((*allowed, node, flags));
        allowed.next(0).map_or(-16, |cpu| cpu as i32)
    }
    fn test_and_clear_cpu_idle(&mut self, cpu: i32) -> bool {
        u32::try_from(cpu).is_ok_and(|cpu| self.idle.remove(cpu))
    }
    fn task_cpu(&self, task: TaskId) -> i32 {
        task.0 as i32 + 10
    }
    fn task_running(&self, task: TaskId) -> bool {
        self.current == Some(task)
    }
    fn cpu_curr(&mut self, cpu: i32) -> Option<TaskId> {
        self.current.filter(|_| cpu == 0)
    }
    fn cpuperf_cap(&mut self, _: i32) -> u32 {
        1024
    }
    fn cpuperf_cur(&mut self, _: i32) -> u32 {
        512
    }
    fn cpuperf_set(&mut self, cpu: i32, perf: u32) {
        self.said.push(format!("perf {cpu} {perf}"));
    }
    fn event(&self, name: &str) -> i64 {
        name.len() as i64
    }
    fn error(&mut self, message: String) {
        self.said.push(format!("error: {message}"));
    }
    fn exit(&mut self, code: i64, message: String) {
        self.said.push(format!("exit {code}: {message}"));
    }
    fn dump(&mut self, text: String) {
        self.said.push(format!("dump: {text}"));
    }
    fn timer_start(&mut self, _: u64, _: u64) {}
    fn timer_cancel(&mut self, _: u64) -> bool {
        false
    }
}

/// A kernel with its core, and a program that calls it.
struct Setup {
    memory: Memory,
    kernel: Kernel,
    core: Core,
    held: Held,
}

impl Setup {
    fn new(release: &str) -> Self {
        let mut memory = Memory::new();
        let btf = btf::kernel(release).unwrap();
        let kernel = Kernel::new(&btf, &mut memory).unwrap();
        Setup {
            memory,
            kernel,
            core: Core::default(),
            held: Held::default(),
        }
    }

    fn try_call(&mut self, name: &str, args: &[u64]) -> Result<u64, Cause> {
        let mut registers = [0; 5];
        registers[..args.len()].copy_from_slice(args);
        let call = Call {
            memory: &mut self.memory,
            held: &mut self.held,
            args: registers,
        };
        let kfunc = number(name).unwrap();
        self.kernel.session(&mut self.core).kfunc(call, kfunc)
    }

    fn call(&mut self, name: &str, args: &[u64]) -> u64 {
        self.try_call(name, args)
            .unwrap_or_else(|cause| panic!("{name}: {cause}"))
    }

    fn bytes(&mut self, bytes: &[u8]) -> u64 {
        self.memory.add("bytes", Kind::Kernel, bytes.to_vec())
    }

    fn task(&mut self, pid: i32, allowed: CpuMask) -> (TaskId, u64) {
        let mut images = self.kernel.images(&mut self.memory);
        let task = images.add(&NewTask {
            pid,
            tgid: pid,
            comm: "a_name_that_is_too_long",
            flags: 0x20_0000,
            weight: 50,
            allowed,
            cpu: 3,
        });
        (task, images.address(task).unwrap())
    }
}

#[test]
fn an_image_says_what_the_core_has_put_there() {
    for (release, _) in btf::KERNELS {
        let mut setup = Setup::new(release);
        let allowed: CpuMask = [1, 66].into_iter().collect();
        let (task, address) = setup.task(42, allowed);
        let layout = setup.kernel.tasks.layout().clone();
        let mut images = setup.kernel.images(&mut setup.memory);
        for (path, expected) in [
            ("pid", 42),
            ("tgid", 42),
            ("flags", 0x20_0000),
            ("scx.weight", 50),
            ("nr_cpus_allowed", 2),
            ("thread_info.cpu", 3),
            ("migration_disabled", 0),
            ("real_parent", address),
        ] {
            assert_eq!(images.get(task, path), Some(expected), "{release}: {path}");
        }
        assert_eq!(images.get(task, "no.such"), None);
        assert!(images.set(task, "se.sum_exec_runtime", 1 << 40));
        assert_eq!(images.get(task, "se.sum_exec_runtime"), Some(1 << 40));
        images.set_slice(task, 7);
        images.set_dsq_vtime(task, u64::MAX);
        assert_eq!([images.slice(task), images.dsq_vtime(task)], [7, u64::MAX]);
        let comm = layout.field("comm").unwrap();
        let name = images.memory.read(address + u64::from(comm.offset), 16);
        assert_eq!(name.unwrap(), b"a_name_that_is_\0");

        // Programs write the slice, nothing else.
        let slice = address + u64::from(layout.field("scx.slice").unwrap().offset);
        assert_eq!(images.memory.store(slice, 9_u64.to_le_bytes()), Some(()));
        assert_eq!(images.slice(task), 9);
        assert_eq!(images.memory.store(address, [0_u8; 4]), None);

        let mask = images.get(task, "cpus_ptr").unwrap();
        assert_eq!(setup.call("bpf_cpumask_weight", &[mask]), 2, "{release}");
        assert_eq!(setup.call("bpf_cpumask_test_cpu", &[66, mask]), 1);
        assert_eq!(setup.call("bpf_cpumask_test_cpu", &[65, mask]), 0);

        setup.kernel.images(&mut setup.memory).remove(task);
        assert!(setup.try_call("bpf_cpumask_weight", &[mask]).is_err());
        let gone = setup.try_call("scx_bpf_task_cpu", &[address]).unwrap_err();
        assert!(gone.to_string().contains("is no task"), "{gone}");
    }
}

#[test]
fn who_writes_through_the_core_may_write_an_image() {
    let mut setup = Setup::new("7.3");
    let (task, address) = setup.task(1, CpuMask::first(2));
    assert_eq!(setup.call("scx_bpf_task_set_slice", &[address, 11]), 1);
    assert_eq!(setup.call("scx_bpf_task_set_dsq_vtime", &[address, 12]), 1);
    let images = setup.kernel.images(&mut setup.memory);
    assert_eq!([images.slice(task), images.dsq_vtime(task)], [11, 12]);
}

#[test]
fn the_idle_task_is_a_task_without_a_number() {
    let mut setup = Setup::new("6.18");
    setup.core.cpu = 5;
    let mut session = setup.kernel.session(&mut setup.core);
    let idle = session.current(&mut setup.memory);
    assert_eq!(idle, setup.kernel.tasks.idle_address());
    assert_eq!(setup.call("scx_bpf_task_cpu", &[idle]), 5);
    assert_eq!(setup.call("scx_bpf_task_running", &[idle]), 1);
    let cpu = setup
        .kernel
        .tasks
        .layout()
        .field("thread_info.cpu")
        .unwrap();
    let at = idle + u64::from(cpu.offset);
    assert_eq!(setup.memory.read_u32(at), Ok(5));
    setup.call("scx_bpf_dsq_insert", &[idle, 1, 0, 0]);
    assert_eq!(setup.core.inserts[0].task, None);
    let (task, address) = setup.task(1, CpuMask::first(1));
    setup.core.current = Some(task);
    let mut session = setup.kernel.session(&mut setup.core);
    assert_eq!(session.current(&mut setup.memory), address);
    assert_eq!(setup.call("scx_bpf_cpu_curr", &[0]), address);
    assert_eq!(setup.call("scx_bpf_cpu_curr", &[1]), 0);
}

#[test]
fn masks_of_a_program_are_counted() {
    let mut setup = Setup::new("7.3");
    let mask = setup.call("bpf_cpumask_create", &[]);
    assert!(setup.held.holds(mask));
    setup.call("bpf_cpumask_acquire", &[mask]);
    setup.call("bpf_cpumask_release", &[mask]);
    setup.call("bpf_cpumask_set_cpu", &[69, mask]);
    setup.call("bpf_cpumask_set_cpu", &[70, mask]);
    assert_eq!(
        setup.memory.read_u64(mask + 8),
        Ok(1 << 5),
        "there is no CPU 70"
    );
    assert_eq!(setup.call("bpf_cpumask_weight", &[mask]), 1);
    setup.call("bpf_cpumask_release", &[mask]);
    assert!(!setup.held.holds(mask));
    assert_eq!(
        setup.memory.kind(mask),
        None,
        "freed with its last reference"
    );
    assert!(setup.try_call("bpf_cpumask_release", &[mask]).is_err());
    let other = setup.bytes(&[0; 1024]);
    let error = setup
        .try_call("bpf_cpumask_set_cpu", &[1, other])
        .unwrap_err();
    assert!(error.to_string().contains("no bpf_cpumask"), "{error}");
}

#[test]
fn masks_are_combined_and_asked() {
    let mut setup = Setup::new("6.18");
    let words = |low: u64, high: u64| {
        let mut bytes = vec![0; 1024];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..16].copy_from_slice(&high.to_le_bytes());
        bytes
    };
    let a = setup.bytes(&words(0b0111, 1));
    // What is beyond the last CPU does not count.
    let b = setup.bytes(&words(0b1100, !0 << 6));
    let to = setup.call("bpf_cpumask_create", &[]);
    let word = |setup: &Setup| setup.memory.read_u64(to).unwrap();
    assert_eq!(setup.call("bpf_cpumask_and", &[to, a, b]), 1);
    assert_eq!(word(&setup), 0b0100);
    setup.call("bpf_cpumask_or", &[to, a, b]);
    assert_eq!(word(&setup), 0b1111);
    setup.call("bpf_cpumask_xor", &[to, a, b]);
    assert_eq!(word(&setup), 0b1011);
    setup.call("bpf_cpumask_copy", &[to, a]);
    assert_eq!(setup.call("bpf_cpumask_equal", &[to, a]), 1);
    setup.call("bpf_cpumask_clear", &[to]);
    assert_eq!(setup.call("bpf_cpumask_empty", &[to]), 1);
    assert_eq!(setup.call("bpf_cpumask_and", &[to, to, b]), 0);
    assert_eq!(setup.call("bpf_cpumask_first", &[to]), 70);
    setup.call("bpf_cpumask_setall", &[to]);
    assert_eq!(setup.call("bpf_cpumask_full", &[to]), 1);
    assert_eq!(setup.call("bpf_cpumask_weight", &[to]), 70);
    assert_eq!(setup.call("bpf_cpumask_first_zero", &[to]), 70);
    assert_eq!(setup.call("bpf_cpumask_first_zero", &[a]), 3);
    assert_eq!(setup.call("bpf_cpumask_first_and", &[a, b]), 2);
    assert_eq!(setup.call("bpf_cpumask_intersects", &[a, b]), 1);
    assert_eq!(setup.call("bpf_cpumask_subset", &[a, to]), 1);
    assert_eq!(setup.call("bpf_cpumask_subset", &[to, a]), 0);
    assert_eq!(setup.call("bpf_cpumask_test_and_clear_cpu", &[64, to]), 1);
    assert_eq!(setup.call("bpf_cpumask_test_and_set_cpu", &[64, to]), 0);
    assert_eq!(setup.call("bpf_cpumask_test_cpu", &[64, to]), 1);
    assert_eq!(setup.call("bpf_cpumask_test_cpu", &[70, to]), 0);
    // In turn, and for each CPU anew.
    let turn: Vec<u64> = (0..5)
        .map(|_| setup.call("bpf_cpumask_any_distribute", &[a]))
        .collect();
    assert_eq!(turn, [1, 2, 64, 0, 1]);
    setup.core.cpu = 1;
    assert_eq!(setup.call("bpf_cpumask_any_and_distribute", &[a, to]), 1);
}

#[test]
fn a_lent_mask_shows_who_idles_now_and_is_given_back() {
    let mut setup = Setup::new("7.3");
    let mask = setup.call("scx_bpf_get_idle_cpumask", &[]);
    assert_eq!(setup.call("bpf_cpumask_test_cpu", &[7, mask]), 0);
    setup.core.idle.insert(7);
    assert_eq!(setup.call("bpf_cpumask_test_cpu", &[7, mask]), 1);
    assert_eq!(setup.call("bpf_cpumask_weight", &[mask]), 1);
    assert_eq!(setup.call("scx_bpf_test_and_clear_cpu_idle", &[7]), 1);
    assert_eq!(setup.call("bpf_cpumask_weight", &[mask]), 0);
    assert!(setup.held.holds(mask));
    setup.call("scx_bpf_put_idle_cpumask", &[mask]);
    assert!(!setup.held.holds(mask));
    assert!(setup.try_call("scx_bpf_put_cpumask", &[mask]).is_err());
    let online = setup.call("scx_bpf_get_online_cpumask", &[]);
    assert_ne!(online, mask);
    assert_eq!(setup.call("bpf_cpumask_weight", &[online]), 69);
    assert_eq!(
        setup.memory.store(online, [0_u8; 8]),
        None,
        "not to be written"
    );
}

#[test]
fn numbers_are_iterated_as_the_kernel_does() {
    let mut setup = Setup::new("6.12");
    let at = setup.bytes(&[0; 8]);
    let mut all = |start: i32, end: i32| {
        let new = [at, u64::from(start as u32), u64::from(end as u32)];
        let error = setup.call("bpf_iter_num_new", &new) as i64;
        let mut numbers = Vec::new();
        while setup.call("bpf_iter_num_next", &[at]) != 0 {
            numbers.push(setup.memory.read_u32(at).unwrap() as i32);
        }
        setup.call("bpf_iter_num_destroy", &[at]);
        (error, numbers)
    };
    assert_eq!(all(-2, 2), (0, vec![-2, -1, 0, 1]));
    assert_eq!(all(3, 3), (0, vec![]));
    assert_eq!(all(4, 3), (-22, vec![]));
    assert_eq!(all(0, 8 * 1024 * 1024 + 1), (-7, vec![]));
    assert_eq!(all(i32::MAX - 1, i32::MAX), (0, vec![i32::MAX - 1]));
    assert_eq!(setup.held.iterators, 0);
    assert!(setup.try_call("bpf_iter_num_destroy", &[at]).is_err());
}

#[test]
fn locks_are_counted() {
    let mut setup = Setup::new("7.3");
    setup.call("bpf_rcu_read_lock", &[]);
    assert_eq!(setup.held.rcu, 1);
    setup.call("bpf_rcu_read_unlock", &[]);
    assert!(setup.try_call("bpf_rcu_read_unlock", &[]).is_err());
    setup.call("bpf_preempt_disable", &[]);
    assert_eq!(setup.held.preempt, 1);
}

#[test]
fn insertions_arrive_in_every_form() {
    let mut setup = Setup::new("7.3");
    let (task, p) = setup.task(1, CpuMask::first(4));
    let words: Vec<u8> = [11_u64, 22, 33, 44]
        .iter()
        .flat_map(|w| w.to_le_bytes())
        .collect();
    let args = setup.bytes(&words);
    let expected = |vtime| DsqInsert {
        task: Some(task),
        dsq: 11,
        slice_ns: 22,
        vtime,
        enq_flags: 44,
    };
    for name in [
        "scx_bpf_dsq_insert",
        "scx_bpf_dsq_insert___v2",
        "scx_bpf_dispatch",
    ] {
        assert_eq!(setup.call(name, &[p, 11, 22, 44]), 1);
        assert_eq!(setup.core.inserts.pop(), Some(expected(None)));
    }
    for name in ["scx_bpf_dsq_insert_vtime", "scx_bpf_dispatch_vtime"] {
        setup.call(name, &[p, 11, 22, 33, 44]);
        assert_eq!(setup.core.inserts.pop(), Some(expected(Some(33))));
    }
    setup.call("__scx_bpf_dsq_insert_vtime", &[p, args]);
    assert_eq!(setup.core.inserts.pop(), Some(expected(Some(33))));
    assert_eq!(setup.kernel.images(&mut setup.memory).slice(task), 22);
    // NULL, and a pointer into a task.
    for bad in [0, p + 8] {
        assert_eq!(setup.call("scx_bpf_dsq_insert", &[bad, 11, 22, 44]), 0);
        assert_eq!(setup.core.inserts.pop().unwrap().task, None);
    }
    assert_eq!(setup.call("scx_bpf_dsq_move_to_local", &[1, 99]), 1);
    assert_eq!(setup.call("scx_bpf_dsq_move_to_local___v2", &[2, 99]), 0);
    assert_eq!(setup.core.said, ["consume 1 0", "consume 2 99"]);
}

#[test]
fn what_a_move_is_to_set_is_set_once() {
    let mut setup = Setup::new("6.12");
    let (task, p) = setup.task(1, CpuMask::first(4));
    setup.core.queue = vec![task];
    let it = setup.bytes(&[0xff; 48]);
    assert_eq!(setup.call("scx_bpf_dsq_nr_queued", &[1]), 1);
    assert_eq!(setup.call("bpf_iter_scx_dsq_new", &[it, 1, 65536]), 0);
    assert_eq!(setup.core.iterators, [65536]);
    assert_eq!(setup.call("bpf_iter_scx_dsq_next", &[it]), p);
    assert_eq!(setup.call("bpf_iter_scx_dsq_next", &[it]), 0);
    setup.call("scx_bpf_dispatch_from_dsq_set_vtime", &[it, 5]);
    setup.call("scx_bpf_dispatch_vtime_from_dsq", &[it, p, 2, 8]);
    setup.call("scx_bpf_dsq_move_set_slice", &[it, 6]);
    setup.call("scx_bpf_dsq_move", &[it, p, 2, 8]);
    setup.call("bpf_iter_scx_dsq_destroy", &[it]);
    assert!(setup.core.iterators.is_empty());
    let to = |slice_ns, vtime, by_vtime| DsqMove {
        task: Some(task),
        dsq: 2,
        slice_ns,
        vtime,
        by_vtime,
        enq_flags: 8,
    };
    let id = Some(IterId(0));
    let expected = [
        (id, to(None, Some(5), true)),
        (id, to(Some(6), None, false)),
    ];
    assert_eq!(setup.core.moves, expected);
    // Of a queue that does not exist there is nothing, but an iterator.
    assert_eq!(setup.call("bpf_iter_scx_dsq_new", &[it, 9, 0]) as i64, -2);
    assert_eq!(setup.call("bpf_iter_scx_dsq_next", &[it]), 0);
    assert_eq!(setup.held.iterators, 1);
    setup.call("bpf_iter_scx_dsq_destroy", &[it]);
    assert_eq!(setup.held.iterators, 0);
}

#[test]
fn searches_for_a_cpu_get_their_masks_and_signs() {
    let mut setup = Setup::new("7.3");
    let allowed: CpuMask = [2, 69].into_iter().collect();
    let (_, p) = setup.task(1, allowed);
    let mask = {
        let field = setup.kernel.tasks.layout().field("cpus_mask").unwrap();
        p + u64::from(field.offset)
    };
    let idle = setup.bytes(&[9]);
    assert_eq!(setup.call("scx_bpf_select_cpu_dfl", &[p, 4, 0, idle]), 5);
    assert_eq!(setup.memory.load(idle), Some([1]));
    assert_eq!(setup.call("scx_bpf_select_cpu_dfl", &[p, 5, 0, idle]), 6);
    assert_eq!(setup.memory.load(idle), Some([0]));
    let busy = setup.call("scx_bpf_pick_idle_cpu", &[mask, 1]) as i64;
    assert_eq!(busy, -16);
    assert_eq!(setup.call("scx_bpf_pick_any_cpu_node", &[mask, 1, 2]), 2);
    setup.call("scx_bpf_select_cpu_and", &[p, 3, 4, mask, 5]);
    let mut args = vec![0; 24];
    args[0] = 3;
    args[8] = 4;
    args[16] = 5;
    let args = setup.bytes(&args);
    setup.call("__scx_bpf_select_cpu_and", &[p, mask, args]);
    let expected = [
        (allowed, None, 1),
        (allowed, Some(1), 2),
        (allowed, Some(3), 0x405),
        (allowed, Some(3), 0x405),
    ];
    assert_eq!(setup.core.asked, expected);
    setup.call("scx_bpf_kick_cpu", &[u64::from(-1_i32 as u32), 2]);
    assert_eq!(setup.core.kicks, [(-1, 2)]);
}

#[test]
fn messages_are_formatted() {
    let mut setup = Setup::new("7.3");
    let format = setup.bytes(b"queue 0x%llx: error %d\0");
    let data: Vec<u8> = [0x2_0000_0001_u64, -12_i64 as u64, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let data = setup.bytes(&data);
    setup.call("scx_bpf_error_bstr", &[format, data, 24]);
    setup.call("scx_bpf_exit_bstr", &[7, format, data, 24]);
    setup.call("scx_bpf_dump_bstr", &[format, data, 24]);
    // Too few arguments: the kernel ends the policy.
    setup.call("scx_bpf_dump_bstr", &[format, data, 8]);
    let text = "queue 0x200000001: error -12";
    assert_eq!(
        setup.core.said,
        [
            format!("error: {text}"),
            format!("exit 7: {text}"),
            format!("dump: {text}"),
            "error: scx_bpf_dump_bstr: more conversions than arguments".into(),
        ]
    );
    let odd = setup.try_call("scx_bpf_error_bstr", &[format, data, 9]);
    assert!(odd.is_err());
}

#[test]
fn events_stand_where_the_kernel_has_them() {
    let mut setup = Setup::new("6.18");
    let btf = btf::kernel("6.18").unwrap();
    let id = btf.find("scx_event_stats", btf::Kind::Struct).unwrap();
    let size = btf.size_of(id).unwrap();
    let stats = setup.bytes(&vec![0; size as usize]);
    setup.call("scx_bpf_events", &[stats, size]);
    for name in ["SCX_EV_DISPATCH_KEEP_LAST", "SCX_EV_BYPASS_ACTIVATE"] {
        let field = btf.field(id, &[name]).unwrap();
        let at = stats + u64::from(field.bit_offset / 8);
        assert_eq!(setup.memory.read_u64(at), Ok(name.len() as u64), "{name}");
    }
    // A program that knows fewer gets fewer.
    let short = setup.bytes(&[0; 8]);
    setup.call("scx_bpf_events", &[short, 8]);
}

#[test]
fn tasks_are_found_by_pid_and_given_back() {
    let mut setup = Setup::new("7.3");
    let (_, p) = setup.task(42, CpuMask::first(1));
    assert_eq!(setup.call("bpf_task_from_pid", &[41]), 0);
    assert_eq!(setup.call("bpf_task_from_pid", &[42]), p);
    assert!(setup.held.holds(p));
    setup.call("bpf_task_release", &[p]);
    assert!(setup.try_call("bpf_task_release", &[p]).is_err());
}

#[test]
fn a_struct_is_lent_with_the_members_that_the_kernel_has() {
    for (release, has_cpu) in [("6.18", false), ("7.3", true)] {
        let mut setup = Setup::new(release);
        let members = [("kind", 1025), ("exit_code", u64::MAX), ("exit_cpu", 3)];
        let info = setup
            .kernel
            .lend_struct(&mut setup.memory, "scx_exit_info", &members);
        let btf = btf::kernel(release).unwrap();
        let id = btf.find("scx_exit_info", btf::Kind::Struct).unwrap();
        assert_eq!(
            setup.memory.object_bytes(info) as u64,
            btf.size_of(id).unwrap()
        );
        let at = |name: &str| {
            let field = btf.field(id, &[name])?;
            Some(info + u64::from(field.bit_offset / 8))
        };
        assert_eq!(setup.memory.read_u32(at("kind").unwrap()), Ok(1025));
        assert_eq!(
            setup.memory.read_u64(at("exit_code").unwrap()),
            Ok(u64::MAX)
        );
        let cpu = at("exit_cpu").map(|at| setup.memory.read_u32(at).unwrap());
        assert_eq!(cpu, has_cpu.then_some(3), "{release}");
        assert_eq!(setup.memory.store(info, [0_u8; 4]), None);
    }
}
