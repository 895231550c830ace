// SPDX-License-Identifier: GPL-2.0-only
//! One run of one program, as a value.

use super::{Cause, Host, Kind, MAX_FRAMES, Memory, State, Vm};

/// How an execution stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program returned this.
    Done(u64),
    /// The budget is used up.
    Paused,
    /// It waits for the spin lock at this address, which another execution holds;
    /// to be run again after that.
    Blocked(u64),
}

/// `BPF_MAX_LOOPS`: how often one execution takes `may_goto` for a "yes".
const MAY_GOTO_MAX: u32 = 8 * 1024 * 1024;

/// One run of one program: registers, stack, and what it holds. Finished, it
/// stays so.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The number of the function that counts as the program.
    pub(super) function: usize,
    pub(super) regs: [u64; 16],
    pub(super) pc: usize,
    /// Of the functions that wait for another to return: the outermost first.
    pub(super) callers: Vec<Caller>,
    /// The stack frames, while it does not run.
    stacks: Vec<Vec<u8>>,
    context: Option<Vec<u64>>,
    pub(super) held: Held,
    pub(super) insns: u64,
    pub(super) may_goto: u32,
    started: bool,
    /// It is to stop before kfuncs.
    pub(super) stops: bool,
    /// It has stopped before the kfunc that comes next.
    pub(super) stopped: bool,
    pub(super) done: Option<u64>,
}

/// A function that waits for another to return.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Registers 6 to 9.
    pub saved: [u64; 4],
    /// Where it goes on.
    pub pc: usize,
    /// What happens when the other returns.
    pub then: Then,
}

/// What happens when a function returns.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// Its caller goes on.
    Return,
    /// It is called again, as `bpf_loop()` says.
    Loop {
        callback: usize,
        context: u64,
        index: u32,
        nr: u32,
    },
    /// It is called for the next element, as `bpf_for_each_map_elem()` says.
    Each {
        callback: usize,
        context: u64,
        map: u32,
        row: u32,
        done: u32,
    },
}

/// What an execution has to give back before it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    references: Vec<(u64, &'static str)>,
    /// How often `bpf_rcu_read_lock()` was called without its counterpart.
    pub rcu: u32,
    /// The same of `bpf_preempt_disable()`.
    pub preempt: u32,
    /// Iterators that were made and not destroyed.
    pub iterators: u32,
    /// The spin lock that it holds.
    pub lock: Option<u64>,
}

impl Held {
    /// It has got a reference to the object at `address`, by `what`.
    pub fn acquire(&mut self, address: u64, what: &'static str) {
        self.references.push((address, what));
    }

    /// It gives a reference back. False if it has none.
    pub fn release(&mut self, address: u64) -> bool {
        let found = self.references.iter().rposition(|(at, _)| *at == address);
        found.is_some_and(|index| {
            self.references.swap_remove(index);
            true
        })
    }

    /// It has a reference to the object at `address`.
    pub fn holds(&self, address: u64) -> bool {
        self.references.iter().any(|(at, _)| *at == address)
    }

    /// Fails if something is left at the end.
    pub(super) fn check(&self, memory: &Memory) -> Result<(), Cause> {
        let left = if let Some((address, what)) = self.references.first() {
            let name = memory.name(*address).unwrap_or("an object");
            format!("{name}, from {what}")
        } else if self.rcu != 0 {
            "the RCU read lock".into()
        } else if self.preempt != 0 {
            "preemption".into()
        } else if self.iterators != 0 {
            "an iterator".into()
        } else if self.lock.is_some() {
            "a spin lock".into()
        } else {
            return Ok(());
        };
        Err(Cause::Leak(left))
    }
}

impl Vm {
    /// A run of the function of that number as a program: its context is the
    /// array of `arguments`, as that of a struct_ops program.
    ///
    /// # Panics
    /// If there is no such function.
    pub fn execution(&self, function: usize, arguments: &[u64]) -> Execution {
        let start = self.code.functions[function].start;
        let mut execution = Execution::new(function, start);
        execution.context = Some(arguments.to_vec());
        execution
    }

    /// Run the function of that number to its end.
    ///
    /// # Errors
    /// If it faults. One that waits for a lock that nobody will release is a
    /// deadlock.
    ///
    /// # Panics
    /// If there is no such function.
    pub fn call<H: Host>(
        &mut self,
        host: &mut H,
        function: usize,
        arguments: &[u64],
    ) -> Result<u64, Box<super::Fault>> {
        let mut execution = self.execution(function, arguments);
        loop {
            match execution.run(self, host, u64::MAX)? {
                Outcome::Done(value) => return Ok(value),
                Outcome::Paused => {}
                Outcome::Blocked(_) => {
                    return Err(Box::new(execution.fault(&self.code, Cause::Deadlock)));
                }
            }
        }
    }
}

impl Execution {
    fn new(function: usize, pc: usize) -> Self {
        Execution {
            function,
            regs: [0; 16],
            pc,
            callers: Vec::new(),
            stacks: Vec::new(),
            context: None,
            held: Held::default(),
            insns: 0,
            may_goto: MAY_GOTO_MAX,
            started: false,
            stops: false,
            stopped: false,
            done: None,
        }
    }

