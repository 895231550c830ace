// SPDX-License-Identifier: GPL-2.0-only
//! Machines by name: sockets x cores x threads, and what the guest must then see.

use std::fmt;
use std::str::FromStr;

use crate::arch::Arch;
use crate::error::Error;

/// The accepted forms, for messages and help texts.
pub const FORMS: &str = "SOCKETSxCORESxTHREADS (2x2x2), SOCKETSxDIESxCORESxTHREADS (1x2x2x1; a die \
    is an LLC), numa:2x2x1 (a node for each socket), and -N at the end for N CPUs that are \
    offline at boot (1x4x1-2); or hybrid:STRONG+WEAK (hybrid:2+2) for CPUs of two strengths";

/// More CPUs than this take minutes to boot when they are emulated.
pub const MAX_CPUS: usize = 128;

/// The capacity of a strong CPU, as the kernel counts it.
pub const STRONG: u32 = 1024;
/// That of a weak one; the kernel's documentation has it as an example.
pub const WEAK: u32 = 446;

/// Tells the guest, on the kernel's command line, how many CPUs stay online.
pub(crate) const ONLINE_CPUS: &str = "rota.online_cpus";

/// The layout of a guest's CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topology {
    sockets: usize,
    dies: usize,
    cores: usize,
    threads: usize,
    numa: bool,
    offline: usize,
    /// Of the CPUs of a hybrid machine, how many are weak: the last ones.
    weak: usize,
}

impl Topology {
    /// What the machine is.
    pub fn arch(&self) -> Arch {
        if self.is_hybrid() {
            Arch::Arm64
        } else {
            Arch::X86_64
        }
    }

    /// Whether some CPUs are stronger than others.
    pub fn is_hybrid(&self) -> bool {
        self.weak > 0
    }

    /// The capacity of each CPU, the strong ones first.
    pub fn capacities(&self) -> Vec<u32> {
        let cpus = self.possible_cpus();
        let strong = cpus - self.weak;
        let of = |cpu| if cpu < strong { STRONG } else { WEAK };
        (0..cpus).map(of).collect()
    }

    /// CPUs online at boot.
    pub fn cpus(&self) -> usize {
        self.possible_cpus() - self.offline
    }

    /// All CPUs, those that are offline at boot included.
    pub fn possible_cpus(&self) -> usize {
        self.sockets * self.dies * self.cores * self.threads
    }

    /// Last-level caches with a CPU at boot: one in each die.
    pub fn llcs(&self) -> usize {
        self.cpus().div_ceil(self.cores * self.threads)
    }

    /// NUMA nodes with a CPU at boot.
    pub fn nodes(&self) -> usize {
        if self.numa {
            self.cpus().div_ceil(self.dies * self.cores * self.threads)
        } else {
            1
        }
    }

    /// Dies of a socket, each with a last-level cache.
    pub fn dies(&self) -> usize {
        self.dies
    }

    /// Threads of a core.
    pub fn smt(&self) -> usize {
        self.threads
    }

    /// Memory that a guest of this size is given, in MiB.
    pub fn memory_mib(&self) -> usize {
        // The kernel, the initramfs and a process storm; per CPU its areas and BPF maps.
        let wanted = 512 + 64 * self.possible_cpus();
        wanted.next_multiple_of(128 * self.sockets)
    }

    /// QEMU's arguments for memory, CPUs and nodes.
    pub fn qemu_args(&self) -> Vec<String> {
        let Self {
            sockets,
            dies,
            cores,
            threads,
            ..
        } = self;
        let cpus = self.possible_cpus();
        let smp =
            format!("cpus={cpus},sockets={sockets},dies={dies},cores={cores},threads={threads}");
        let memory = self.memory_mib();
        let mut args = vec!["-m".into(), format!("{memory}M"), "-smp".into(), smp];
        if !self.numa {
            return args;
        }
        let per_node = self.possible_cpus() / self.sockets;
        for node in 0..self.sockets {
            let (first, last) = (node * per_node, (node + 1) * per_node - 1);
            let size = memory / self.sockets;
            args.push("-object".into());
            args.push(format!("memory-backend-ram,id=node{node},size={size}M"));
            args.push("-numa".into());
            args.push(format!(
                "node,nodeid={node},cpus={first}-{last},memdev=node{node}"
            ));
        }
        for (from, to) in pairs(self.sockets) {
            args.push("-numa".into());
            args.push(format!("dist,src={from},dst={to},val=20"));
        }
        args
    }

