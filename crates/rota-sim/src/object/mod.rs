// SPDX-License-Identifier: GPL-2.0-only
//! Loads a policy's object as libbpf does, against the BTF of a chosen kernel.
//!
//! ```text
//! Object::load()      ELF, maps, ops table; relocations against the kernel
//!    set_*()          rodata and other variables, flags of the ops
//! Object::start()     maps and variables get addresses: an Instance
//!    read(), write()  variables, as user space does through the skeleton
//! ```
//!
//! What differs from libbpf: only `struct_ops` programs are loaded, there are no
//! `extern` variables of the kernel's, and a map of a type that is not simulated
//! is refused.

mod core_relo;
mod elf;
mod instance;
mod kfuncs;
mod link;
mod map_defs;
mod ops;
mod variables;
mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use crate::btf::{Btf, BtfError};
use crate::vm::{DecodeError, Function, KfuncRef, MAX_OBJECT_BYTES, MapDef, Raw};

pub use instance::Instance;
pub use ops::Ops;
pub use variables::{Place, Variables};
pub use written::{Patch, Section, Written, files};

/// Why an object cannot be run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{object}: {reason}")]
pub struct LoadError {
    /// The object, as it was called at [`Object::load`].
    pub object: String,
    /// Why.
    pub reason: Reason,
}

