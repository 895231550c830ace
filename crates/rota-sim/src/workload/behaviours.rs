// SPDX-License-Identifier: GPL-2.0-only
//! What the tasks of each kind of group do.

use std::ops::Range;
use std::time::Duration;

use rota_load::spec::{Jitter, Loop, Policy};

use super::ns;
use crate::kernel_api::{CpuMask, TaskId};
use crate::model::{Act, Behaviour, ChannelId, NewTask, TaskView};

/// When a task begins and ends, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start_ns: u64,
    pub(super) stop_ns: u64,
}

impl Window {
    fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.stop_ns
    }
}

/// Where a pattern stands in its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Take,
    Run,
    Yield,
    Pass,
    Sleep,
}

/// `loop`: wait for the token, run, yield, pass the token on, sleep.
pub(super) struct Pattern {
    window: Window,
    pattern: Loop,
    /// Where it waits for the token, and where it passes it.
    seat: Option<(ChannelId, ChannelId)>,
    jitter: Jitter,
    step: Step,
}

impl Pattern {
    pub(super) fn new(
        window: Window,
        pattern: Loop,
        seat: Option<(ChannelId, ChannelId)>,
        jitter: Jitter,
    ) -> Self {
        Self {
            window,
            pattern,
            seat,
            jitter,
            step: Step::Take,
        }
    }

    fn vary(&mut self, base: Duration) -> u64 {
        ns(self.jitter.vary(base, self.pattern.jitter_pct))
    }
}

impl Behaviour for Pattern {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        loop {
            match self.step {
                Step::Take if self.window.is_over(view.now_ns) => return Act::Exit,
                Step::Take => {
                    self.step = Step::Run;
                    if let Some((take, _)) = self.seat {
                        return Act::Receive(take);
                    }
                }
                Step::Run => {
                    self.step = Step::Yield;
                    let run_ns = self.vary(self.pattern.run);
                    return Act::Run(run_ns);
                }
                Step::Yield => {
                    *view.ops += 1;
                    self.step = Step::Pass;
                    if self.pattern.yields {
                        return Act::Yield;
                    }
                }
                Step::Pass => {
                    self.step = Step::Sleep;
                    if let Some((_, pass)) = self.seat {
                        return Act::Send(pass);
                    }
                }
                Step::Sleep => {
                    self.step = Step::Take;
                    if !self.pattern.sleep.is_zero() {
                        let sleep_ns = self.vary(self.pattern.sleep);
                        return Act::SleepUntil(view.now_ns + sleep_ns);
                    }
                }
            }
        }
    }
}

/// `pipe`: one end. The leader sends first and counts the round trips.
pub(super) struct PipeEnd {
    window: Window,
    to: ChannelId,
    from: ChannelId,
    leads: bool,
    /// Whether it sends next.
    sends: bool,
    begun: bool,
}

impl PipeEnd {
    pub(super) fn new(window: Window, to: ChannelId, from: ChannelId, leads: bool) -> Self {
        Self {
            window,
            to,
            from,
            leads,
            sends: leads,
            begun: false,
        }
    }
}

impl Behaviour for PipeEnd {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        if self.window.is_over(view.now_ns) {
            return Act::Exit;
        }
        let sends = self.sends;
        self.sends = !sends;
        if !sends {
            return Act::Receive(self.from);
        }
        // Whoever leads sends again after each answer.
        if self.leads && std::mem::replace(&mut self.begun, true) {
            *view.ops += 1;
        }
        Act::Send(self.to)
    }
}

/// `messaging`: a sender, which writes to every receiver in turn.
pub(super) struct Sender {
    window: Window,
    to: Vec<ChannelId>,
    next: usize,
}

impl Sender {
    pub(super) fn new(window: Window, to: Vec<ChannelId>) -> Self {
        Self {
            window,
            to,
            next: 0,
        }
    }
}

impl Behaviour for Sender {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        if self.window.is_over(view.now_ns) {
            return Act::Exit;
        }
        let to = self.to[self.next % self.to.len()];
        self.next = (self.next + 1) % self.to.len();
        Act::Send(to)
    }
}

/// `messaging`: a receiver.
pub(super) struct Receiver {
    window: Window,
    from: ChannelId,
    begun: bool,
}

impl Receiver {
    pub(super) fn new(window: Window, from: ChannelId) -> Self {
        Self {
            window,
            from,
            begun: false,
        }
    }
}

impl Behaviour for Receiver {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        *view.ops += u64::from(std::mem::replace(&mut self.begun, true));
        match self.window.is_over(view.now_ns) {
            true => Act::Exit,
            false => Act::Receive(self.from),
        }
    }
}

/// What a storm forks.
#[derive(Debug, Clone)]
pub(super) struct Child {
    pub(super) comm: String,
    pub(super) group: u32,
    pub(super) policy: Policy,
    pub(super) nice: i8,
    pub(super) allowed: CpuMask,
    pub(super) run_ns: u64,
    pub(super) exec: bool,
}