    /// Words for the kernel's command line.
    ///
    /// The guest itself takes the last CPUs offline. The kernel's own `maxcpus=` would prefer first
    /// threads of cores, and CPUs that are possible but absent cannot be had: the kernel takes an
    /// emulated x86 for real hardware and does not believe the firmware's table of them.
    pub fn kernel_args(&self) -> Option<String> {
        (self.offline > 0).then(|| format!("{ONLINE_CPUS}={}", self.cpus()))
    }
}

/// Every ordered pair of different numbers below `count`.
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (0..count).filter(move |&b| b != a).map(move |b| (a, b)))
}

impl FromStr for Topology {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self, Error> {
        let bad = |reason: &str| Error::BadTopology {
            given: given.into(),
            reason: reason.into(),
        };
        if let Some(rest) = given.strip_prefix("hybrid:") {
            return hybrid(rest).map_err(|reason| bad(&reason));
        }
        let (numa, rest) = match given.strip_prefix("numa:") {
            Some(rest) => (true, rest),
            None => (false, given),
        };
        let number = |word: &str| number(word).map_err(|reason| bad(&reason));
        let (shape, offline) = match rest.split_once('-') {
            Some((shape, offline)) => (shape, number(offline)?),
            None => (rest, 0),
        };
        let counts = shape
            .split('x')
            .map(number)
            .collect::<Result<Vec<_>, _>>()?;
        let [sockets, dies, cores, threads] = match counts[..] {
            [sockets, cores, threads] => [sockets, 1, cores, threads],
            [sockets, dies, cores, threads] => [sockets, dies, cores, threads],
            _ => return Err(bad("it has neither three nor four numbers")),
        };
        if [sockets, dies, cores, threads].contains(&0) {
            return Err(bad("a count is 0"));
        }
        let product = [dies, cores, threads]
            .into_iter()
            .try_fold(sockets, usize::checked_mul);
        let cpus = product.filter(|&cpus| cpus <= MAX_CPUS);
        let cpus = cpus.ok_or_else(|| bad(&format!("more than {MAX_CPUS} CPUs")))?;
        if threads > 2 {
            return Err(bad("more than 2 threads in a core"));
        }
        if offline >= cpus {
            return Err(bad("no CPU is online"));
        }
        if numa && sockets < 2 {
            return Err(bad("one socket makes one node"));
        }
        Ok(Self {
            sockets,
            dies,
            cores,
            threads,
            numa,
            offline,
            weak: 0,
        })
    }
}

/// Reads `2+2`; an error is what is wrong with it.
fn hybrid(text: &str) -> Result<Topology, String> {
    let (strong, weak) = text
        .split_once('+')
        .ok_or("it has no strong and weak CPUs")?;
    let (strong, weak) = (number(strong)?, number(weak)?);
    if strong == 0 || weak == 0 {
        return Err("a count is 0".into());
    }
    let cores = strong.checked_add(weak).filter(|&cpus| cpus <= MAX_CPUS);
    Ok(Topology {
        sockets: 1,
        dies: 1,
        cores: cores.ok_or_else(|| format!("more than {MAX_CPUS} CPUs"))?,
        threads: 1,
        numa: false,
        offline: 0,
        weak,
    })
}

