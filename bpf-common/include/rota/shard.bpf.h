/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One queue by virtual time per shard, DSQ_SHARD | shard: which CPU is served
 * by which, where work waits, and how a CPU of one takes from another.
 *
 * A task's virtual time is told by its shard's clock. Whoever moves a task to
 * another shard carries its distance from the clock over, so that moving
 * neither rewards nor punishes. A change of affinity may move a task without
 * that; what it gains or loses is limited when it is queued next.
 */
#ifndef __ROTA_SHARD_BPF_H
#define __ROTA_SHARD_BPF_H

#include <rota/dsq.bpf.h>
#include <rota/idle_llc.bpf.h>
#include <rota/shard.h>
#include <rota/task.bpf.h>
#include <rota/vclock.bpf.h>

struct task_memo {
	u32 pid;
	u32 home;		/* the shard from which it was stolen */
	u64 visits_until;	/* for so long that counts; 0: it was not */
	u64 waits_since;	/* when it was queued last */
};

#include <rota/task_memo.bpf.h>

/* How many shards with waiting tasks a CPU tries before it idles; see shard_steal(). */
#define SHARD_TRIES	4

const volatile u32 nr_shards = 1;
const volatile u16 cpu_shards[MAX_CPUS];
const volatile struct shard shards[MAX_SHARDS];

const volatile struct shard_range llc_shards[MAX_LLCS];

struct shard_state {
	struct vclock clock;
	u64 slice_ns;		/* of its tasks: shorter, the more of them wait */
	/* Of the tasks that used up a slice since user space looked, and may go elsewhere: */
	u64 lightest;		/* the least weight, 0: there is none */
	u32 mover;		/* the pid of one of them */
	u64 looked_at;		/* when a tick last looked for who waits for long */
	bool waiting;		/* tasks wait; a hint */
	u32 stolen;		/* tasks stolen from others, less those stolen from it; roughly */
} __attribute__((aligned(64)));

struct shard_state shard_states[MAX_SHARDS];

/*
 * Shards that needed help, a bit each: many tasks waited there, or some for long.
 * Set by the shard, cleared by who came to help, in vain or not: what goes on
 * within a shard alone does not write to a line of the whole machine. So a crowd
 * may be gone when a CPU comes; it takes who waits for long then, or nobody.
 */
u64 shards_waiting[SHARD_WORDS] __attribute__((aligned(64)));

static __always_inline u32 cpu_shard(s32 cpu)
{
	return (u32)cpu < MAX_CPUS ? cpu_shards[cpu] & (MAX_SHARDS - 1) : 0;
}

static __always_inline struct shard_state *shard_state(u32 shard)
{
	return &shard_states[shard & (MAX_SHARDS - 1)];
}

/* Tasks that wait in the queues of @llc. */
static __always_inline u32 llc_nr_queued(u32 llc)
{
	u32 shard, nr = 0;

	if (llc >= MAX_LLCS)
		return 0;
	bpf_for(shard, llc_shards[llc].first, llc_shards[llc].first + llc_shards[llc].nr)
		nr += scx_bpf_dsq_nr_queued(DSQ_SHARD | shard);
	return nr;
}

/* Tasks that are no crowd, however few CPUs serve them. */
#define SHARD_CROWD_MIN	4

/* With one task more, more than @pct tasks wait in the queue of @shard per 100 CPUs. */
static __always_inline bool shard_crowded(u32 shard, u32 pct)
{
	u32 cpus = shards[shard & (MAX_SHARDS - 1)].nr_cpus;

	if (cpus < SHARD_CROWD_MIN)
		cpus = SHARD_CROWD_MIN;
	return (scx_bpf_dsq_nr_queued(DSQ_SHARD | shard) + 1) * 100 > pct * cpus;
}

/* A CPU of @own may go and help: some shard may need it, and no own task is about to wait. */
static __always_inline bool shard_may_steal(u32 own)
{
	u64 any = 0;
	u32 word;

	if (shard_state(own)->clock.switching)
		return false;
	_Pragma("clang loop unroll(full)")
	for (word = 0; word < SHARD_WORDS; word++) {
		if (word * 64 < nr_shards)
			any |= *(volatile u64 *)&shards_waiting[word];
	}
	return any;
}

/* @shard needs help. */
static __always_inline void shard_mark(u32 shard)
{
	u64 bit = 1ULL << (shard & 63);
	u64 *word = &shards_waiting[(shard & (MAX_SHARDS - 1)) / 64];

	if (nr_shards > 1 && !(*(volatile u64 *)word & bit))
		__sync_fetch_and_or(word, bit);
}