impl Child {
    fn task(&self) -> NewTask {
        let mut acts = vec![Act::Exit];
        if self.exec {
            acts.push(Act::Exec);
        }
        if self.run_ns > 0 {
            acts.push(Act::Run(self.run_ns));
        }
        NewTask {
            comm: self.comm.clone(),
            group: self.group,
            policy: self.policy,
            nice: self.nice,
            allowed: self.allowed,
            kthread: false,
            start_ns: 0,
            behaviour: Box::new(move |_: TaskView<'_>| acts.pop().unwrap_or(Act::Exit)),
        }
    }
}

/// `fork-storm` and `exec-storm`: as many children as allowed, all the time.
pub(super) struct Storm {
    window: Window,
    outstanding: u32,
    child: Child,
    reaped: bool,
}

impl Storm {
    pub(super) fn new(window: Window, outstanding: u32, child: Child) -> Self {
        Self {
            window,
            outstanding,
            child,
            reaped: false,
        }
    }
}

impl Behaviour for Storm {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        *view.ops += u64::from(std::mem::take(&mut self.reaped));
        if self.window.is_over(view.now_ns) {
            return Act::Exit;
        }
        if view.children < self.outstanding {
            return Act::Fork(Box::new(self.child.task()));
        }
        self.reaped = true;
        Act::Reap
    }
}

/// `affinity-storm`: run, then change an affinity.
pub(super) struct AffinityStorm {
    pub(super) window: Window,
    pub(super) run_ns: u64,
    /// The tasks to choose from; `None` is itself.
    pub(super) others: Option<Range<u32>>,
    pub(super) cpus: CpuMask,
    pub(super) jitter: Jitter,
    pub(super) ran: bool,
    pub(super) changed: bool,
}

impl AffinityStorm {
    /// One CPU half of the time, any subset else: the same draws as on a machine.
    fn choose(&mut self) -> CpuMask {
        let bits = self.jitter.next_u64();
        let nth = self.jitter.below(self.cpus.weight()) as usize;
        let one = self.cpus.iter().nth(nth);
        let mut chosen = CpuMask::EMPTY;
        if bits & 1 != 0 {
            for cpu in self.cpus.iter() {
                if self.jitter.next_u64() & 1 == 1 {
                    chosen.insert(cpu);
                }
            }
        }
        one.map(|cpu| chosen.insert(cpu));
        chosen
    }
}

impl Behaviour for AffinityStorm {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        *view.ops += u64::from(std::mem::take(&mut self.changed));
        if !std::mem::replace(&mut self.ran, true) {
            return match self.window.is_over(view.now_ns) {
                true => Act::Exit,
                false => Act::Run(self.run_ns),
            };
        }
        (self.ran, self.changed) = (false, true);
        let mask = self.choose();
        let whom = match &self.others {
            None => view.task,
            Some(others) => {
                let count = others.end - others.start;
                TaskId(others.start + self.jitter.below(count))
            }
        };
        Act::SetAffinity(whom, mask)
    }
}

/// `frame`: work to finish in every period.
pub(super) struct Frames {
    window: Window,
    period_ns: u64,
    work: Duration,
    jitter_pct: u32,
    jitter: Jitter,
    begin_ns: u64,
    working: bool,
}

impl Frames {
    pub(super) fn new(
        window: Window,
        period: Duration,
        work: Duration,
        jitter_pct: u32,
        jitter: Jitter,
    ) -> Self {
        Self {
            window,
            period_ns: ns(period),
            work,
            jitter_pct,
            jitter,
            begin_ns: window.start_ns,
            working: false,
        }
    }
}

impl Behaviour for Frames {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        let now_ns = view.now_ns;
        if !std::mem::replace(&mut self.working, true) {
            if self.window.is_over(now_ns) {
                return Act::Exit;
            }
            return Act::Run(ns(self.jitter.vary(self.work, self.jitter_pct)));
        }
        self.working = false;
        *view.ops += 1;
        *view.misses += u64::from(now_ns > self.begin_ns + self.period_ns);
        self.begin_ns += self.period_ns;
        let horizon = now_ns.min(self.window.stop_ns);
        while self.begin_ns + self.period_ns <= horizon {
            *view.misses += 1;
            self.begin_ns += self.period_ns;
        }
        Act::SleepUntil(self.begin_ns)
    }
}

/// `probe`: wake once in every period.
pub(super) struct Probe {
    window: Window,
    period_ns: u64,
    due_ns: u64,
    begun: bool,
}

impl Probe {
    pub(super) fn new(window: Window, period_ns: u64) -> Self {
        Self {
            window,
            period_ns,
            due_ns: window.start_ns,
            begun: false,
        }
    }
}

impl Behaviour for Probe {
    fn next(&mut self, view: TaskView<'_>) -> Act {
        *view.ops += u64::from(std::mem::replace(&mut self.begun, true));
        if self.window.is_over(view.now_ns) {
            return Act::Exit;
        }
        let late_ns = view.now_ns.saturating_sub(self.due_ns);
        self.due_ns += (late_ns / self.period_ns + 1) * self.period_ns;
        Act::SleepUntil(self.due_ns)
    }
}