fn number(word: &str) -> Result<usize, String> {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    let value = if digits { word.parse().ok() } else { None };
    value.ok_or_else(|| format!("`{word}` is not a number"))
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sockets,
            dies,
            cores,
            threads,
            numa,
            offline,
            weak,
        } = self;
        if *weak > 0 {
            return write!(f, "hybrid:{}+{weak}", cores - weak);
        }
        write!(f, "{}{sockets}x", if *numa { "numa:" } else { "" })?;
        if *dies > 1 {
            write!(f, "{dies}x")?;
        }
        write!(f, "{cores}x{threads}")?;
        if *offline > 0 {
            write!(f, "-{offline}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(text: &str) -> Topology {
        text.parse().unwrap()
    }

    #[test]
    fn names_tell_what_the_guest_sees() {
        // name, cpus, possible, llcs, nodes, threads
        let table = [
            ("1x1x1", 1, 1, 1, 1, 1),
            ("1x4x1", 4, 4, 1, 1, 1),
            ("2x2x2", 8, 8, 2, 1, 2),
            ("4x2x1", 8, 8, 4, 1, 1),
            ("1x2x4x1", 8, 8, 2, 1, 1),
            ("numa:2x2x1", 4, 4, 2, 2, 1),
            ("numa:2x2x2x1", 8, 8, 4, 2, 1),
            ("1x4x1-2", 2, 4, 1, 1, 1),
            ("2x2x2-4", 4, 8, 1, 1, 2),
            ("2x2x2-3", 5, 8, 2, 1, 2),
            ("numa:2x2x1-2", 2, 4, 1, 1, 1),
        ];
        for (name, cpus, possible, llcs, nodes, threads) in table {
            let t = topology(name);
            let seen = (t.cpus(), t.possible_cpus(), t.llcs(), t.nodes(), t.smt());
            assert_eq!(seen, (cpus, possible, llcs, nodes, threads), "{name}");
            assert_eq!(t.to_string(), name);
        }
    }

    #[test]
    fn a_hybrid_machine_is_one_cluster_of_strong_and_weak_cpus() {
        let t = topology("hybrid:2+4");
        assert_eq!(t.to_string(), "hybrid:2+4");
        assert_eq!((t.cpus(), t.llcs(), t.nodes(), t.smt()), (6, 1, 1, 1));
        assert_eq!(t.capacities(), [1024, 1024, 446, 446, 446, 446]);
        assert_eq!(t.arch(), Arch::Arm64);
        let alike = topology("2x2x2");
        assert_eq!((alike.arch(), alike.is_hybrid()), (Arch::X86_64, false));
        assert_eq!(alike.capacities(), [1024; 8]);
    }

    #[test]
    fn one_die_needs_no_mention() {
        assert_eq!(topology("2x1x2x2"), topology("2x2x2"));
        assert_eq!(topology("2x1x2x2").to_string(), "2x2x2");
    }

    #[test]
    fn bad_names_are_refused() {
        let long = format!("{0}x{0}x1", usize::MAX);
        let table = [
            ("", "not a number"),
            ("4", "neither three nor four"),
            ("1x2", "neither three nor four"),
            ("1x1x1x1x1", "neither three nor four"),
            ("1x+4x1", "`+4` is not a number"),
            ("1xfourx1", "`four` is not a number"),
            ("0x4x1", "a count is 0"),
            ("1x129x1", "more than 128 CPUs"),
            (&long, "more than 128 CPUs"),
            ("1x1x4", "2 threads"),
            ("1x2x1-2", "no CPU is online"),
            ("1x2x1-", "not a number"),
            ("numa:1x4x1", "one socket"),
            ("hybrid:4", "no strong and weak"),
            ("hybrid:2+0", "a count is 0"),
            ("hybrid:0+2", "a count is 0"),
            ("hybrid:2+two", "`two` is not a number"),
            ("hybrid:2+2-1", "`2-1` is not a number"),
            ("hybrid:100+29", "more than 128 CPUs"),
        ];
        for (name, reason) in table {
            let message = name.parse::<Topology>().unwrap_err().to_string();
            assert!(message.contains(reason), "{name}: {message}");
            assert!(message.contains("SOCKETSxCORESxTHREADS"), "{message}");
        }
    }

    #[test]
    fn nodes_share_cpus_and_memory_completely() {
        let t = topology("numa:2x2x2");
        assert_eq!(t.memory_mib(), 1024);
        let args = t.qemu_args().join(" ");
        assert_eq!(
            args,
            "-m 1024M -smp cpus=8,sockets=2,dies=1,cores=2,threads=2 \
             -object memory-backend-ram,id=node0,size=512M \
             -numa node,nodeid=0,cpus=0-3,memdev=node0 \
             -object memory-backend-ram,id=node1,size=512M \
             -numa node,nodeid=1,cpus=4-7,memdev=node1 \
             -numa dist,src=0,dst=1,val=20 -numa dist,src=1,dst=0,val=20"
        );
        for name in ["numa:3x1x1", "numa:4x2x2x1"] {
            let t = topology(name);
            assert_eq!(t.memory_mib() % t.sockets, 0, "{name}");
        }
    }

    #[test]
    fn offline_cpus_stay_possible() {
        let t = topology("1x4x1-2");
        let smp = "cpus=4,sockets=1,dies=1,cores=4,threads=1".to_owned();
        assert!(t.qemu_args().contains(&smp));
        assert_eq!(t.kernel_args().as_deref(), Some("rota.online_cpus=2"));
        assert_eq!(topology("1x4x1").kernel_args(), None);
    }
}
