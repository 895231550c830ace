// SPDX-License-Identifier: GPL-2.0-only
//! CPUs that execute kernel code, side by side.
//!
//! What a CPU does is written as the kernel writes it, one step after the other,
//! in `async` functions. Where time passes, a lock is taken or the CPU halts,
//! the function waits, and other CPUs go on; the event queue says who is next.
//! No task of an executor's is involved: each CPU is one future, and it is polled
//! when its event comes.
//!
//! A CPU takes interrupts only in user space and when it halts, as if all kernel
//! code ran with interrupts off. The state is borrowed between two waits only;
//! clippy's `await_holding_refcell_ref` watches over that.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as PollContext, Poll, Waker};

use super::consts::ExitKind;
use super::context::Context;
use super::core::{Active, Core, Phase};
use super::event::{Event, Irq};
use super::ops::{Activation, Callback, Fields, Op, Ops, Progress};
use crate::kernel_api::TaskId;
use crate::trace;

/// Instructions that a callback may take before it counts as hung.
const CALLBACK_INSNS_MAX: u64 = 100_000_000;

/// The kernel: the state, and the policy.
pub(super) struct Kernel {
    core: RefCell<Core>,
    ops: RefCell<Box<dyn Ops>>,
}

/// Waits for the next poll.
struct Pause(bool);

impl Future for Pause {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut PollContext<'_>) -> Poll<()> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Kernel {
    pub(super) fn new(core: Core, ops: Box<dyn Ops>) -> Self {
        Self {
            core: RefCell::new(core),
            ops: RefCell::new(ops),
        }
    }

    /// Looks at the state or changes it.
    pub(super) fn with<R>(&self, act: impl FnOnce(&mut Core) -> R) -> R {
        act(&mut self.core.borrow_mut())
    }

    /// The same with what the policy shares of tasks.
    pub(super) fn with_fields<R>(&self, act: impl FnOnce(&mut Core, &mut dyn Fields) -> R) -> R {
        let mut ops = self.ops.borrow_mut();
        act(&mut self.core.borrow_mut(), &mut **ops)
    }

    /// `cpu` is busy for `ns`.
    pub(super) async fn delay(&self, cpu: u32, ns: u64) {
        if ns == 0 {
            return;
        }
        self.with(|core| {
            let at = core.now_ns + ns;
            let turn = core.next_turn(cpu);
            core.events.post(at, Event::Resume { cpu, turn });
        });
        Pause(false).await;
    }

    /// `cpu` is in user space or halts, until `until_ns` or an interrupt.
    async fn open(&self, cpu: u32, until_ns: Option<u64>) {
        self.with(|core| {
            let turn = core.next_turn(cpu);
            core.rq(cpu).open = true;
            if let Some(at) = until_ns {
                core.events.post(at, Event::Resume { cpu, turn });
            }
        });
        Pause(false).await;
    }

    /// `cpu` waits to be resumed by another.
    pub(super) async fn pause(&self, cpu: u32) {
        self.with(|core| core.next_turn(cpu));
        Pause(false).await;
    }

    /// `cpu` takes the lock of the run queue of `of`.
    pub(super) async fn lock_rq(&self, cpu: u32, of: u32) {
        let has = self.with(|core| {
            let has = core.rq(of).lock.acquire(cpu);
            core.stats.rq_lock_waits += u64::from(!has);
            has
        });
        if !has {
            self.pause(cpu).await;
        }
    }

    pub(super) fn unlock_rq(&self, of: u32) {
        self.with(|core| {
            if let Some(next) = core.rq(of).lock.release() {
                core.resume(next);
            }
        });
    }

    /// `cpu` takes the `pi_lock` of a task.
    pub(super) async fn lock_task(&self, cpu: u32, task: TaskId) {
        if !self.with(|core| core.task(task).pi_lock.acquire(cpu)) {
            self.pause(cpu).await;
        }
    }

    pub(super) fn unlock_task(&self, task: TaskId) {
        self.with(|core| {
            if let Some(next) = core.task(task).pi_lock.release() {
                core.resume(next);
            }
        });
    }

    /// Calls the policy, if it has this callback. 0 if not.
    pub(super) async fn call(&self, cpu: u32, callback: Callback) -> i64 {
        if !self.with(|core| core.has(callback.op())) {
            return 0;
        }
        let value = self.run(cpu, callback).await;
        self.dequeues(cpu).await;
        value
    }