/* Whether tasks wait in the queue of @shard. */
static __always_inline void shard_set_waiting(u32 shard, bool waiting)
{
	struct shard_state *state = shard_state(shard);

	if (state->waiting != waiting)
		state->waiting = waiting;
}

/* The more tasks wait for each CPU of @shard, the shorter its slices: @least_ns at least. */
static __always_inline void shard_adapt_slice(u32 shard, u64 least_ns)
{
	u64 cpus = shards[shard & (MAX_SHARDS - 1)].nr_cpus ?: 1;
	u64 length_ns = slice_ns * cpus / (cpus + scx_bpf_dsq_nr_queued(DSQ_SHARD | shard));

	shard_state(shard)->slice_ns = length_ns > least_ns ? length_ns : least_ns;
}

/*
 * Who has waited for so long is helped by other shards. A task that moves pays for it
 * with what its caches hold, about as much; one that gets its turn before does not. The
 * kernel's own scheduler takes a quarter of it for that (migration_cost_ns).
 */
#define SHARD_WAIT_NS	2000000

/* For enqueue(): @p begins to wait. */
static __always_inline void shard_wait(const struct task_struct *p)
{
	if (nr_shards > 1)
		task_memo(p)->waits_since = bpf_ktime_get_ns();
}

/* At @now, @p has waited for SHARD_WAIT_NS; true, too, if when it came was forgotten. */
static __always_inline bool shard_overdue(const struct task_struct *p, u64 now)
{
	return now - task_memo(p)->waits_since >= SHARD_WAIT_NS;
}

/* The shard that a CPU was woken for, plus 1. */
static u16 shard_calls[MAX_CPUS];

/* @cpu, which idles (-1: there is none), is to take a task of @shard; true if it was woken. */
static __always_inline bool shard_call(u32 shard, s32 cpu)
{
	if (cpu < 0 || cpu >= MAX_CPUS)
		return false;
	shard_calls[cpu] = shard + 1;
	scx_bpf_kick_cpu(cpu, SCX_KICK_IDLE);
	return true;
}

/* @shard has got help; it will say if it needs more. */
static __always_inline void shard_unmark(u32 shard)
{
	__sync_fetch_and_and(&shards_waiting[(shard & (MAX_SHARDS - 1)) / 64],
			     ~(1ULL << (shard & 63)));
}

/* @vtime, of a task of shard @from, by the clock of shard @to. */
static __always_inline u64 shard_carry(u64 vtime, u32 from, u32 to)
{
	return vtime_carry(vtime, shard_state(from)->clock.now, shard_state(to)->clock.now);
}

/*
 * Of the shards in @word of a mask, those after @own first, the more crowded
 * one of two; -1 if @bits is empty. Two choices spread thieves almost as well
 * as a look at all, at a cost that does not grow with their number. A function
 * of its own, so that the verifier looks at it once.
 */
__noinline s32 shard_of_two(u64 bits, u32 word, u32 own)
{
	u64 after = own / 64 == word ? bits & ~((2ULL << (own & 63)) - 1) : bits;
	u32 one, two;

	if (!bits)
		return -1;
	one = bit_lowest(after ?: bits);
	bits &= ~(1ULL << one);
	if (!bits)
		return word * 64 + one;
	after &= ~(1ULL << one);
	two = bit_lowest(after ?: bits);
	one += word * 64;
	two += word * 64;
	return scx_bpf_dsq_nr_queued(DSQ_SHARD | two) > scx_bpf_dsq_nr_queued(DSQ_SHARD | one) ?
		two : one;
}

/* A shard other than @own that needed help, the nearest first; -1 if there is none. */
static __always_inline s32 shard_neediest(u32 own, const u64 *tried)
{
	const volatile struct shard *shard = &shards[own & (MAX_SHARDS - 1)];
	u32 level, word;

	_Pragma("clang loop unroll(full)")
	for (level = 0; level <= SHARD_LEVELS; level++) {
		_Pragma("clang loop unroll(full)")
		for (word = 0; word < SHARD_WORDS; word++) {
			u64 bits;

			if (word * 64 >= nr_shards)
				break;
			bits = *(volatile u64 *)&shards_waiting[word] & ~tried[word];
			if (level < SHARD_LEVELS)
				bits &= shard->peers[level][word];
			if (bits)
				return shard_of_two(bits, word, own);
		}
	}
	return -1;
}

