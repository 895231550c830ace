// SPDX-License-Identifier: GPL-2.0-only
//! Maps: what programs keep beside their variables.
//!
//! The values of a map are one object of [`Memory`], element after element: a
//! pointer to a value is checked against the bounds of all of them.

use std::collections::{BTreeMap, VecDeque};

use super::{BadAccess, Cause, Kind, MAX_OBJECT_BYTES, Memory};

const ENOENT: i64 = -2;
const E2BIG: i64 = -7;
const EAGAIN: i64 = -11;
const EEXIST: i64 = -17;
const EINVAL: i64 = -22;

/// What a ring buffer keeps in front of each record, in bytes.
const RING_HEADER: usize = 8;

/// A type of map that is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum MapKind {
    Hash,
    Array,
    PercpuHash,
    PercpuArray,
    LruHash,
    LruPercpuHash,
    ArrayOfMaps,
    Queue,
    Ringbuf,
    TaskStorage,
}

impl MapKind {
    /// From `BPF_MAP_TYPE_*`.
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => MapKind::Hash,
            2 => MapKind::Array,
            5 => MapKind::PercpuHash,
            6 => MapKind::PercpuArray,
            9 => MapKind::LruHash,
            10 => MapKind::LruPercpuHash,
            12 => MapKind::ArrayOfMaps,
            22 => MapKind::Queue,
            27 => MapKind::Ringbuf,
            29 => MapKind::TaskStorage,
            _ => return None,
        })
    }

    /// Every CPU has values of its own.
    fn is_percpu(self) -> bool {
        matches!(
            self,
            MapKind::PercpuArray | MapKind::PercpuHash | MapKind::LruPercpuHash
        )
    }

    fn is_array(self) -> bool {
        matches!(
            self,
            MapKind::Array | MapKind::PercpuArray | MapKind::ArrayOfMaps
        )
    }

    fn is_lru(self) -> bool {
        matches!(self, MapKind::LruHash | MapKind::LruPercpuHash)
    }
}

/// A map as the object defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: MapKind,
    /// Size of a key in bytes.
    pub key_bytes: u32,
    /// Size of a value in bytes.
    pub value_bytes: u32,
    /// Elements at most; of a ring buffer: bytes.
    pub max_entries: u32,
}

impl MapDef {
    /// From one value to the next, in bytes.
    fn stride(&self) -> usize {
        (self.value_bytes as usize).next_multiple_of(8)
    }

    /// Bytes of all values on a machine of `nr_cpus`; `None` if that is too much.
    pub fn bytes(&self, nr_cpus: u32) -> Option<usize> {
        let copies = if self.kind.is_percpu() { nr_cpus } else { 1 };
        let keys = (self.max_entries as usize).checked_mul(self.key_bytes as usize)?;
        let values = self
            .stride()
            .checked_mul(copies as usize)?
            .checked_mul(self.max_entries as usize)?;
        let fits = keys <= MAX_OBJECT_BYTES && values <= MAX_OBJECT_BYTES;
        match self.kind {
            MapKind::Ringbuf | MapKind::TaskStorage => Some(0),
            _ => fits.then_some(values),
        }
    }
}

/// A map with what is in it.
#[derive(Clone, Debug)]
pub struct Map {
    /// How it is defined.
    pub def: MapDef,
    number: u32,
    nr_cpus: u32,
    /// What stands for the map itself.
    handle: u64,
    values: u64,
    /// The keys, row by row; 0 while nobody has asked for one.
    keys: u64,
    rows: BTreeMap<Box<[u8]>, u32>,
    free: Vec<u32>,
    /// Of an LRU map: when each row was used last, and the rows by that.
    used: Vec<u64>,
    by_use: BTreeMap<u64, Box<[u8]>>,
    uses: u64,
    /// Of a queue: the rows in order.
    queue: VecDeque<u32>,
    /// Of a ring buffer: the records that nobody has taken.
    records: VecDeque<Vec<u8>>,
    /// Bytes of the ring in use, those reserved included.
    ring_used: usize,
    /// Of a task storage: the address of the value by the number of the task.
    storage: BTreeMap<u32, u64>,
}