    /// The `ops.dequeue` calls that the last callback made due.
    async fn dequeues(&self, cpu: u32) {
        loop {
            let due = self.with(|core| {
                let at = core.due_dequeues.iter().position(|due| due.0 == cpu)?;
                Some(core.due_dequeues.remove(at))
            });
            let Some((_, task, deq_flags)) = due else {
                return;
            };
            self.run(cpu, Callback::Dequeue { task, deq_flags }).await;
        }
    }

    /// A callback from its entry to its end.
    async fn run(&self, cpu: u32, callback: Callback) -> i64 {
        let op = callback.op();
        let mut activation = Activation {
            cpu,
            callback,
            state: None,
        };
        let mut active = Some(Active {
            op,
            task: activation.callback.task(),
            dispatched: false,
        });
        self.with(|core| {
            core.record(
                cpu,
                trace::Event::Callback(op),
                activation.callback.task(),
                0,
                0,
            );
            core.stats.ops.entry(op).or_default().calls += 1;
        });
        let mut total = 0;
        loop {
            let (progress, took_ns) = self.piece(cpu, op, &mut activation, &mut active);
            let (value, insns) = match progress {
                Progress::Done { value, insns } => (Some(value), insns),
                Progress::Pending { insns } => (None, insns),
            };
            total += insns;
            self.delay(cpu, took_ns).await;
            let hung = total > CALLBACK_INSNS_MAX;
            if value.is_some() || hung {
                self.with(|core| {
                    let stats = core.stats.ops.entry(op).or_default();
                    stats.insns += total;
                    stats.longest_insns = stats.longest_insns.max(total);
                    if hung && value.is_none() {
                        core.error(cpu, format!("ops.{}() does not return", op.name()));
                    }
                });
                return value.unwrap_or(0);
            }
        }
    }

    /// A piece of a callback, and how long it takes.
    fn piece(
        &self,
        cpu: u32,
        op: Op,
        activation: &mut Activation,
        active: &mut Option<Active>,
    ) -> (Progress, u64) {
        let mut ops = self.ops.borrow_mut();
        let mut core = self.core.borrow_mut();
        core.piece_ns = 0;
        std::mem::swap(&mut core.active[cpu as usize], active);
        let mut context = Context {
            core: &mut core,
            cpu,
        };
        let progress = ops.step(activation, &mut context);
        std::mem::swap(&mut core.active[cpu as usize], active);
        let progress = progress.unwrap_or_else(|fault| {
            let message = format!("ops.{}(): {fault}", op.name());
            core.exit_with(cpu, ExitKind::Error, 0, message);
            Progress::NOTHING
        });
        let insns = match progress {
            Progress::Done { insns, .. } | Progress::Pending { insns } => insns,
        };
        let took = core.costs.insns_ns(insns) + std::mem::take(&mut core.piece_ns);
        let entry = match progress {
            Progress::Done { .. } => core.costs.callback_ns,
            Progress::Pending { .. } => 0,
        };
        (progress, took + entry)
    }

    /// Everything that a CPU does, for ever.
    async fn cpu_main(&self, cpu: u32) {
        loop {
            if let Some(irq) = self.with(|core| core.rq(cpu).irqs.pop_front()) {
                self.handle(cpu, irq).await;
            } else if self.with(|core| core.halted) {
                self.open(cpu, None).await;
            } else if self.with(|core| core.rq(cpu).need_resched) {
                self.schedule(cpu).await;
            } else if let Some(curr) = self.with(|core| core.rq(cpu).curr) {
                self.user(cpu, curr).await;
            } else {
                self.halt(cpu).await;
            }
        }
    }

    /// The idle task: wait for an interrupt.
    async fn halt(&self, cpu: u32) {
        self.with(|core| {
            let now_ns = core.now_ns;
            if core.rq(cpu).online {
                core.stats.beside.halts(cpu, true, now_ns);
            }
        });
        self.open(cpu, None).await;
    }

    /// A task in user space: its work, or its next system call.
    async fn user(&self, cpu: u32, curr: TaskId) {
        let (left, capacity, begin_ns) = self.with(|core| {
            let left = core.get(curr).work_left_ns;
            (left, core.machine.capacity(cpu), core.now_ns)
        });
        if left == 0 {
            return self.syscall(cpu, curr).await;
        }
        let real_ns = (u128::from(left) * 1024).div_ceil(u128::from(capacity)) as u64;
        self.open(cpu, Some(begin_ns.saturating_add(real_ns))).await;
        self.with(|core| {
            let ran_ns = u128::from(core.now_ns - begin_ns);
            let done = (ran_ns * u128::from(capacity) / 1024) as u64;
            let left = &mut core.task(curr).work_left_ns;
            *left = left.saturating_sub(done);
        });
    }
}

