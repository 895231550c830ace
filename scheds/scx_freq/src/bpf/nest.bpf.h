/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The nests: which CPUs are warm, and where a task finds an idle one.
 *
 * A CPU is in the primary nest, in the reserve nest, or in neither ("the rest").
 *
 *	         promoted: a task wakes there
 *	       +----------------------------------+
 *	       v                                  |
 *	  [ primary ] --- idle for long -----> [ reserve ] --- idle for longer ---+
 *	       ^  ^                               ^                               |
 *	       |  +--- busy for long ---+         |                               v
 *	       |                        |         +--- a task wakes there --- [ rest ]
 *	       +------ a task wakes there, impatient ----------------------------+
 *
 * Nothing runs to keep this up: what has become cold is seen by whichever CPU
 * goes idle, or ticks, next. While none does nobody asks.
 */
#ifndef __FREQ_NEST_BPF_H
#define __FREQ_NEST_BPF_H

#include "intf.h"
#include <rota/idle.bpf.h>
#include <rota/rank.bpf.h>
#include <rota/stats.bpf.h>

/* Live options. */
volatile u64 remove_ns = 2000000;	/* idle time after which a primary CPU is reserve */
volatile u64 expire_ns = 20000000;	/* idle time after which a reserve CPU is neither */
volatile u32 reserve_max = 5;
volatile u32 impatience = 2;		/* wake-ups that missed the CPU they wanted */

/* Whole cores before their second threads. */
const volatile bool whole_cores = true;

/* The CPUs of the class that is preferred: the strongest, or the most efficient. */
const volatile struct mask preferred;

/* How many idle CPUs of a word of a set are tried that a task may not use, or loses to another. */
#define NEST_TRIES	16

/* How often the nests are looked through at most, for CPUs that have gone cold. */
#define NEST_SWEEP_NS	1000000

/*
 * How many CPUs a nest has. Its integral over time up to now is
 * nr * now - moments, in CPUs x ns on CLOCK_MONOTONIC, modulo 2^64.
 */
struct nest_size {
	s64 nr;
	u64 moments;		/* the sum of change x time of all changes */
	s64 min, max;		/* since user space looked */
};

/* The nests, also for user space, which draws them. */
struct mask primary, reserve;
struct nest_size primary_size, reserve_size;

/* CPUs that idle. A hint: a claim asks the kernel, which knows. */
struct mask idle;

/* How many CPUs of each core are primary. */
static s32 nest_cores[MAX_CPUS];

/* What each CPU does, and since when. */
struct nest_cpu {
	u64 idle_since;
	u64 busy_since;
	bool ours;		/* it runs one of our tasks */
} __attribute__((aligned(64)));

static struct nest_cpu nest_cpus[MAX_CPUS];
static u64 next_sweep;

static __always_inline struct nest_cpu *nest_cpu(u32 cpu)
{
	return &nest_cpus[cpu & (MAX_CPUS - 1)];
}

/* A nest has @change CPUs more since @now. */
static __always_inline void nest_resize(struct nest_size *size, s64 change, u64 now)
{
	s64 nr = __sync_fetch_and_add(&size->nr, change) + change;

	__sync_fetch_and_add(&size->moments, change * now);
	/* For people: of two CPUs that write at once the nearer may win. */
	if (nr < size->min)
		size->min = nr;
	if (nr > size->max)
		size->max = nr;
}

static __always_inline bool nest_add(struct mask *nest, struct nest_size *size, u32 rank,
				     u64 now)
{
	if (!mask_add(nest, rank))
		return false;
	nest_resize(size, 1, now);
	return true;
}

static __always_inline bool nest_remove(struct mask *nest, struct nest_size *size, u32 rank,
					u64 now)
{
	if (!mask_remove(nest, rank))
		return false;
	nest_resize(size, -1, now);
	return true;
}

static __always_inline s32 *nest_core(u32 rank)
{
	return &nest_cores[topology_cpus[rank_cpu(rank) & (MAX_CPUS - 1)].core & (MAX_CPUS - 1)];
}

/* The CPU of @rank is warm, wherever it was. */
__noinline int nest_make_primary(u32 rank, u64 now)
{
	if (nest_add(&primary, &primary_size, rank, now))
		__sync_fetch_and_add(nest_core(rank), 1);
	if (nest_remove(&reserve, &reserve_size, rank, now))
		count(nr_promoted);
	return 0;
}

enum nest_set {
	NEST_PRIMARY,
	NEST_RESERVE,
	NEST_REST,
};

static __always_inline u64 nest_word(u32 set, u32 word)
{
	u64 warm = mask_word(&primary, word);
	u64 cool = mask_word(&reserve, word) & ~warm;

	return set == NEST_PRIMARY ? warm : set == NEST_RESERVE ? cool : ~(warm | cool);
}

/* Where the CPU of @rank is. */
static __always_inline enum nest_set nest_set(u32 rank)
{
	return mask_in(&primary, rank) ? NEST_PRIMARY :
	       mask_in(&reserve, rank) ? NEST_RESERVE : NEST_REST;
}

