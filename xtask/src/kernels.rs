// SPDX-License-Identifier: GPL-2.0-only
//! Gets kernels from the lab's store, with something to look at meanwhile.

use std::sync::{Arc, Mutex};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::Result;
use rota_lab::Progress;
use rota_lab::arch::Arch;
use rota_lab::kernel::{Emulator, Kernel, Spec, Store, Sysroot};

use crate::setup::Group;
use crate::ui::{self, Task};

/// Of a bar.
const PARTS: u64 = 1000;
const POLL: Duration = Duration::from_millis(100);

/// What the machine needs to get `specs` and to boot them.
pub fn groups(store: &Store, specs: &[Spec]) -> Result<Vec<Group>> {
    let mut groups = vec![Group::Vm];
    if store.arch() == Arch::Arm64 {
        groups.push(Group::Arm64);
        if specs.contains(&Spec::Built) {
            // Before anything is installed for it.
            return Err(rota_lab::Error::NotBuilt(store.arch()).into());
        }
    }
    if specs.contains(&Spec::Built) && store.find(&Spec::Built)?.is_none() {
        groups.push(Group::KernelBuild);
    }
    Ok(groups)
}

/// The kernel that `spec` names, from the cache if it is there, with the emulator for it.
pub fn get(store: &Store, spec: &Spec) -> Result<Kernel> {
    match store.find(spec)? {
        Some(kernel) => {
            emulator(store)?;
            Ok(kernel)
        }
        None => fetch(store, spec),
    }
}

/// The emulator that boots kernels.
pub fn emulator(store: &Store) -> Result<Emulator> {
    if let Some(emulator) = store.find_emulator() {
        return Ok(emulator);
    }
    let task = ui::bar("fetching QEMU", PARTS);
    let emulator = store.get_emulator(&mut |progress| show(&task, progress))?;
    task.done(emulator.version());
    Ok(emulator)
}

/// The newest kernel that `spec` names, wherever it has to come from.
pub fn fetch(store: &Store, spec: &Spec) -> Result<Kernel> {
    let verb = if *spec == Spec::Built {
        "building"
    } else {
        "fetching"
    };
    let task = ui::bar(format!("{verb} Linux {spec}"), PARTS);
    let kernel = store.fetch(spec, &mut |progress| show(&task, progress))?;
    task.done(&kernel.release);
    emulator(store)?;
    Ok(kernel)
}

/// What programs for guests of the store's architecture are linked with.
pub fn sysroot(store: &Store) -> Result<Sysroot> {
    if let Some(sysroot) = store.find_sysroot() {
        return Ok(sysroot);
    }
    let task = ui::bar(format!("fetching libraries for {}", store.arch()), PARTS);
    let sysroot = store.fetch_sysroot(&mut |progress| show(&task, progress))?;
    task.done("");
    Ok(sysroot)
}

fn show(task: &Task, progress: Progress<'_>) {
    match progress {
        Progress::Step(step) => {
            task.say(step);
            task.reach(0);
        }
        Progress::Done(share) => task.reach((share * PARTS as f64) as u64),
    }
}

/// Kernels that are fetched while something else is done.
pub struct Prefetch<'scope> {
    thread: ScopedJoinHandle<'scope, Vec<Fetched>>,
    /// What the thread does right now.
    latest: Arc<Mutex<String>>,
}

/// A kernel that was asked for, for guests of which architecture, and what came of it.
pub type Fetched = (Arch, Spec, rota_lab::Result<Kernel>);

impl<'scope> Prefetch<'scope> {
    /// Starts to get `specs`, one after another.
    pub fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        store: &'env Store,
        specs: &'env [(Arch, Spec)],
    ) -> Self {
        let latest = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&latest);
        let thread = scope.spawn(move || {
            let get = |arch: Arch, spec: &Spec| {
                let mut show = |progress: Progress<'_>| {
                    if let Progress::Step(step) = progress {
                        *shown.lock().expect("no holder panics") = format!("Linux {spec}: {step}");
                    }
                };
                let store = store.on(arch);
                store.get_emulator(&mut show)?;
                store.get(spec, &mut show)
            };
            let fetched = |(arch, spec): &(Arch, Spec)| (*arch, spec.clone(), get(*arch, spec));
            specs.iter().map(fetched).collect()
        });
        Self { thread, latest }
    }

    /// Waits for all of them.
    pub fn finish(self, task: &Task) -> Vec<Fetched> {
        while !self.thread.is_finished() {
            task.say(self.latest.lock().expect("no holder panics").as_str());
            thread::sleep(POLL);
        }
        self.thread.join().expect("the store does not panic")
    }
}
