/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The CPUs in an order of preference, and sets of them.
 *
 * User space ranks the online CPUs before the load (rota-core's
 * topology/ranking.rs); rank 0 is the one it likes most, and the ranks of an LLC
 * are consecutive. A set is a mask of ranks, so the best CPU of a set is its
 * lowest bit, and the best of two sets' intersection costs an AND.
 */
#ifndef __ROTA_RANK_BPF_H
#define __ROTA_RANK_BPF_H

#include <rota/bits.h>
#include <rota/topology.bpf.h>
#include <bpf/bpf_helpers.h>

#define RANK_WORDS	(MAX_CPUS / 64)
#define RANK_NONE	0xffff		/* of a CPU that is offline, or cannot be */

const volatile u32 nr_ranks = 1;
const volatile u16 rank_cpus[MAX_CPUS];
const volatile u16 cpu_ranks[MAX_CPUS];
const volatile u16 rank_llc_ends[MAX_CPUS];	/* the first rank of the next LLC */

struct rank_mask {
	u64 words[RANK_WORDS];
} __attribute__((aligned(64)));

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

static __always_inline u64 rank_word(const struct rank_mask *mask, u32 word)
{
	/* Or the compiler takes a bound that it has seen for one that the verifier will see. */
	barrier_var(word);
	return *(volatile u64 *)&mask->words[word & (RANK_WORDS - 1)];
}

/* False for RANK_NONE, too. */
static __always_inline bool rank_in(const struct rank_mask *mask, u32 rank)
{
	return rank < MAX_CPUS && rank_word(mask, rank / 64) >> (rank & 63) & 1;
}

/* Add @rank, which is below nr_ranks, to @mask; true if it was not in it. */
static __always_inline bool rank_add(struct rank_mask *mask, u32 rank)
{
	u64 bit = 1ULL << (rank & 63);

	/* The look first leaves the cache line shared if there is nothing to do. */
	return !rank_in(mask, rank) &&
	       !(__sync_fetch_and_or(&mask->words[rank / 64 & (RANK_WORDS - 1)], bit) & bit);
}

/* Take @rank, which is below nr_ranks, out of @mask; true if it was in it. */
static __always_inline bool rank_remove(struct rank_mask *mask, u32 rank)
{
	u64 bit = 1ULL << (rank & 63);

	return rank_in(mask, rank) &&
	       __sync_fetch_and_and(&mask->words[rank / 64 & (RANK_WORDS - 1)], ~bit) & bit;
}

/* For init(): all online CPUs are in @mask. */
static __always_inline void rank_add_all(struct rank_mask *mask)
{
	u32 word;

	bpf_for(word, 0, (nr_ranks + 63) / 64) {
		u32 left = nr_ranks - word * 64;

		mask->words[word & (RANK_WORDS - 1)] = left < 64 ? (1ULL << left) - 1 : ~0ULL;
	}
}

#endif /* __ROTA_RANK_BPF_H */