impl Map {
    pub(super) fn new(memory: &mut Memory, number: u32, def: MapDef, nr_cpus: u32) -> Self {
        let handle = memory.add(&format!("map {}", def.name), Kind::Map(number), Vec::new());
        let bytes = def
            .bytes(nr_cpus)
            .expect("the loader has checked the sizes");
        let name = format!("values of map {}", def.name);
        let values = memory.add(&name, Kind::MapValues(number), vec![0; bytes]);
        let rows = if def.kind.is_array() || bytes == 0 {
            0
        } else {
            def.max_entries
        };
        Map {
            number,
            nr_cpus,
            handle,
            values,
            keys: 0,
            rows: BTreeMap::new(),
            free: (0..rows).rev().collect(),
            used: vec![0; if def.kind.is_lru() { rows as usize } else { 0 }],
            by_use: BTreeMap::new(),
            uses: 0,
            queue: VecDeque::new(),
            records: VecDeque::new(),
            ring_used: 0,
            storage: BTreeMap::new(),
            def,
        }
    }

    /// The address that stands for the map.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The address of a row's value on `cpu`.
    fn row_address(&self, row: u32, cpu: u32) -> u64 {
        let index = if self.def.kind.is_percpu() {
            u64::from(cpu) * u64::from(self.def.max_entries) + u64::from(row)
        } else {
            u64::from(row)
        };
        self.values + index * self.def.stride() as u64
    }

    fn find(&self, memory: &Memory, key: u64) -> Result<Option<u32>, BadAccess> {
        if self.def.kind.is_array() {
            let row = memory.read_u32(key)?;
            return Ok((row < self.def.max_entries).then_some(row));
        }
        let key = memory.read(key, self.def.key_bytes as usize)?;
        Ok(self.rows.get(key).copied())
    }

    fn touch(&mut self, row: u32) {
        if let Some(used) = self.used.get_mut(row as usize) {
            self.uses += 1;
            if let Some(key) = self.by_use.remove(used) {
                self.by_use.insert(self.uses, key);
            }
            *used = self.uses;
        }
    }

    /// The address of the value of the key at `key`, 0 if there is none.
    pub(super) fn lookup(&mut self, memory: &Memory, key: u64, cpu: u32) -> Result<u64, Cause> {
        if cpu >= self.nr_cpus || !self.has_keys() {
            return Ok(0);
        }
        let Some(row) = self.find(memory, key)? else {
            return Ok(0);
        };
        self.touch(row);
        let address = self.row_address(row, cpu);
        match self.def.kind {
            // What a program gets is the map, not where it stands.
            MapKind::ArrayOfMaps => Ok(memory.read_u64(address)?),
            _ => Ok(address),
        }
    }

    fn has_keys(&self) -> bool {
        !matches!(
            self.def.kind,
            MapKind::Queue | MapKind::Ringbuf | MapKind::TaskStorage
        )
    }

    /// Set the value of a key. `flags`: `BPF_NOEXIST`, `BPF_EXIST`.
    pub(super) fn update(
        &mut self,
        memory: &mut Memory,
        key: u64,
        value: u64,
        flags: u64,
        cpu: u32,
    ) -> Result<i64, Cause> {
        if flags > 2 || !self.has_keys() || self.def.kind == MapKind::ArrayOfMaps {
            return Ok(EINVAL);
        }
        let found = self.find(memory, key)?;
        let value = memory.read(value, self.def.value_bytes as usize)?.to_vec();
        let row = match (found, flags) {
            (Some(_), 1) => return Ok(EEXIST),
            (None, _) if self.def.kind.is_array() => return Ok(E2BIG),
            (None, 2) => return Ok(ENOENT),
            (Some(row), _) => row,
            (None, _) => {
                let key = memory.read(key, self.def.key_bytes as usize)?.into();
                match self.insert(memory, key)? {
                    Some(row) => row,
                    None => return Ok(E2BIG),
                }
            }
        };
        self.touch(row);
        memory.write_kernel(self.row_address(row, cpu), &value)?;
        Ok(0)
    }

