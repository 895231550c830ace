// SPDX-License-Identifier: GPL-2.0-only
//! The ELF file: sections, symbols and relocations, checked once.

use ::object::elf::{EM_BPF, SHF_EXECINSTR, SHF_WRITE, SHN_UNDEF, STT_FUNC, STT_OBJECT};
use ::object::read::elf::{ElfFile64, FileHeader as _};
use ::object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _};
use ::object::{RelocationFlags, RelocationTarget, SectionFlags, SectionKind, SymbolFlags};

use super::Reason;
use crate::vm::MAX_OBJECT_BYTES;

/// A section.
pub(super) struct Section<'a> {
    pub name: &'a str,
    /// Its bytes; of `.bss` none.
    pub bytes: &'a [u8],
    /// Its size, with that of `.bss`.
    pub size: usize,
    pub executable: bool,
    pub writable: bool,
    /// It takes memory when the object is loaded.
    pub allocated: bool,
    pub relocations: Vec<Relocation>,
}

/// A symbol.
pub(super) struct Symbol<'a> {
    pub name: &'a str,
    /// The number of its section; `None` if it is another object's.
    pub section: Option<usize>,
    pub value: u64,
    pub size: u64,
    pub weak: bool,
    pub function: bool,
    pub object: bool,
}

/// A reference from a section to a symbol.
#[derive(Clone, Copy)]
pub(super) struct Relocation {
    pub offset: u64,
    /// `R_BPF_*`.
    pub kind: u32,
    pub symbol: usize,
}

/// An object file.
pub(super) struct Elf<'a> {
    /// By number, with gaps where the file has sections without bytes of their own.
    pub sections: Vec<Section<'a>>,
    pub symbols: Vec<Symbol<'a>>,
}

impl<'a> Elf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Reason> {
        let wrong = |error: ::object::Error| Reason::elf(error.to_string());
        let file = ElfFile64::<LittleEndian>::parse(bytes).map_err(wrong)?;
        if file.elf_header().e_machine(LittleEndian) != EM_BPF {
            return Err(Reason::elf("made for another machine"));
        }
        let last = file.sections().map(|section| section.index().0).max();
        let mut sections: Vec<Section<'a>> = Vec::new();
        sections.resize_with(last.map_or(0, |last| last + 1), Section::empty);
        if sections.len() > bytes.len() {
            return Err(Reason::elf("more sections than bytes"));
        }
        for section in file.sections() {
            sections[section.index().0] = Section::read(&section)?;
        }
        let mut symbols = Vec::new();
        for symbol in file.symbols() {
            let index = symbol.index().0;
            if index > bytes.len() {
                return Err(Reason::elf("more symbols than bytes"));
            }
            symbols.resize_with(index, Symbol::empty);
            symbols.push(Symbol::read(&symbol)?);
        }
        Ok(Elf { sections, symbols })
    }

    /// The bytes of the section of that name.
    pub fn section_named(&self, name: &str) -> Option<&'a [u8]> {
        let found = self.sections.iter().find(|section| section.name == name);
        found.map(|section| section.bytes)
    }

    /// What the object says about its licence.
    pub fn license(&self) -> String {
        let bytes = self.section_named("license").unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
    }
}

impl<'a> Section<'a> {
    fn empty() -> Self {
        Section {
            name: "",
            bytes: &[],
            size: 0,
            executable: false,
            writable: false,
            allocated: false,
            relocations: Vec::new(),
        }
    }

    fn read(
        section: &::object::read::elf::ElfSection64<'a, '_, LittleEndian>,
    ) -> Result<Self, Reason> {
        let wrong = |error: ::object::Error| Reason::elf(error.to_string());
        let name = section.name().map_err(wrong)?;
        let flags = match section.flags() {
            SectionFlags::Elf { sh_flags } => sh_flags,
            _ => 0,
        };
        let size = usize::try_from(section.size()).unwrap_or(usize::MAX);
        if size > MAX_OBJECT_BYTES {
            return Err(Reason::elf(format!("section {name} is too large")));
        }
        let relocation = |(offset, relocation): (u64, ::object::Relocation)| {
            let symbol = match relocation.target() {
                RelocationTarget::Symbol(index) => index.0,
                _ => usize::MAX,
            };
            let kind = match relocation.flags() {
                RelocationFlags::Elf { r_type } => r_type,
                _ => 0,
            };
            Relocation {
                offset,
                kind,
                symbol,
            }
        };
        Ok(Section {
            name,
            bytes: section.data().map_err(wrong)?,
            size,
            executable: flags & u64::from(SHF_EXECINSTR) != 0,
            writable: flags & u64::from(SHF_WRITE) != 0,
            allocated: flags & u64::from(::object::elf::SHF_ALLOC) != 0
                && section.kind() != SectionKind::Metadata,
            relocations: section.relocations().map(relocation).collect(),
        })
    }
}

impl<'a> Symbol<'a> {
    fn empty() -> Self {
        Symbol {
            name: "",
            section: None,
            value: 0,
            size: 0,
            weak: false,
            function: false,
            object: false,
        }
    }

    fn read(
        symbol: &::object::read::elf::ElfSymbol64<'a, '_, LittleEndian>,
    ) -> Result<Self, Reason> {
        let name = symbol
            .name()
            .map_err(|error| Reason::elf(error.to_string()))?;
        let kind = match symbol.flags() {
            SymbolFlags::Elf { st_info, .. } => st_info & 0xf,
            _ => 0,
        };
        let defined = symbol.elf_symbol().st_shndx.get(LittleEndian) != SHN_UNDEF;
        Ok(Symbol {
            name,
            section: symbol
                .section_index()
                .filter(|_| defined)
                .map(|index| index.0),
            value: symbol.address(),
            size: symbol.size(),
            weak: symbol.is_weak(),
            function: kind == STT_FUNC,
            object: kind == STT_OBJECT,
        })
    }
}
