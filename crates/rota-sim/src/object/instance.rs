// SPDX-License-Identifier: GPL-2.0-only
//! An object that has started: its maps and variables are in memory.

use std::sync::Arc;

use super::{LoadError, Object, Ops, Reason, Symbol, Variables};
use crate::vm::{Kind, State, Target, Vm};

/// A policy that runs. A clone is a snapshot of all that it keeps.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its code, memory and maps.
    pub vm: Vm,
    /// The table of its callbacks.
    pub ops: Ops,
    variables: Arc<Variables>,
    /// Addresses of the sections of variables.
    data: Vec<u64>,
}

impl Object {
    /// Give maps and variables their places, on a machine of `nr_cpus` CPUs. From
    /// now on rodata cannot be changed.
    ///
    /// # Errors
    /// If its maps do not fit in memory, or an instruction is none that there is.
    pub fn start(&self, nr_cpus: u32) -> Result<Instance, LoadError> {
        let error = |reason| LoadError {
            object: self.name.clone(),
            reason,
        };
        let mut state = State::new(nr_cpus);
        for def in &self.maps {
            if def.bytes(nr_cpus).is_none() {
                return Err(error(Reason::Map {
                    name: def.name.clone(),
                    what: "is too large".into(),
                }));
            }
            state.add_map(def.clone());
        }
        for &(outer, index, inner) in &self.inner_maps {
            let inner = state.maps[inner as usize].handle().to_le_bytes();
            let outer = &mut state.maps[outer as usize];
            outer.set(&mut state.memory, &index.to_le_bytes(), &inner, 0);
        }
        let mut data = Vec::new();
        for section in &self.data {
            let bytes = section.bytes.clone();
            let address = state.memory.add(&section.name, Kind::Global, bytes);
            if !section.writable {
                state.memory.protect(address, 0..0);
            }
            data.push(address);
        }
        let mut targets = std::collections::HashMap::new();
        for (index, symbol) in &self.symbols {
            targets.insert(*index, self.target(*symbol, &state, &data));
        }
        let vm = Vm::new(
            &self.code,
            |index| targets.get(&index).copied(),
            self.functions.clone(),
            self.kfuncs.clone(),
            self.poison.clone(),
            state,
        );
        Ok(Instance {
            vm: vm.map_err(|reason| error(reason.into()))?,
            ops: self.ops.clone(),
            variables: Arc::clone(&self.variables),
            data,
        })
    }

    fn target(&self, symbol: Symbol, state: &State, data: &[u64]) -> Target {
        match symbol {
            Symbol::Map(number) => Target::Constant(state.maps[number as usize].handle()),
            // An offset that is out of bounds faults where it is used.
            Symbol::Data { section, offset } => {
                Target::Constant(data[section as usize] + u64::from(offset))
            }
            Symbol::FunctionAddress(pc) => Target::Constant(state.function_address(pc)),
            Symbol::Call(pc) => Target::Function(pc),
            Symbol::Kfunc(number) => Target::Kfunc(number),
            Symbol::Constant(value) => Target::Constant(value),
            Symbol::Poison(what) => Target::Poison(what),
        }
    }
}

impl Instance {
    /// The address and the size of a variable or a part of it; `None` if there is
    /// none.
    pub fn address(&self, path: &str) -> Option<(u64, usize)> {
        let place = self.variables.place(path).ok()?;
        let section = self.data.get(place.section as usize)?;
        Some((section + u64::from(place.offset), place.bytes as usize))
    }

    /// The bytes of a variable or a part of it, as `counters[3].nr[0]`.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        let (address, bytes) = self.address(path)?;
        self.vm.state.memory.read(address, bytes).ok()
    }

    /// A variable that is a number, an enum or a bool, without sign.
    pub fn number(&self, path: &str) -> Option<u64> {
        let bytes = self.read(path)?;
        let mut number = [0; 8];
        number.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(number))
    }

    /// Write a variable or a part of it, as user space does. False if there is
    /// none, it is rodata, or `value` is larger than it.
    pub fn write(&mut self, path: &str, value: &[u8]) -> bool {
        match self.address(path) {
            Some((address, bytes)) if value.len() <= bytes => {
                self.vm.state.memory.write(address, value).is_ok()
            }
            _ => false,
        }
    }

    /// Write a variable that is a number.
    pub fn write_number(&mut self, path: &str, value: u64) -> bool {
        let Some((_, bytes)) = self.address(path) else {
            return false;
        };
        let value = value.to_le_bytes();
        value
            .get(..bytes)
            .is_some_and(|value| self.write(path, value))
    }

    /// All variables.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }
}