impl Core {
    /// What `cpu` is at ends; events for it are stale.
    fn next_turn(&mut self, cpu: u32) -> u64 {
        let rq = self.rq(cpu);
        rq.open = false;
        rq.turn += 1;
        rq.turn
    }

    /// `cpu`, which waits for it, goes on.
    pub(super) fn resume(&mut self, cpu: u32) {
        let turn = self.rq(cpu).turn;
        let now = self.now_ns;
        self.events.post(now, Event::Resume { cpu, turn });
    }

    /// Whether an event lets its CPU go on.
    fn concerns(&mut self, event: Event) -> Option<u32> {
        match event {
            Event::Resume { cpu, turn } => (self.rq(cpu).turn == turn).then_some(cpu),
            Event::Interrupt { cpu, irq } => {
                if self.is_stale(cpu, irq) {
                    return None;
                }
                let rq = self.rq(cpu);
                rq.irqs.push_back(irq);
                rq.open.then_some(cpu)
            }
        }
    }

    /// An interrupt that nobody waits for any more costs nothing.
    fn is_stale(&self, cpu: u32, irq: Irq) -> bool {
        let rq = &self.rqs[cpu as usize];
        match irq {
            Irq::Tick { series } => rq.tick_series != series || !rq.ticking,
            Irq::Timer { timer, number } => self.timers.get(&timer) != Some(&number),
            _ => false,
        }
    }
}

/// The futures of all CPUs.
pub(super) struct Cpus {
    futures: Vec<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Cpus {
    pub(super) fn new(kernel: &Rc<Kernel>) -> Self {
        let nr = kernel.with(|core| core.machine.nr_cpu_ids());
        let main = |cpu| {
            let kernel = Rc::clone(kernel);
            let future: Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(async move { kernel.cpu_main(cpu).await });
            future
        };
        let mut cpus = Self {
            futures: (0..nr).map(main).collect(),
        };
        for cpu in 0..nr {
            cpus.poll(cpu);
        }
        cpus
    }

    fn poll(&mut self, cpu: u32) {
        let mut context = PollContext::from_waker(Waker::noop());
        let polled = self.futures[cpu as usize].as_mut().poll(&mut context);
        debug_assert!(polled.is_pending(), "a CPU never ends");
    }

    /// Lets events happen up to and including `until_ns`, or until the policy is
    /// gone.
    pub(super) fn run(&mut self, kernel: &Kernel, until_ns: u64) {
        loop {
            let cpu = {
                let mut core = kernel.core.borrow_mut();
                if core.halted || core.events.next_ns().is_none_or(|at| at > until_ns) {
                    if !core.halted {
                        core.now_ns = until_ns;
                    }
                    return;
                }
                let Some((at, event)) = core.events.pop() else {
                    return;
                };
                core.now_ns = core.now_ns.max(at);
                core.stats.events_done += 1;
                core.concerns(event)
            };
            if let Some(cpu) = cpu {
                self.poll(cpu);
            }
        }
    }
}

/// Runs kernel code on CPU 0 to its end before any CPU does anything else.
pub(super) fn block_on(kernel: &Kernel, code: impl Future<Output = ()>) {
    let mut context = PollContext::from_waker(Waker::noop());
    let mut code = std::pin::pin!(code);
    // What waits is the code itself, for time to pass. All else is set aside, once: on a
    // machine with many tasks and CPUs there is much of both.
    let mut aside = Vec::new();
    while code.as_mut().poll(&mut context).is_pending() {
        kernel.with(|core| {
            while let Some((at, event)) = core.events.pop() {
                if matches!(event, Event::Resume { cpu: 0, .. }) {
                    core.now_ns = core.now_ns.max(at);
                    break;
                }
                aside.push((at, event));
            }
        });
    }
    kernel.with(|core| {
        for (at, event) in aside {
            core.events.post(at, event);
        }
    });
}

impl Kernel {
    /// Whether the policy is in charge.
    pub(super) fn enabled(&self) -> bool {
        self.with(|core| core.phase == Phase::Enabled)
    }
}
