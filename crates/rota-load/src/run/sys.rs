// SPDX-License-Identifier: GPL-2.0-only
//! The system calls that neither std nor nix wraps as a scheduler's test needs
//! them: CPU masks of any size, `SCHED_EXT`, shared futexes, absolute sleeps.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::spec::{CpuList, Policy};

/// Bytes of a CPU mask: room for every CPU number that [`CpuList`] can hold.
const MASK_BYTES: usize = 1024;

/// `SCHED_EXT` of the kernel's `uapi/linux/sched.h`, since Linux 6.12.
const SCHED_EXT: i32 = 7;

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000).try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: (ns % 1_000_000_000)
            .try_into()
            .expect("below a thousand million"),
    }
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = timespec(0);
    // SAFETY: `time` is a valid timespec to write to.
    let status = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(status, 0, "both clocks exist on every Linux");
    let (secs, ns) = (time.tv_sec, time.tv_nsec);
    u64::try_from(secs).unwrap_or(0) * 1_000_000_000 + u64::try_from(ns).unwrap_or(0)
}

/// Sleeps until a moment of [`monotonic_ns`] or a signal.
pub fn sleep_until(due_ns: u64) {
    let due = timespec(due_ns);
    // SAFETY: `due` is a valid timespec; the remainder is not asked for.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &due,
            std::ptr::null_mut(),
        );
    }
}

/// The CPU on which the caller runs now.
pub fn current_cpu() -> u32 {
    // SAFETY: takes no argument.
    let cpu = unsafe { libc::sched_getcpu() };
    u32::try_from(cpu).expect("getcpu does not fail on Linux")
}

/// Sleeps while `word` is `expected`, at most until `due_ns`, a wake or a signal.
/// Works between processes that share the word.
pub fn futex_wait(word: &AtomicU32, expected: u32, due_ns: u64) {
    let due = timespec(due_ns);
    // SAFETY: the word and the timespec live during the call, and the kernel only
    // reads them; WAIT_BITSET takes its timeout as an absolute monotonic time.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            &due as *const libc::timespec,
            std::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        );
    }
}

/// Wakes up to `count` sleepers of [`futex_wait`].
pub fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the word lives during the call; no other pointer is passed.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count);
    }
}

/// Allows the thread `tid` (0: the caller) the CPUs in `cpus` only.
pub fn set_affinity(tid: i32, cpus: &CpuList) -> Result<(), Errno> {
    let mut mask = [0u64; MASK_BYTES / 8];
    for cpu in cpus.iter() {
        mask[cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads MASK_BYTES bytes from the array of that size.
    let status = unsafe { libc::sched_setaffinity(tid, MASK_BYTES, mask.as_ptr().cast()) };
    Errno::result(status).map(drop)
}

/// The CPUs that the calling thread is allowed and that are online.
pub fn affinity() -> Result<CpuList, Errno> {
    let mut mask = [0u64; MASK_BYTES / 8];
    // SAFETY: the kernel writes at most MASK_BYTES bytes to the array of that size.
    let status = unsafe { libc::sched_getaffinity(0, MASK_BYTES, mask.as_mut_ptr().cast()) };
    Errno::result(status)?;
    let bits = MASK_BYTES as u32 * 8;
    Ok((0..bits)
        .filter(|cpu| mask[*cpu as usize / 64] >> (cpu % 64) & 1 == 1)
        .collect())
}

/// Gives the calling thread a scheduling policy.
pub fn set_policy(policy: Policy) -> Result<(), Errno> {
    let (number, priority) = match policy {
        Policy::Other => (libc::SCHED_OTHER, 0),
        Policy::Batch => (libc::SCHED_BATCH, 0),
        Policy::Idle => (libc::SCHED_IDLE, 0),
        Policy::Fifo(priority) => (libc::SCHED_FIFO, priority),
        Policy::Rr(priority) => (libc::SCHED_RR, priority),
        Policy::Ext => (SCHED_EXT, 0),
    };
    let priority = i32::from(priority);
    // The kernel's struct sched_param is this one number. The raw call is used
    // because not every libc passes policies on that it does not know.
    // SAFETY: the kernel reads one int from the pointer.
    let status = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            number,
            &priority as *const i32,
        )
    };
    Errno::result(status).map(drop)
}

/// Gives the calling thread a nice value; a no-op where it has it already, so that
/// the default needs no privilege.
pub fn set_nice(nice: i8) -> Result<(), Errno> {
    Errno::clear();
    // SAFETY: takes no pointer; on Linux, "process" 0 is the calling thread.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is a valid nice value, so errno tells whether the call failed.
    if Errno::last_raw() != 0 {
        return Err(Errno::last());
    }
    if now == i32::from(nice) {
        return Ok(());
    }
    // SAFETY: takes no pointer.
    let status = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, i32::from(nice)) };
    Errno::result(status).map(drop)
}

/// Interrupts the thread's system call with `SIGUSR1`; a thread that is gone is no error.
pub fn interrupt(process: i32, tid: i32) {
    // SAFETY: takes no pointer.
    unsafe {
        libc::syscall(libc::SYS_tgkill, process, tid, libc::SIGUSR1);
    }
}

