/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Weighted virtual time: pure arithmetic, the same for BPF and host.
 *
 * A task's virtual time grows by its run time x 100 / weight, so that tasks
 * whose virtual times are equal have had CPU time in proportion to their
 * weights. Virtual times are nanoseconds modulo 2^64 and are compared by the
 * sign of their difference: correct as long as two of them lie less than 2^63
 * ns (292 years) apart.
 */
#ifndef __ROTA_VTIME_H
#define __ROTA_VTIME_H

#include <rota/types.h>

/* sched_ext's range: nice 0 is 100, nice -20 is 8876, nice 19 is 1. */
#define WEIGHT_DFL	100
#define WEIGHT_MAX	10000

/* A run time so long (two years) that as a bound it is none; scales without overflow. */
#define VTIME_FAR	(1ULL << 56)

static inline bool vtime_before(u64 a, u64 b)
{
	return (s64)(a - b) < 0;
}

/* Virtual length of @run_ns at @weight; exact up to 2^57 ns (4.5 years) in one go. */
static inline u64 vtime_scale(u64 run_ns, u32 weight)
{
	if (weight == WEIGHT_DFL)
		return run_ns;
	return run_ns * WEIGHT_DFL / (weight ? weight : 1);
}

/*
 * @vtime, but no further than @behind before @clock and no further than @ahead
 * after it. What a task did not use while it slept it cannot save up, and what
 * it used while nobody else wanted it is not held against it.
 */
static inline u64 vtime_clamp(u64 vtime, u64 clock, u64 behind, u64 ahead)
{
	if (vtime_before(vtime, clock - behind))
		return clock - behind;
	if (vtime_before(clock + ahead, vtime))
		return clock + ahead;
	return vtime;
}

/* @vtime by another clock: as far from @to as it was from @from. */
static inline u64 vtime_carry(u64 vtime, u64 from, u64 to)
{
	return to + (vtime - from);
}

#endif /* __ROTA_VTIME_H */