/* A task goes to the CPU of @rank; an @impatient one wants more like it. */
__noinline int nest_use(u32 rank, bool impatient, u64 now)
{
	enum nest_set set = nest_set(rank);

	if (set == NEST_RESERVE || (set == NEST_REST && impatient))
		nest_make_primary(rank, now);
	else if (set == NEST_REST && reserve_size.nr < reserve_max)
		nest_add(&reserve, &reserve_size, rank, now);
	return 0;
}

/*
 * Claim the CPU of @rank, which is in @set, for @p if it may use it and it idles;
 * @whole: with all of its core, which moreover is not one that the nest uses now
 * and then, unless the CPU is itself primary.
 *
 * Global, as all that search are, so that the verifier looks at each once
 * instead of at each call: scx_freq loads in half the time.
 */
__noinline bool nest_claim(struct task_struct *p __arg_trusted, u32 rank, u32 set, bool whole)
{
	s32 cpu = rank_cpu(rank);

	if (!bpf_cpumask_test_cpu(cpu, p->cpus_ptr))
		return false;
	if (whole && ((set != NEST_PRIMARY && *nest_core(rank)) || !idle_whole_core(cpu)))
		return false;
	return scx_bpf_test_and_clear_cpu_idle(cpu);
}

/* Claim the CPU of @rank if it is in @set. */
static __always_inline bool nest_claim_if_in(struct task_struct *p, u32 rank, u32 set,
					     bool whole)
{
	return rank != RANK_NONE && nest_set(rank) == set &&
	       nest_claim(p, rank, set, whole);
}

/* Claim the CPU of @attached, else that of @prev, if it is in @set. The rank, or RANK_NONE. */
__noinline u32 nest_claim_own(struct task_struct *p __arg_trusted, u32 attached, u32 prev, u32 set,
			      bool whole)
{
	return nest_claim_if_in(p, attached, set, whole) ? attached :
	       nest_claim_if_in(p, prev, set, whole) ? prev : RANK_NONE;
}

/* The rank after those of the last LLC that the primary nest has spread to. */
static __always_inline u32 nest_llc_end(void)
{
	u32 word, last = 0;

	bpf_for(word, 0, (nr_ranks + 63) / 64) {
		u64 bits = mask_word(&primary, word);

		if (bits)
			last = word * 64 + bit_highest(bits);
	}
	return rank_llc_ends[last & (MAX_CPUS - 1)];
}

/*
 * Claim the best idle CPU of @set, or with @whole of its cores that idle: in the
 * rest only those where the nest is, because an LLC is filled before the next one
 * is begun. The rank, or RANK_NONE.
 */
__noinline u32 nest_claim_best(struct task_struct *p __arg_trusted, u32 set, bool whole)
{
	u32 end = set == NEST_REST && whole ? nest_llc_end() : nr_ranks, word, try;

	bpf_for(word, 0, (end + 63) / 64) {
		u64 bits = nest_word(set, word) & mask_word(&idle, word);
		u32 left = end - word * 64;

		if (left < 64)
			bits &= (1ULL << left) - 1;
		bpf_for(try, 0, NEST_TRIES) {
			u32 rank = word * 64 + bit_lowest(bits);

			if (!bits)
				break;
			bits &= bits - 1;
			if (nest_claim(p, rank, set, whole))
				return rank;
		}
	}
	return RANK_NONE;
}

/*
 * Claim the best idle CPU of the preferred class that the nest does not use. One
 * that it does use stays with who belongs there. The rank, or RANK_NONE.
 */
__noinline u32 nest_claim_preferred(struct task_struct *p __arg_trusted)
{
	u32 word, try;

	bpf_for(word, 0, (nr_ranks + 63) / 64) {
		u64 bits = ~mask_word(&primary, word) & mask_word(&idle, word) &
			   mask_word((const struct mask *)&preferred, word);

		bpf_for(try, 0, NEST_TRIES) {
			u32 rank = word * 64 + bit_lowest(bits);

			if (!bits)
				break;
			bits &= bits - 1;
			if (nest_claim(p, rank, NEST_REST, whole_cores))
				return rank;
		}
	}
	return RANK_NONE;
}

/* Is the CPU of @rank one of a lesser class? */
static __always_inline bool nest_is_lesser(u32 rank)
{
	return rank != RANK_NONE && !mask_in((const struct mask *)&preferred, rank);
}

/* How far to look, and for whom. */
#define NEST_GROW	1	/* beyond the primary nest */
#define NEST_IMPATIENT	2

/* Beside a rank: its core may be in use by another. */
#define NEST_SHARED	0x10000

#define __nest_try(claim, flag)							\
do {										\
	u32 ___rank = claim;							\
										\
	if (___rank != RANK_NONE)						\
		return ___rank | flag;						\
} while (0)

/*
 * Claim an idle CPU for @p. The nest comes first, and there where @p belongs;
 * whole cores before second threads. Who has to share a core for so long that it
 * is @how impatient may have one of its own, but none that the nest uses: others
 * would then miss theirs. The rank, perhaps NEST_SHARED, or RANK_NONE.
 */
