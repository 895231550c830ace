// SPDX-License-Identifier: GPL-2.0-only
//! A loaded object: code, and the state that its programs share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::insn::{self, Insn};
use super::{DecodeError, Execution, Kind, Map, MapDef, Memory, Raw, Target};

/// A function of the code: a program, or one that programs call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The index of its first instruction.
    pub start: usize,
    /// How many instructions it has.
    pub len: usize,
}

/// A kfunc that the code calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KfuncRef {
    /// The kernel's name of it.
    pub name: String,
    /// Its number in the host's table; `None` if that does not have it.
    pub number: Option<u16>,
}

/// What never changes of a loaded object.
#[derive(Debug)]
pub struct Code {
    pub(super) insns: Vec<Insn>,
    pub(super) functions: Vec<Function>,
    pub(super) kfuncs: Vec<KfuncRef>,
    pub(super) poison: Vec<String>,
}

impl Code {
    /// The function that an instruction belongs to, and its index in that.
    pub fn locate(&self, pc: usize) -> (&str, usize) {
        let found = self
            .functions
            .iter()
            .filter(|function| function.start <= pc)
            .max_by_key(|function| function.start);
        match found {
            Some(function) => (&function.name, pc - function.start),
            None => ("?", pc),
        }
    }

    /// All functions.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The kfuncs that the code calls.
    pub fn kfuncs(&self) -> &[KfuncRef] {
        &self.kfuncs
    }
}

/// How much a program has run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How often it was started.
    pub runs: u64,
    /// How many instructions that were, functions and callbacks included.
    pub insns: u64,
}

/// A timer that was made, by the address of its `struct bpf_timer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// The number of the map that it is in.
    pub map: u32,
    /// Where its callback begins.
    pub callback: Option<u32>,
}

/// What the programs of an object share, and change.
#[derive(Clone, Debug)]
pub struct State {
    /// All memory.
    pub memory: Memory,
    /// The maps by number.
    pub maps: Vec<Map>,
    pub(super) timers: BTreeMap<u64, Timer>,
    /// The address of the first instruction, for pointers to functions.
    pub(super) code: u64,
    pub(super) nr_cpus: u32,
}

/// A loaded object. A clone is a snapshot that shares the code.
#[derive(Clone, Debug)]
pub struct Vm {
    pub(super) code: Arc<Code>,
    /// What changes.
    pub state: State,
    pub(super) counts: Vec<Count>,
}

impl State {
    /// Memory with nothing in it, for a machine of `nr_cpus` CPUs.
    pub fn new(nr_cpus: u32) -> Self {
        let mut memory = Memory::new();
        // Not to be read or written: offsets in it are indices of instructions.
        let code = memory.add("code", Kind::Code, Vec::new());
        State {
            memory,
            maps: Vec::new(),
            timers: BTreeMap::new(),
            code,
            nr_cpus,
        }
    }

    /// Add an empty map; its number. [`MapDef::bytes`] tells whether it fits.
    pub fn add_map(&mut self, def: MapDef) -> u32 {
        let number = u32::try_from(self.maps.len()).expect("objects have few maps");
        let map = Map::new(&mut self.memory, number, def, self.nr_cpus);
        self.maps.push(map);
        number
    }

    /// The map of that name.
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.iter().find(|map| map.def.name == name)
    }

    /// The pointer to the function that begins at an instruction.
    pub fn function_address(&self, pc: u32) -> u64 {
        self.code + u64::from(pc)
    }

    /// Take away what the maps keep for a task that is gone.
    pub fn forget_task(&mut self, task: u32) {
        for map in &mut self.maps {
            map.storage_delete(&mut self.memory, task);
        }
    }
}

impl Vm {
    /// Decode `raw` into a machine with this state. `target` says what relocation
    /// knows of each instruction.
    ///
    /// # Errors
    /// If an instruction is none that there is, or not relocated.
    pub fn new(
        raw: &[Raw],
        target: impl Fn(usize) -> Option<Target>,
        functions: Vec<Function>,
        kfuncs: Vec<KfuncRef>,
        poison: Vec<String>,
        state: State,
    ) -> Result<Vm, DecodeError> {
        let counts = vec![Count::default(); functions.len()];
        Ok(Vm {
            code: Arc::new(Code {
                insns: insn::decode(raw, target)?,
                functions,
                kfuncs,
                poison,
            }),
            state,
            counts,
        })
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The number of the function of that name, for [`Vm::execution`].
    pub fn function(&self, name: &str) -> Option<usize> {
        let functions = &self.code.functions;
        functions.iter().position(|function| function.name == name)
    }

    /// How much each function has run as a program: by its number.
    pub fn count(&self, function: usize) -> Count {
        self.counts.get(function).copied().unwrap_or_default()
    }

    /// How many instructions were executed, in all programs.
    pub fn insns(&self) -> u64 {
        self.counts.iter().map(|count| count.insns).sum()
    }

    /// The run of the callback of the timer at that address, which has expired;
    /// `None` if it has none, or its map element is gone.
    pub fn timer_execution(&mut self, timer: u64) -> Option<Execution> {
        let entry = *self.state.timers.get(&timer)?;
        let pc = entry.callback?;
        let map = self.state.maps.get_mut(entry.map as usize)?;
        let (key, value) = map.element_of(&mut self.state.memory, timer).ok()?;
        let functions = &self.code.functions;
        let function = functions
            .iter()
            .position(|function| function.start == pc as usize)?;
        let args = [map.handle(), key, value, 0, 0];
        Some(Execution::callback(function, pc as usize, args))
    }
}