    fn insert(&mut self, memory: &mut Memory, key: Box<[u8]>) -> Result<Option<u32>, Cause> {
        if self.free.is_empty() && self.def.kind.is_lru() {
            let oldest = self.by_use.values().next().cloned();
            if let Some(oldest) = oldest {
                self.remove(&oldest);
            }
        }
        let Some(row) = self.free.pop() else {
            return Ok(None);
        };
        // A row that was used before still has its value, on other CPUs too.
        let zeros = vec![0; self.def.stride()];
        let copies = if self.def.kind.is_percpu() {
            self.nr_cpus
        } else {
            1
        };
        for cpu in 0..copies {
            memory.write_kernel(self.row_address(row, cpu), &zeros)?;
        }
        if self.keys != 0 {
            memory.write_kernel(self.key_address(row), &key)?;
        }
        if let Some(used) = self.used.get_mut(row as usize) {
            self.uses += 1;
            *used = self.uses;
            self.by_use.insert(self.uses, key.clone());
        }
        self.rows.insert(key, row);
        Ok(Some(row))
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some(row) = self.rows.remove(key) else {
            return false;
        };
        if let Some(used) = self.used.get(row as usize) {
            self.by_use.remove(used);
        }
        self.free.push(row);
        true
    }

    /// Take a key out.
    pub(super) fn delete(&mut self, memory: &Memory, key: u64) -> Result<i64, Cause> {
        if self.def.kind.is_array() || !self.has_keys() {
            return Ok(EINVAL);
        }
        let key = memory.read(key, self.def.key_bytes as usize)?;
        Ok(if self.remove(key) { 0 } else { ENOENT })
    }

    fn key_address(&self, row: u32) -> u64 {
        self.keys + u64::from(row) * u64::from(self.def.key_bytes)
    }

    /// The first element in a row of `from` or higher: the row, and where its key
    /// and its value are.
    pub(super) fn element(
        &mut self,
        memory: &mut Memory,
        from: u32,
        cpu: u32,
    ) -> Result<Option<(u32, u64, u64)>, Cause> {
        let row = if self.def.kind.is_array() {
            (from < self.def.max_entries).then_some(from)
        } else {
            let rows = self.rows.values().copied();
            rows.filter(|row| *row >= from).min()
        };
        let Some(row) = row else { return Ok(None) };
        self.keep_keys(memory)?;
        Ok(Some((
            row,
            self.key_address(row),
            self.row_address(row, cpu),
        )))
    }

    /// Have an object with all keys, from now on.
    fn keep_keys(&mut self, memory: &mut Memory) -> Result<(), BadAccess> {
        if self.keys != 0 {
            return Ok(());
        }
        let bytes = self.def.max_entries as usize * self.def.key_bytes as usize;
        let name = format!("keys of map {}", self.def.name);
        self.keys = memory.add(&name, Kind::Kernel, vec![0; bytes]);
        memory.protect(self.keys, 0..0);
        if self.def.kind.is_array() {
            for row in 0..self.def.max_entries {
                memory.write_kernel(self.key_address(row), &row.to_le_bytes())?;
            }
        }
        for (key, row) in &self.rows {
            memory.write_kernel(self.key_address(*row), key)?;
        }
        Ok(())
    }

    /// The key and the value of the element that holds `address`: what a timer's
    /// callback gets.
    pub(super) fn element_of(
        &mut self,
        memory: &mut Memory,
        address: u64,
    ) -> Result<(u64, u64), BadAccess> {
        self.keep_keys(memory)?;
        let stride = self.def.stride().max(1) as u64;
        let index = address.wrapping_sub(self.values) / stride;
        let row = (index % u64::from(self.def.max_entries.max(1))) as u32;
        Ok((self.key_address(row), self.values + index * stride))
    }

    /// Append to a queue.
    pub(super) fn push(&mut self, memory: &mut Memory, value: u64) -> Result<i64, Cause> {
        if self.def.kind != MapKind::Queue {
            return Ok(EINVAL);
        }
        let value = memory.read(value, self.def.value_bytes as usize)?.to_vec();
        let Some(row) = self.free.pop() else {
            return Ok(E2BIG);
        };
        memory.write_kernel(self.row_address(row, 0), &value)?;
        self.queue.push_back(row);
        Ok(0)
    }

    /// Copy the head of a queue to `value`, and take it out if `take`.
    pub(super) fn head(
        &mut self,
        memory: &mut Memory,
        value: u64,
        take: bool,
    ) -> Result<i64, Cause> {
        let bytes = self.def.value_bytes as usize;
        let Some(row) = self.queue.front().copied() else {
            memory.write(value, &vec![0; bytes])?;
            return Ok(ENOENT);
        };
        let head = memory.read(self.row_address(row, 0), bytes)?.to_vec();
        memory.write(value, &head)?;
        if take {
            self.queue.pop_front();
            self.free.push(row);
        }
        Ok(0)
    }

