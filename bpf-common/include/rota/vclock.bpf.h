/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A virtual clock: where a queue ordered by virtual time stands, and a limit to
 * how long anybody waits for it to come round.
 *
 * A turn of a task of weight 1 takes it 8876 times as far as one of nice -20, so
 * beside a few of those its next turn is minutes away, by rights; but the kernel
 * ejects a policy under which a task waits for longer than the watchdog's timeout.
 * So the clock watches one of those that are due far ahead of it at a time. If it
 * has not come there in a quarter of the timeout it goes there at once, and takes
 * along all that have run in the meantime. Who was queued since is watched next:
 * nobody waits for more than two such times and the turns of those before it.
 */
#ifndef __ROTA_VCLOCK_BPF_H
#define __ROTA_VCLOCK_BPF_H

#include <rota/kfuncs.bpf.h>
#include <rota/tunables.bpf.h>
#include <rota/vtime.h>

struct vclock {
	u64 now;		/* virtual time */
	u64 watched;		/* when, in virtual time, the one that is watched is due */
	u64 next;		/* the largest such time of anyone so far */
	u32 late;		/* when that is too late, by vclock_date(); 0: nobody is watched */
	u32 leapt;		/* how far it has gone at once, in all: in 2^20 ns, modulo 2^32 */
	u32 switching;		/* a CPU, plus 1, whose task waits in a moment; 0: none; a hint */
} __attribute__((aligned(64)));

/* The time of day in 2^20 ns (about 1 ms), modulo 2^32; never 0. */
static __always_inline u32 vclock_date(void)
{
	return bpf_ktime_get_ns() >> 20 | 1;
}

/* A quarter of the watchdog's timeout after @date. */
static __always_inline u32 vclock_too_late(u32 date)
{
	return (date + (u32)(timeout_ms * 1000000ULL / 4 >> 20)) | 1;
}

/* @clock watches someone: see whether its turn has come, or must. */
static __noinline void vclock_check(struct vclock *clock)
{
	u32 date = vclock_date();

	if (vtime_before(clock->now, clock->watched)) {
		if ((s32)(date - clock->late) >= 0) {
			clock->leapt += (clock->watched - clock->now) >> 20;
			clock->now = clock->watched;
		}
		return;
	}
	/* First nobody is watched, then a look at the next; vclock_watch() has it the other way. */
	__sync_lock_test_and_set(&clock->late, 0);
	if (vtime_before(clock->now, clock->next)) {
		clock->watched = clock->next;
		clock->late = vclock_too_late(date);
	}
}

/* The virtual time of @clock, for enqueue() and dispatch(). */
static __always_inline u64 vclock_now(struct vclock *clock)
{
	if (clock->late)
		vclock_check(clock);
	return clock->now;
}

/* Somebody waits who is due when @clock is at @vtime. */
static __noinline void vclock_watch(struct vclock *clock, u64 vtime)
{
	u64 next;
	int i;

	for (i = 0; i < 4; i++) {
		next = clock->next;
		if (!vtime_before(next, vtime) ||
		    __sync_val_compare_and_swap(&clock->next, next, vtime) == next)
			break;
	}
	if (!clock->late) {
		clock->watched = vtime;
		clock->late = vclock_too_late(vclock_date());
	}
}

/* @vtime, at which a task begins to run: @clock is there now. */
static __always_inline void vclock_advance(struct vclock *clock, u64 vtime)
{
	/* No lock: of two CPUs that advance it at once the smaller may win, until the next. */
	if (vtime_before(clock->now, vtime))
		clock->now = vtime;
}

#endif /* __ROTA_VCLOCK_BPF_H */
