/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sets of up to MAX_CPUS numbers, CPUs or their ranks, that all CPUs share. Whoever
 * changes nothing does not write: the cache line stays where it is.
 */
#ifndef __ROTA_MASK_BPF_H
#define __ROTA_MASK_BPF_H

#include <rota/topology.bpf.h>
#include <bpf/bpf_helpers.h>

#define MASK_WORDS	(MAX_CPUS / 64)

struct mask {
	u64 words[MASK_WORDS];
} __attribute__((aligned(64)));

static __always_inline u64 mask_word(const struct mask *mask, u32 word)
{
	/* Or the compiler takes a bound that it has seen for one that the verifier will see. */
	barrier_var(word);
	return *(volatile u64 *)&mask->words[word & (MASK_WORDS - 1)];
}

/* False for a number that is too large, too. */
static __always_inline bool mask_in(const struct mask *mask, u32 nr)
{
	return nr < MAX_CPUS && mask_word(mask, nr / 64) >> (nr & 63) & 1;
}

/* Add @nr, which is below MAX_CPUS, to @mask; true if it was not in it. */
static __always_inline bool mask_add(struct mask *mask, u32 nr)
{
	u64 bit = 1ULL << (nr & 63);

	return !mask_in(mask, nr) &&
	       !(__sync_fetch_and_or(&mask->words[nr / 64 & (MASK_WORDS - 1)], bit) & bit);
}

/* Take @nr, which is below MAX_CPUS, out of @mask; true if it was in it. */
static __always_inline bool mask_remove(struct mask *mask, u32 nr)
{
	u64 bit = 1ULL << (nr & 63);

	return mask_in(mask, nr) &&
	       __sync_fetch_and_and(&mask->words[nr / 64 & (MASK_WORDS - 1)], ~bit) & bit;
}

/*
 * Nothing is in @mask, whose numbers are below @nr: if that is rodata, a load for
 * each 64. A full barrier goes before it: whoever adds to @mask after this has
 * looked sees what was written before.
 */
static __always_inline bool mask_is_empty(const struct mask *mask, u32 nr)
{
	volatile u64 fence = 0;
	u64 any = 0;
	u32 word;

	__sync_fetch_and_add(&fence, 0);
	_Pragma("clang loop unroll(full)")
	for (word = 0; word < MASK_WORDS; word++) {
		if (word * 64 < nr)
			any |= *(volatile u64 *)&mask->words[word];
	}
	return !any;
}

#endif /* __ROTA_MASK_BPF_H */