    /// Make room for a record in a ring buffer; false if there is none.
    pub(super) fn ring_reserve(&mut self, bytes: usize) -> bool {
        let record = bytes.next_multiple_of(8) + RING_HEADER;
        let fits = self.def.kind == MapKind::Ringbuf
            && self.ring_used + record <= self.def.max_entries as usize;
        if fits {
            self.ring_used += record;
        }
        fits
    }

    /// A record for which there is room is complete, or given up.
    pub(super) fn ring_commit(&mut self, record: Vec<u8>, keep: bool) {
        if keep {
            self.records.push_back(record);
        } else {
            self.ring_used -= record.len().next_multiple_of(8) + RING_HEADER;
        }
    }

    /// Put a record into a ring buffer at once.
    pub(super) fn ring_output(&mut self, record: Vec<u8>) -> i64 {
        if !self.ring_reserve(record.len()) {
            return EAGAIN;
        }
        self.ring_commit(record, true);
        0
    }

    /// Take all records out of a ring buffer, as user space does.
    pub fn take_records(&mut self) -> Vec<Vec<u8>> {
        let records: Vec<Vec<u8>> = self.records.drain(..).collect();
        for record in &records {
            self.ring_used -= record.len().next_multiple_of(8) + RING_HEADER;
        }
        records
    }

    /// Bytes of a ring buffer that are in use.
    pub(super) fn ring_used(&self) -> usize {
        self.ring_used
    }

    /// The address of a task's value, 0 if it has none and is not to get one.
    pub(super) fn storage(&mut self, memory: &mut Memory, task: u32, create: bool) -> u64 {
        match self.storage.get(&task) {
            Some(value) => *value,
            None if create && self.def.kind == MapKind::TaskStorage => {
                let name = format!("value of map {}", self.def.name);
                let bytes = vec![0; self.def.value_bytes as usize];
                let value = memory.add(&name, Kind::MapValues(self.number), bytes);
                self.storage.insert(task, value);
                value
            }
            None => 0,
        }
    }

    /// Take a task's value away; false if it has none.
    pub(super) fn storage_delete(&mut self, memory: &mut Memory, task: u32) -> bool {
        match self.storage.remove(&task) {
            Some(value) => memory.free(value),
            None => false,
        }
    }

    /// Write the value of a key from outside, as user space does with
    /// `bpf_map_update_elem()`; of a map per CPU, that of `cpu`. False if there
    /// is no such key in an array or no room.
    pub fn set(&mut self, memory: &mut Memory, key: &[u8], value: &[u8], cpu: u32) -> bool {
        match self.row_for(memory, key) {
            Some(row) if value.len() <= self.def.value_bytes as usize && cpu < self.nr_cpus => {
                let address = self.row_address(row, cpu);
                memory.write_kernel(address, value).is_ok()
            }
            _ => false,
        }
    }

    fn row_for(&mut self, memory: &mut Memory, key: &[u8]) -> Option<u32> {
        if key.len() != self.def.key_bytes as usize || !self.has_keys() {
            return None;
        }
        if self.def.kind.is_array() {
            let row = u32::from_le_bytes(key.try_into().ok()?);
            return (row < self.def.max_entries).then_some(row);
        }
        match self.rows.get(key) {
            Some(row) => Some(*row),
            None => self.insert(memory, key.into()).ok()?,
        }
    }

    /// The value of a key, as user space reads it; of a map per CPU, that of `cpu`.
    pub fn get<'m>(&self, memory: &'m Memory, key: &[u8], cpu: u32) -> Option<&'m [u8]> {
        let row = if self.def.kind.is_array() {
            let row = u32::from_le_bytes(key.try_into().ok()?);
            (row < self.def.max_entries).then_some(row)?
        } else {
            *self.rows.get(key)?
        };
        let address = self.row_address(row, cpu);
        (cpu < self.nr_cpus).then_some(())?;
        memory.read(address, self.def.value_bytes as usize).ok()
    }
}