    /// A run of a callback, which has its arguments in registers.
    pub(super) fn callback(function: usize, pc: usize, args: [u64; 5]) -> Self {
        let mut execution = Execution::new(function, pc);
        execution.regs[1..6].copy_from_slice(&args);
        execution
    }

    /// How many instructions it has executed.
    pub fn insns(&self) -> u64 {
        self.insns
    }

    /// The number of the function that runs as the program.
    pub fn function(&self) -> usize {
        self.function
    }

    /// The index of the instruction that comes next.
    pub fn pc(&self) -> usize {
        self.pc
    }

    /// What it holds.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Put its stack and context where it finds them.
    pub(super) fn enter(&mut self, memory: &mut Memory) {
        if let Some(context) = &self.context {
            let address = memory.set_context(context);
            if !self.started {
                self.regs[1] = address;
            }
        }
        if !self.started {
            self.started = true;
            memory.clear_frame(0);
            self.regs[10] = Memory::frame_end(0);
            return;
        }
        for (depth, stack) in self.stacks.iter_mut().enumerate() {
            memory.swap_frame(depth, stack);
        }
    }

    /// Take its stack along, or forget it if it is done.
    pub(super) fn leave(&mut self, memory: &mut Memory, done: bool) {
        let depth = self.callers.len();
        if done {
            self.stacks.clear();
            for depth in 0..=depth {
                memory.drop_frame(depth);
            }
            return;
        }
        self.stacks.resize(depth + 1, Vec::new());
        for (depth, stack) in self.stacks.iter_mut().enumerate() {
            memory.swap_frame(depth, stack);
        }
    }

    /// Call a function; `then` says what happens when it returns.
    pub(super) fn push(
        &mut self,
        memory: &mut Memory,
        regs: &mut [u64; 16],
        pc: usize,
        then: Then,
    ) -> Result<(), Cause> {
        let depth = self.callers.len() + 1;
        if depth >= MAX_FRAMES {
            return Err(Cause::CallDepth);
        }
        self.callers.push(Caller {
            saved: [regs[6], regs[7], regs[8], regs[9]],
            pc,
            then,
        });
        memory.clear_frame(depth);
        regs[10] = Memory::frame_end(depth);
        Ok(())
    }

    /// A function has returned what is in register 0. Where its caller goes on, or
    /// where it is called again; `None` if it was the program.
    pub(super) fn pop(
        &mut self,
        state: &mut State,
        regs: &mut [u64; 16],
        cpu: u32,
    ) -> Result<Option<usize>, Cause> {
        let depth = self.callers.len();
        let Some(caller) = self.callers.last_mut() else {
            return Ok(None);
        };
        if let Some(pc) = caller.then.again(state, regs, cpu)? {
            state.memory.clear_frame(depth);
            return Ok(Some(pc));
        }
        let pc = caller.pc;
        regs[6..10].copy_from_slice(&caller.saved);
        self.callers.pop();
        state.memory.drop_frame(depth);
        regs[10] = Memory::frame_end(depth - 1);
        Ok(Some(pc))
    }
}

impl Then {
    /// Prepare the next call of a callback, if there is one, and say where it
    /// begins; or else leave in register 0 what the helper returns.
    fn again(
        &mut self,
        state: &mut State,
        regs: &mut [u64; 16],
        cpu: u32,
    ) -> Result<Option<usize>, Cause> {
        match self {
            Then::Return => Ok(None),
            Then::Loop {
                callback,
                context,
                index,
                nr,
            } => {
                *index += 1;
                if regs[0] != 0 || index >= nr {
                    regs[0] = u64::from(*index);
                    return Ok(None);
                }
                regs[1] = u64::from(*index);
                regs[2] = *context;
                Ok(Some(*callback))
            }
            Then::Each {
                callback,
                context,
                map,
                row,
                done,
            } => {
                *done += 1;
                let number = *map as usize;
                let next = match regs[0] {
                    0 => state.maps[number].element(&mut state.memory, *row + 1, cpu)?,
                    _ => None,
                };
                let Some((next, key, value)) = next else {
                    regs[0] = u64::from(*done);
                    return Ok(None);
                };
                *row = next;
                let handle = state.maps[number].handle();
                regs[1..5].copy_from_slice(&[handle, key, value, *context]);
                Ok(Some(*callback))
            }
        }
    }
}

impl State {
    /// The number of the map that a program passes as `address`.
    pub(super) fn map_number(&self, call: &'static str, address: u64) -> Result<usize, Cause> {
        match self.memory.kind(address) {
            Some(Kind::Map(number)) if address as u32 == 0 => Ok(number as usize),
            _ => Err(Cause::argument(call, format!("{address:#x} is no map"))),
        }
    }

    /// The index of the first instruction of a function that a program passes.
    pub(super) fn function_at(&self, address: u64) -> Result<usize, Cause> {
        match self.memory.kind(address) {
            Some(Kind::Code) => Ok(address as u32 as usize),
            _ => Err(Cause::NotAFunction(address)),
        }
    }
}
