/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The CPUs in an order of preference, and sets of them.
 *
 * User space ranks the online CPUs before the load (rota-core's
 * topology/ranking.rs); rank 0 is the one it likes most, and the ranks of an LLC
 * are consecutive. A set is a mask of ranks (mask.bpf.h), so the best CPU of a set is its
 * lowest bit, and the best of two sets' intersection costs an AND.
 */
#ifndef __ROTA_RANK_BPF_H
#define __ROTA_RANK_BPF_H

#include <rota/bits.h>
#include <rota/mask.bpf.h>

#define RANK_NONE	0xffff		/* of a CPU that is offline, or cannot be */

const volatile u32 nr_ranks = 1;
const volatile u16 rank_cpus[MAX_CPUS];
const volatile u16 cpu_ranks[MAX_CPUS];
const volatile u16 rank_llc_ends[MAX_CPUS];	/* the first rank of the next LLC */

/* The rank of @cpu, perhaps RANK_NONE. */
static __always_inline u32 cpu_rank(s32 cpu)
{
	return (u32)cpu < MAX_CPUS ? cpu_ranks[cpu] : RANK_NONE;
}

/* The CPU of @rank, which is below nr_ranks. */
static __always_inline s32 rank_cpu(u32 rank)
{
	return rank_cpus[rank & (MAX_CPUS - 1)];
}

#endif /* __ROTA_RANK_BPF_H */