/// Makes `SIGUSR1` interrupt system calls of this process and do nothing else.
pub fn prepare_interrupts() -> Result<(), Errno> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn ignore(_signal: i32) {}
    let action = SigAction::new(
        SigHandler::Handler(ignore),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing, so it is safe at any point.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
}

/// Forks; the child runs `body` and exits with what it returns, 101 if it panics.
pub fn fork(body: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: the child runs `body` and leaves by `_exit` below. If the parent has
    // other threads, the child may still allocate (glibc keeps its allocator
    // usable over fork), and `body` uses no other lock of the parent.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: takes no pointer. Exit handlers and buffers belong to the parent.
            unsafe { libc::_exit(outcome.unwrap_or(101)) }
        }
    }
}

/// Types for which memory of zero bytes is a valid value and which threads and
/// processes may share.
///
/// # Safety
/// The type must consist of atomics only.
pub unsafe trait Zeroed: Sync {}

// SAFETY: it is an atomic.
unsafe impl Zeroed for std::sync::atomic::AtomicU64 {}

/// An array of zeroed values in memory that forked children share.
pub struct SharedArray<T: Zeroed> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the array is a plain owner of T, which is Sync, and has no thread affinity.
unsafe impl<T: Zeroed> Send for SharedArray<T> {}
// SAFETY: only shared references to T are given out, and T is Sync.
unsafe impl<T: Zeroed> Sync for SharedArray<T> {}

impl<T: Zeroed> SharedArray<T> {
    /// An array of `len` values, at least one.
    pub fn new(len: usize) -> Result<Self, Errno> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let len = len.max(1);
        let bytes = len.checked_mul(size_of::<T>()).ok_or(Errno::ENOMEM)?;
        let bytes = std::num::NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping touches no existing memory.
        let start = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_SHARED) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }
}

impl<T: Zeroed> Deref for SharedArray<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `len` values (page alignment suffices for any T
        // of atomics), zero is a valid value, and it lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and no reference to
        // it outlives `self`.
        let unmapped =
            unsafe { nix::sys::mman::munmap(self.start.cast(), self.len * size_of::<T>()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A gate that many tasks wait at, in shared memory.
#[derive(Default)]
pub struct Gate(AtomicU32);

impl Gate {
    const CLOSED: u32 = 0;
    const OPEN: u32 = 1;
    const CANCELLED: u32 = 2;

    /// Lets everybody through.
    pub fn open(&self) {
        self.settle(Self::OPEN);
    }

    /// Sends everybody home.
    pub fn cancel(&self) {
        self.settle(Self::CANCELLED);
    }

    fn settle(&self, state: u32) {
        self.0.store(state, Ordering::Release);
        futex_wake(&self.0, i32::MAX);
    }

    /// Waits for the decision: whether the gate opened.
    pub fn pass(&self) -> bool {
        loop {
            match self.0.load(Ordering::Acquire) {
                Self::CLOSED => futex_wait(&self.0, Self::CLOSED, u64::MAX / 2),
                state => return state == Self::OPEN,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: each wrapper does what its name says, on whatever host runs the tests.
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn affinity_round_trip() {
        // In a thread of its own: the mask is per thread.
        std::thread::spawn(|| {
            let allowed = affinity().unwrap();
            let last: CpuList = allowed.iter().next_back().into_iter().collect();
            set_affinity(0, &last).unwrap();
            assert_eq!(affinity().unwrap(), last);
            assert!(last.contains(current_cpu()));
            let missing: CpuList = "8191".parse().unwrap();
            assert_eq!(set_affinity(0, &missing), Err(Errno::EINVAL));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn sleep_is_not_short_and_uses_no_cpu() {
        let (wall, cpu) = (monotonic_ns(), thread_cpu_ns());
        sleep_until(wall + 20_000_000);
        assert!(monotonic_ns() >= wall + 20_000_000);
        assert!(thread_cpu_ns() - cpu < 20_000_000);
    }

    #[test]
    fn children_share_the_array() {
        let shared = SharedArray::<AtomicU64>::new(3).unwrap();
        let child = fork(|| {
            shared[2].store(7, Ordering::Relaxed);
            0
        });
        nix::sys::wait::waitpid(child.unwrap(), None).unwrap();
        assert_eq!(
            shared
                .iter()
                .map(|n| n.load(Ordering::Relaxed))
                .sum::<u64>(),
            7
        );
    }

    #[test]
    fn futex_wait_ends_at_its_time() {
        let due = monotonic_ns() + 5_000_000;
        futex_wait(&AtomicU32::new(1), 1, due);
        assert!(monotonic_ns() >= due);
    }

    #[test]
    fn nice_of_one_thread_only() {
        let nice = |thread: fn()| std::thread::spawn(thread).join();
        nice(|| set_nice(19).unwrap()).unwrap();
        nice(|| {
            // SAFETY: takes no pointer.
            assert_ne!(unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }, 19);
        })
        .unwrap();
    }
}