/* How long a stolen task is a guest: some slices, but less than the balancer takes to see it. */
#define SHARD_VISIT_NS	100000000

/* A task goes from shard @from to @to, as a guest or home. */
static __always_inline void shard_travel(u32 from, u32 to)
{
	shard_state(from)->stolen--;
	shard_state(to)->stolen++;
}

/* @p has been stolen from shard @home for shard @own. */
static __always_inline void shard_visit(const struct task_struct *p, u32 home, u32 own)
{
	struct task_memo *memo = task_memo(p);

	memo->home = home;
	memo->visits_until = bpf_ktime_get_ns() + SHARD_VISIT_NS;
	shard_travel(home, own);
}

/* As many tasks wait for each CPU of shard @own, with one that has just left its queue, or more. */
static __always_inline bool shard_as_crowded(u32 own, u32 other)
{
	u64 waiting = scx_bpf_dsq_nr_queued(DSQ_SHARD | own) + 1;

	return waiting * shards[other & (MAX_SHARDS - 1)].nr_cpus >=
	       (u64)scx_bpf_dsq_nr_queued(DSQ_SHARD | other) *
	       shards[own & (MAX_SHARDS - 1)].nr_cpus;
}

/*
 * For enqueue(): the shard in which @p, which has used up a slice in shard @own and
 * has to wait now, is at home. If it would wait for no more tasks there, the CPU that
 * stole it lately was idle for a moment only.
 */
static __always_inline u32 shard_home(const struct task_struct *p, u32 own)
{
	struct task_memo *memo;
	u64 until;
	u32 home;

	if (nr_shards == 1)
		return own;
	memo = task_memo(p);
	until = memo->visits_until;
	if (!until)
		return own;
	home = memo->home & (MAX_SHARDS - 1);
	if (!vtime_before(until, bpf_ktime_get_ns())) {
		if (!shard_as_crowded(own, home) || llc_any_cpu(p, shards[home].llc) < 0)
			return own;
		shard_travel(own, home);
		own = home;
	}
	memo->visits_until = 0;
	return own;
}

/*
 * Move one task that may run on @cpu, of shard @own, from the queue of @victim to it:
 * any while that is crowded by @pct, or else one that is overdue.
 */
static __always_inline bool shard_take(u32 victim, u32 own, s32 cpu, u32 pct)
{
	bool any = shard_crowded(victim, pct);
	u64 now = any ? 0 : bpf_ktime_get_ns();
	struct task_struct *p;
	bool moved = false;
	int scanned = 0;

	bpf_for_each(scx_dsq, p, DSQ_SHARD | victim, 0) {
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr) && (any || shard_overdue(p, now))) {
			moved = compat_dsq_move_vtime(BPF_FOR_EACH_ITER, p, DSQ_SHARD | own,
						      shard_carry(p->scx.dsq_vtime, victim, own));
			if (moved) {
				shard_visit(p, victim, own);
				break;
			}
		}
		if (++scanned == DSQ_HEAD_SCAN)
			break;
	}
	if (moved) {
		dsq_move_to_local(DSQ_SHARD | own);
		return true;
	}
	/* Behind a crowd that may not run here; the kernel looks at all of them. */
	return any && scanned == DSQ_HEAD_SCAN && dsq_move_to_local(DSQ_SHARD | victim);
}

/*
 * For dispatch() on @cpu, which would idle: take a task from another shard. The
 * cost is that of a few words and SHARD_TRIES looks, however many there are.
 */
static __always_inline bool shard_steal(u32 own, s32 cpu, u32 pct)
{
	u64 tried[SHARD_WORDS] = {};
	u32 try, called;

	if (nr_shards == 1 || (u32)cpu >= MAX_CPUS)
		return false;
	called = shard_calls[cpu];
	shard_calls[cpu] = 0;
	if (called && called - 1 != own && shard_take(called - 1, own, cpu, pct))
		return true;
	/* A task that is about to wait wakes this CPU if it idles. */
	if (shard_state(own)->clock.switching)
		return false;
	tried[own / 64 & (SHARD_WORDS - 1)] = 1ULL << (own & 63);
	bpf_for(try, 0, SHARD_TRIES) {
		s32 victim = shard_neediest(own, tried);

		if (victim < 0)
			return false;
		shard_unmark(victim);
		if (shard_take(victim, own, cpu, pct))
			return true;
		tried[(u32)victim / 64 & (SHARD_WORDS - 1)] |= 1ULL << (victim & 63);
	}
	return false;
}

#endif /* __ROTA_SHARD_BPF_H */