/// What stands in the way of an object.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is no ELF file, not one of BPF, or damaged.
    #[error("not a BPF object: {0}")]
    Elf(String),
    /// Its type information is missing or damaged.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// It has a program of a type that is not simulated.
    #[error("section {0} is not supported: only struct_ops programs are")]
    Section(String),
    /// The kernel lacks a kfunc that it needs.
    #[error("this kernel has no kfunc {0}")]
    MissingKfunc(String),
    /// The kernel has a kfunc that it needs, but with another prototype.
    #[error("kfunc {name} has another prototype in this kernel{}",
        if *.damaged { ": its BTF is damaged, the kernel's own argument is left in it" } else { "" })]
    KfuncPrototype {
        /// The kernel's name of it.
        name: String,
        /// The kernel's prototype has the argument that only the kernel sees and
        /// no public form: Debian's 7.1 and 7.2.
        damaged: bool,
    },
    /// It calls a helper that is not simulated.
    #[error("{function} calls helper {name} ({number}), which is not supported")]
    Helper {
        /// The function that calls it.
        function: String,
        /// Its name, without `bpf_`.
        name: &'static str,
        /// Its number.
        number: i64,
    },
    /// It has a map that is not simulated, or not well defined.
    #[error("map {name}: {what}")]
    Map {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// It refers to something that there is not.
    #[error("relocation in {section} at {offset:#x}: {what}")]
    Relocation {
        /// The section that is relocated.
        section: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// Its ops table cannot be used.
    #[error("ops table: {0}")]
    Ops(String),
    /// An instruction cannot be run.
    #[error(transparent)]
    Instruction(#[from] DecodeError),
    /// There is no such variable, or it has not this size.
    #[error("variable {path}: {what}")]
    Variable {
        /// What was asked for.
        path: String,
        /// Why not.
        what: String,
    },
}

impl Reason {
    fn elf(what: impl Into<String>) -> Self {
        Reason::Elf(what.into())
    }
}

/// What relocation has found out about an instruction, before anything has an
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Symbol {
    /// A map.
    Map(u32),
    /// A byte of a section of variables.
    Data { section: u32, offset: u32 },
    /// The address of a function: the index of its first instruction.
    FunctionAddress(u32),
    /// A call of one.
    Call(u32),
    /// A call of a kfunc.
    Kfunc(u32),
    /// A number: whether a kfunc exists, a value of CO-RE's.
    Constant(u64),
    /// Something that the kernel lacks.
    Poison(u32),
}

/// A section of variables.
#[derive(Clone, Debug)]
struct Data {
    name: String,
    bytes: Vec<u8>,
    writable: bool,
}

/// An object, relocated, and open to changes before it starts.
#[derive(Clone, Debug)]
pub struct Object {
    name: String,
    license: String,
    code: Vec<Raw>,
    functions: Vec<Function>,
    symbols: BTreeMap<usize, Symbol>,
    kfuncs: Vec<KfuncRef>,
    poison: Vec<String>,
    maps: Vec<MapDef>,
    /// What arrays of maps begin with: map, index, the map there.
    inner_maps: Vec<(u32, u32, u32)>,
    data: Vec<Data>,
    variables: Arc<Variables>,
    ops: Ops,
}

impl Object {
    /// Load the object in `bytes`, called `name` in errors, for the kernel that
    /// `kernel` is the BTF of.
    ///
    /// # Errors
    /// If the kernel would refuse it for what it lacks, or it has something that
    /// is not simulated.
    pub fn load(name: &str, bytes: &[u8], kernel: &Btf) -> Result<Object, LoadError> {
        Object::read(name, bytes, kernel).map_err(|reason| LoadError {
            object: name.into(),
            reason,
        })
    }

    fn read(name: &str, bytes: &[u8], kernel: &Btf) -> Result<Object, Reason> {
        let elf = elf::Elf::parse(bytes)?;
        let btf = Btf::parse(elf.section_named(".BTF").ok_or_else(no_btf)?)?;
        let mut object = Object {
            name: name.into(),
            license: elf.license(),
            code: Vec::new(),
            functions: Vec::new(),
            symbols: BTreeMap::new(),
            kfuncs: Vec::new(),
            poison: Vec::new(),
            maps: Vec::new(),
            inner_maps: Vec::new(),
            data: Vec::new(),
            variables: Arc::default(),
            ops: Ops::default(),
        };
        let mut layout = link::lay_out(&elf, &mut object)?;
        map_defs::read(&elf, &btf, &mut layout, &mut object)?;
        link::relocate(&elf, &btf, kernel, &layout, &mut object)?;
        if let Some(ext) = elf.section_named(".BTF.ext") {
            let sections: Vec<&str> = elf.sections.iter().map(|section| section.name).collect();
            core_relo::relocate(ext, &btf, kernel, &layout, &sections, &mut object)?;
        }
        object.check_helpers()?;
        object.ops = ops::read(&elf, &btf, kernel, &layout, &object.functions)?;
        object.variables = Arc::new(Variables::new(&elf, btf, &layout));
        Ok(object)
    }

    /// Refuse what calls a helper that is not simulated.
    fn check_helpers(&self) -> Result<(), Reason> {
        for (index, raw) in self.code.iter().enumerate() {
            let number = i64::from(raw.imm);
            let call = raw.code == 0x85 && raw.src == 0;
            if !call || self.symbols.contains_key(&index) || crate::vm::helper_is_supported(number)
            {
                continue;
            }
            return Err(Reason::Helper {
                function: self.function_at(index).into(),
                name: crate::vm::helper_name(number),
                number,
            });
        }
        Ok(())
    }

    fn function_at(&self, index: usize) -> &str {
        let within =
            |function: &&Function| (function.start..function.start + function.len).contains(&index);
        self.functions
            .iter()
            .find(within)
            .map_or("?", |function| &function.name)
    }

    /// What it is called in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its licence, as it says itself.
    pub fn license(&self) -> &str {
        &self.license
    }

    /// The table of its callbacks.
    pub fn ops(&self) -> &Ops {
        &self.ops
    }

    /// The table of its callbacks, to set flags and the like before the start.
    pub fn ops_mut(&mut self) -> &mut Ops {
        &mut self.ops
    }

    /// Its maps.
    pub fn maps(&self) -> &[MapDef] {
        &self.maps
    }

    /// Give an array that is the last of its section of variables so many elements
    /// before the start, as user space does with `bpf_map__set_value_size()`.
    ///
    /// # Errors
    /// If there is no such array, or others follow it, or it would be too large.
    pub fn set_elements(&mut self, array: &str, elements: u32) -> Result<(), LoadError> {
        let (whole, one) = (self.place(array)?, self.place(&format!("{array}[0]"))?);
        let bytes = &mut self.data[whole.section as usize].bytes;
        if (whole.offset + whole.bytes) as usize != bytes.len() {
            return Err(self.no_variable(array, "is not the last of its section"));
        }
        let size = u64::from(whole.offset) + u64::from(one.bytes) * u64::from(elements);
        match usize::try_from(size) {
            Ok(size) if size <= MAX_OBJECT_BYTES => {
                bytes.resize(size, 0);
                Ok(())
            }
            _ => Err(self.no_variable(array, "would be too large")),
        }
    }

    /// The kfuncs that it calls on this kernel and that are not simulated: a call
    /// of one faults.
    pub fn unsupported_kfuncs(&self) -> BTreeSet<&str> {
        let unsupported = self.kfuncs.iter().filter(|kfunc| kfunc.number.is_none());
        unsupported.map(|kfunc| &*kfunc.name).collect()
    }

    /// Its variables.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// The bytes of a variable or a part of it, as `nr_llcs`, `shards[3].nr_cpus`.
    ///
    /// # Errors
    /// If there is no such variable.
    pub fn get(&self, path: &str) -> Result<&[u8], LoadError> {
        let place = self.place(path)?;
        let range = place.offset as usize..(place.offset + place.bytes) as usize;
        let bytes = self.data[place.section as usize].bytes.get(range);
        bytes.ok_or_else(|| self.no_variable(path, "is outside of its section"))
    }

    /// Set the bytes of a variable or a part of it before the start, rodata as
    /// well as others.
    ///
    /// # Errors
    /// If there is no such variable, or `value` is larger than it.
    pub fn set(&mut self, path: &str, value: &[u8]) -> Result<(), LoadError> {
        let place = self.place(path)?;
        if value.len() > place.bytes as usize {
            let what = format!("has {} bytes, not {}", place.bytes, value.len());
            return Err(self.no_variable(path, what));
        }
        let start = place.offset as usize;
        let bytes = &mut self.data[place.section as usize].bytes;
        match bytes.get_mut(start..start + value.len()) {
            Some(bytes) => {
                bytes.copy_from_slice(value);
                Ok(())
            }
            None => Err(self.no_variable(path, "is outside of its section")),
        }
    }

    /// Set a variable that is a number, an enum or a bool.
    ///
    /// # Errors
    /// If there is no such variable, or it is larger than 8 bytes.
    pub fn set_number(&mut self, path: &str, value: u64) -> Result<(), LoadError> {
        let place = self.place(path)?;
        match value.to_le_bytes().get(..place.bytes as usize) {
            Some(bytes) => self.set(path, bytes),
            None => Err(self.no_variable(path, "is no number")),
        }
    }

    fn place(&self, path: &str) -> Result<Place, LoadError> {
        let place = self.variables.place(path);
        place.map_err(|what| self.no_variable(path, what))
    }

    fn no_variable(&self, path: &str, what: impl Into<String>) -> LoadError {
        LoadError {
            object: self.name.clone(),
            reason: Reason::Variable {
                path: path.into(),
                what: what.into(),
            },
        }
    }
}

fn no_btf() -> Reason {
    Reason::Btf(BtfError::Missing("section .BTF".into()))
}