__noinline u32 nest_find(struct task_struct *p __arg_trusted, u32 attached, u32 prev, u32 how)
{
	bool cores = whole_cores && nr_threads > 1;
	u32 shared = cores ? NEST_SHARED : 0;

	/* A nest that began on weak CPUs moves to strong ones once some are free. */
	if (how & NEST_GROW && nest_is_lesser(prev))
		__nest_try(nest_claim_preferred(p), 0);
	if (cores) {
		__nest_try(nest_claim_own(p, attached, prev, NEST_PRIMARY, true), 0);
		if (how == (NEST_GROW | NEST_IMPATIENT)) {
			__nest_try(nest_claim_best(p, NEST_RESERVE, true), 0);
			__nest_try(nest_claim_best(p, NEST_REST, true), 0);
		}
	}
	__nest_try(nest_claim_own(p, attached, prev, NEST_PRIMARY, false), shared);
	if (cores)
		__nest_try(nest_claim_best(p, NEST_PRIMARY, true), 0);
	__nest_try(nest_claim_best(p, NEST_PRIMARY, false), shared);
	if (!(how & NEST_GROW))
		return RANK_NONE;
	if (cores) {
		__nest_try(nest_claim_own(p, attached, prev, NEST_RESERVE, true), 0);
		__nest_try(nest_claim_best(p, NEST_RESERVE, true), 0);
		__nest_try(nest_claim_best(p, NEST_REST, true), 0);
	}
	__nest_try(nest_claim_own(p, attached, prev, NEST_RESERVE, false), shared);
	__nest_try(nest_claim_best(p, NEST_RESERVE, false), shared);
	__nest_try(nest_claim_best(p, NEST_REST, false), shared);
	return RANK_NONE;
}

/* For dispatch() on @cpu, which has found nothing to run: before it looks for the last time. */
static __always_inline void nest_enter_idle(s32 cpu)
{
	u32 rank = cpu_rank(cpu);

	if (rank == RANK_NONE || mask_in(&idle, rank))
		return;
	/* First: a sweep on another CPU must not take it for one that has idled for long. */
	nest_cpu(cpu)->idle_since = bpf_ktime_get_ns();
	mask_add(&idle, rank);
}

/* Some CPU idles. */
static __always_inline bool nest_idles(void)
{
	return !mask_is_empty(&idle, nr_ranks);
}

/* Demote the CPU of @rank if it has been idle for too long. */
__noinline int nest_cool(u32 rank, u64 now)
{
	s64 idle_ns = now - nest_cpu(rank_cpu(rank))->idle_since;

	if (idle_ns > (s64)remove_ns && nest_remove(&primary, &primary_size, rank, now)) {
		__sync_fetch_and_add(nest_core(rank), -1);
		count(nr_demoted);
		if (reserve_size.nr < reserve_max)
			nest_add(&reserve, &reserve_size, rank, now);
	}
	if (idle_ns > (s64)expire_ns && nest_remove(&reserve, &reserve_size, rank, now))
		count(nr_expired);
	return 0;
}

/* Look for CPUs that have gone cold; not more often than worth it, and by one CPU at a time. */
static __always_inline void nest_sweep(u64 now)
{
	u64 due = next_sweep;
	u32 word, bit;

	if ((s64)(now - due) < 0 ||
	    __sync_val_compare_and_swap(&next_sweep, due, now + NEST_SWEEP_NS) != due)
		return;
	bpf_for(word, 0, (nr_ranks + 63) / 64) {
		u64 bits = (mask_word(&primary, word) | mask_word(&reserve, word)) &
			   mask_word(&idle, word);

		bpf_for(bit, 0, 64) {
			if (!bits)
				break;
			nest_cool(word * 64 + bit_lowest(bits), now);
			bits &= bits - 1;
		}
	}
}

/* For update_idle(). */
static __always_inline void nest_update_idle(s32 cpu, bool idles, u64 now)
{
	u32 rank = cpu_rank(cpu);

	if (rank == RANK_NONE)
		return;
	if (!idles) {
		mask_remove(&idle, rank);
		nest_cpu(cpu)->busy_since = now;
		return;
	}
	nest_cpu(cpu)->idle_since = now;
	nest_sweep(now);
}

/* For tick() on @cpu: who stays busy, with whatever, is warm. */
static __always_inline void nest_tick(s32 cpu, u64 now)
{
	u32 rank = cpu_rank(cpu);

	if (rank == RANK_NONE)
		return;
	/* It got a task just after it had found none. */
	mask_remove(&idle, rank);
	if (!mask_in(&primary, rank) && now - nest_cpu(cpu)->busy_since > remove_ns) {
		nest_make_primary(rank, now);
		count(nr_warmed);
	}
	nest_sweep(now);
}

/* For init(): what is busy now will be seen to be. */
static __always_inline void nest_init(void)
{
	u64 now = bpf_ktime_get_ns();
	u32 cpu;

	bpf_for(cpu, 0, nr_cpu_ids) {
		nest_cpu(cpu)->idle_since = now;
		nest_cpu(cpu)->busy_since = now;
	}
}

#endif /* __FREQ_NEST_BPF_H */
