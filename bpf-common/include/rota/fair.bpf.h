/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Weighted fair queueing: what policies that order a queue by virtual time
 * share. The policy brings one or more queues, each with a clock, and says
 * which of them a CPU serves; a CPU's own queue for pinned tasks comes with it.
 *
 * A task's virtual time advances by its run time x 100 / weight. What is kept
 * of it, in dsq_vtime, is its virtual deadline: where its virtual time is once
 * it has had a slice. The smallest runs next, so a heavy task that comes goes
 * before light ones, who have a slice to wait for that is virtually long, and
 * waits for the turns in progress, not for one of each of them.
 *
 * A queue's clock is the largest virtual time at which a task of it began to
 * run, but for those far ahead of it that went before nobody (fair_running()),
 * and those that have CPUs to themselves while others wait who may not run there.
 * Each CPU has a clock for its pinned tasks, which rejoins the queue's whenever
 * none of them waits.
 *
 * Run time is charged as the kernel accounts it, and nothing else is: never
 * what is left of a slice.
 */
#ifndef __ROTA_FAIR_BPF_H
#define __ROTA_FAIR_BPF_H

#include <rota/fault.bpf.h>
#include <rota/local.bpf.h>
#include <rota/pinned.bpf.h>
#include <rota/vclock.bpf.h>

/* The longest turn: a slice, overrun by a tick of up to 10 ms. */
#define FAIR_TURN_NS	(slice_ns + 10000000)

/*
 * How far a task may be from its clock, in its own run time: more than fair
 * service ever takes it, which is two turns.
 */
#define FAIR_LAG_MAX_NS	(4 * FAIR_TURN_NS)

/* Of the two queues a CPU serves, neither waits for more tasks of the other than this. */
#define FAIR_STREAK_MAX	8

/* How a task comes to run. */
enum fair_turn {
	FAIR_UNASKED,		/* it wakes on an idle CPU, or is a kernel thread */
	FAIR_FIRST,		/* it was the first of a queue, maybe the only one */
	FAIR_BEFORE,		/* the same, and another gave way that would have gone on */
};

struct fair_cpu {
	struct vclock clock;	/* of the pinned tasks */
	u64 exec_start;		/* CPU time of the running task up to its last charge */
	u64 busy_ns;		/* all run time that was charged */
	u64 contended_ns;	/* the part for which the task competed with others */
	u64 gave_way;		/* deadline of who would have gone on: for FAIR_BEFORE */
	u32 streak;		/* how often one queue was chosen over the other in a row */
	bool pinned_served;	/* which of them that was */
	u8 turn;		/* of who runs next: enum fair_turn */
	bool passed_over;	/* at the last look tasks waited that may not run here */
} __attribute__((aligned(64)));

struct fair_cpu fair_cpus[MAX_CPUS];

static __always_inline struct fair_cpu *fair_cpu(u32 cpu)
{
	/* No machine that is let in has a higher CPU; the verifier needs the bound. */
	return &fair_cpus[cpu & (MAX_CPUS - 1)];
}

/* The virtual length of a slice of @p: its deadline is so far from its virtual time. */
static __always_inline u64 fair_slice(const struct task_struct *p)
{
	return vtime_scale(slice_ns, p->scx.weight);
}

/* @deadline of @p with its virtual time brought within these bounds, in its run time, of @now. */
static __always_inline u64 fair_clamp(const struct task_struct *p, u64 deadline, u64 now,
				      u64 behind_ns, u64 ahead_ns)
{
	u32 weight = p->scx.weight;

	return vtime_clamp(deadline, now + fair_slice(p), vtime_scale(behind_ns, weight),
			   vtime_scale(ahead_ns, weight));
}

/*
 * @p competes with those that wait in a queue whose clock is @clock. One that is
 * further behind it than fair service takes anyone gets all it wants at once, whoever
 * waits: its weight is worth more than a CPU.
 */
static __always_inline bool fair_competes(const struct task_struct *p, const struct vclock *clock)
{
	u64 lag = vtime_scale(FAIR_LAG_MAX_NS / 2 - slice_ns, p->scx.weight);

	return !vtime_before(p->scx.dsq_vtime + lag, clock->now);
}

/* Charge @p for the CPU time since its last charge on @fc's CPU: its new deadline. */
static __always_inline u64 fair_charge(struct task_struct *p, struct fair_cpu *fc, bool contended)
{
	u64 exec = p->se.sum_exec_runtime;
	u64 run_ns = exec - fc->exec_start;

	fc->exec_start = exec;
	fc->busy_ns += run_ns;
	if (contended)
		fc->contended_ns += run_ns;
	return p->scx.dsq_vtime + vtime_scale(run_ns, fault_weight(p));
}

/* Of the queue's @clock and that of @fc's CPU the one by which @p is served. */
static __always_inline struct vclock *fair_clock(const struct task_struct *p, struct fair_cpu *fc,
						 struct vclock *clock)
{
	return task_is_pinned(p) ? &fc->clock : clock;
}

/* @p, due at @deadline, begins a slice: its clock stands where its virtual time is. */
static __always_inline void fair_advance(const struct task_struct *p, struct fair_cpu *fc,
					 struct vclock *clock, u64 deadline)
{
	/* A task that a fault has put far behind says nothing about the queue. */
	if (!fault_delay(p))
		vclock_advance(fair_clock(p, fc, clock), deadline - fair_slice(p));
}

/* Nobody waits for @fc's CPU alone: its pinned tasks stand where the queue stands, at @clock. */
static __always_inline void fair_rejoin(struct fair_cpu *fc, const struct vclock *clock)
{
	fc->clock.now = clock->now;
	fc->clock.next = clock->now;
	fc->clock.late = 0;
}

/* A task is about to wait until @clock is at @deadline: two turns of weight 100 are near. */
static __always_inline void fair_watch(struct vclock *clock, u64 deadline)
{
	if (vtime_before(clock->now + 2 * slice_ns, deadline))
		vclock_watch(clock, deadline);
}

/*
 * For select_cpu(): @p goes straight to a local queue, so fair_place() does not see it. It
 * would be as far behind @clock, that of the queue it goes past, as it was when it went to
 * sleep, and take that from who comes next. A pinned task goes by the clock of its CPU, but
 * nobody waits for that CPU alone, and then it is the same.
 */
static __always_inline void fair_wake(struct task_struct *p, const struct vclock *clock)
{
	u64 deadline = clock->now + fair_slice(p) / 2;

	if (vtime_before(p->scx.dsq_vtime, deadline))
		task_set_vtime(p, deadline);
}

/*
 * The deadline with which to queue @p: near @clock, or its CPU's if it is pinned.
 * After a sleep it is at most half a slice behind: enough to go before those
 * that have just begun to wait, not before a heavier one that comes as well. And
 * at most a turn ahead, its last: a CPU's clock may have rejoined the queue's in
 * the meantime, and gone back. Who drifted away (a weight worth more than a CPU, a
 * CPU to itself) is brought back to within FAIR_LAG_MAX_NS, so that the past never
 * starves the present.
 */
static __always_inline u64 fair_place(const struct task_struct *p, struct vclock *clock,
				      u64 enq_flags)
{
	bool wakes = enq_flags & SCX_ENQ_WAKEUP;
	u64 behind_ns = wakes ? slice_ns / 2 : FAIR_LAG_MAX_NS;
	u64 ahead_ns = wakes ? FAIR_TURN_NS : FAIR_LAG_MAX_NS;
	struct vclock *own = clock;
	u64 deadline;

	if (task_is_pinned(p)) {
		struct fair_cpu *fc = fair_cpu(task_cpu(p));

		if (!pinned_noted(task_cpu(p)))
			fair_rejoin(fc, clock);
		own = &fc->clock;
	}
	deadline = fair_clamp(p, p->scx.dsq_vtime, vclock_now(own), behind_ns, ahead_ns);
	/* It waits for those in both queues. */
	fair_watch(clock, deadline);
	if (own != clock)
		fair_watch(own, deadline);
	return deadline + fault_delay(p);
}

/* For enqueue(): queue @p, which is pinned and due at @deadline, for its CPU. */
static __always_inline void fair_queue_pinned(struct task_struct *p, u64 deadline, u64 enq_flags)
{
	dsq_insert_vtime(p, DSQ_CPU | task_cpu(p), slice_ns, deadline, enq_flags);
	pinned_queued(p);
}

/* The task that waits for a CPU and is next. */
struct fair_head {
	u64 deadline;
	bool waiting;		/* there is one */
	bool coming;		/* but it is not queued yet */
	bool pinned;		/* it is in the CPU's own queue */
};

/* Look at @dsq, and at the own queue of @cpu too if that is @pinned. */
static __always_inline struct fair_head fair_head(struct fair_cpu *fc, s32 cpu, u64 dsq,
						  bool pinned)
{
	struct dsq_head first = dsq_head(dsq, cpu);
	struct fair_head head = { .deadline = first.vtime, .waiting = first.found };

	fc->passed_over = first.others && !first.found;
	if (!pinned)
		return head;
	first = dsq_head(DSQ_CPU | cpu, cpu);
	if (!first.found)
		return head;
	if (head.waiting) {
		head.pinned = !vtime_before(head.deadline, first.vtime);
		if (head.pinned != fc->pinned_served) {
			fc->streak = 0;
		} else if (++fc->streak >= FAIR_STREAK_MAX) {
			fc->streak = 0;
			head.pinned = !head.pinned;
		}
		fc->pinned_served = head.pinned;
	}
	if (!head.waiting || head.pinned)
		head = (struct fair_head){ first.vtime, .waiting = true, .pinned = true };
	return head;
}

/*
 * Nobody waits, unless another CPU has taken who did and will in a moment queue the one
 * that it had. Where all CPUs tick at once that may be so at each tick: without this,
 * who comes second would go on for as long as the two of the first CPU take turns.
 */
static __always_inline struct fair_head fair_coming(const struct vclock *clock)
{
	u32 cpu = clock->switching;

	if (!cpu)
		return (struct fair_head){};
	return (struct fair_head){ fair_cpu(cpu - 1)->gave_way, .waiting = true, .coming = true };
}

/* Is it the turn of @prev again, whose slice is used up, before @head? */
static __always_inline bool fair_keep(struct task_struct *prev, struct fair_cpu *fc,
				      struct vclock *clock, const struct fair_head *head)
{
	struct vclock *own = fair_clock(prev, fc, clock);
	bool contended = head->waiting && fair_competes(prev, own);
	u64 deadline = fair_charge(prev, fc, contended);

	if (head->waiting) {
		deadline = fair_clamp(prev, deadline, vclock_now(own), FAIR_LAG_MAX_NS, VTIME_FAR);
	} else {
		/* What it takes while nobody waits is free, but for one slice. */
		fair_rejoin(fc, clock);
		deadline = fair_clamp(prev, deadline, clock->now, FAIR_LAG_MAX_NS, slice_ns);
	}
	task_set_vtime(prev, deadline);
	/*
	 * Who gets all it wants does not give way to those who have waited for a turn: where
	 * all CPUs tick at once, the clock is a turn ahead of them when the last one looks.
	 */
	if (head->waiting &&
	    vtime_before(head->deadline, contended ? deadline : deadline - FAIR_TURN_NS))
		return false;
	/* Who has a CPU to itself beside tasks that may not run there is faster than they are. */
	if (head->waiting || !fc->passed_over)
		fair_advance(prev, fc, clock, deadline);
	return true;
}

/* Move @head, or who waits in its stead, to the local queue; false if nobody does any more. */
static __always_inline bool fair_next(struct fair_cpu *fc, s32 cpu, u64 dsq, bool pinned,
				      const struct fair_head *head, enum fair_turn turn)
{
	bool found = (head->pinned && dsq_move_to_local(DSQ_CPU | cpu)) ||
		     dsq_move_to_local(dsq) || (pinned && dsq_move_to_local(DSQ_CPU | cpu));

	if (found) {
		fc->turn = turn;
		fc->passed_over = false;
	}
	return found;
}

enum fair_choice {
	FAIR_NONE,		/* nobody is there */
	FAIR_KEPT,		/* prev goes on, for another @slice_ns */
	FAIR_NEXT,		/* a task was moved to the local queue */
};

/*
 * For dispatch() on @cpu, which serves @dsq, whose clock is @clock: choose
 * between @prev, if it is runnable, the head of @dsq and that of the CPU's own
 * queue. *@waiting is true if a task is known to wait still.
 */
static __always_inline enum fair_choice fair_dispatch(s32 cpu, struct task_struct *prev, u64 dsq,
						      struct vclock *clock, u64 slice_ns,
						      bool *waiting)
{
	struct fair_cpu *fc = fair_cpu(cpu);
	bool pinned = pinned_waiting(cpu);
	bool runnable = task_is_runnable(prev);
	struct fair_head head = {};

	/* On the way from a task that sleeps, with no pinned ones, there is nothing to compare. */
	if (runnable || pinned)
		head = fair_head(fc, cpu, dsq, pinned);
	*waiting = head.waiting;
	if (!prev || !runnable)
		return fair_next(fc, cpu, dsq, pinned, &head, FAIR_FIRST) ? FAIR_NEXT : FAIR_NONE;
	if (!head.waiting)
		head = fair_coming(clock);
	if (!fair_keep(prev, fc, clock, &head)) {
		if (!head.coming) {
			fc->gave_way = prev->scx.dsq_vtime;
			clock->switching = task_is_pinned(prev) ? 0 : cpu + 1;
			if (fair_next(fc, cpu, dsq, pinned, &head, FAIR_BEFORE))
				return FAIR_NEXT;
			clock->switching = 0;
			/* Another CPU was quicker. */
			fair_advance(prev, fc, clock, prev->scx.dsq_vtime);
		}
		/* It gives way at its next tick. */
		slice_ns = 1;
	}
	task_set_slice(prev, slice_ns);
	return FAIR_KEPT;
}

/*
 * For running(): @p, of a queue whose clock is @clock, begins or goes on. A kernel
 * thread, out of its turn, says nothing about the queue; nor does who wakes on an idle
 * CPU beside tasks that may not run there, or has had more than its share: a turn of
 * weight 1 is worth seconds. The first of a queue moves its clock always, or it might
 * stand still and those far ahead wait, but not far if it went before nobody.
 */
static __always_inline void fair_running(struct task_struct *p, struct vclock *clock)
{
	struct fair_cpu *fc = fair_cpu(task_cpu(p));
	struct vclock *own = fair_clock(p, fc, clock);
	u64 deadline = p->scx.dsq_vtime;
	u64 start = deadline - fair_slice(p);
	u8 turn = fc->turn;

	fc->exec_start = p->se.sum_exec_runtime;
	fc->turn = FAIR_UNASKED;
	/* Who gave way is queued. */
	if (clock->switching && clock->switching == task_cpu(p) + 1)
		clock->switching = 0;
	if (!vtime_before(own->now, start) || task_is_percpu_kthread(p) || fault_delay(p))
		return;
	if (turn == FAIR_UNASKED && fc->passed_over)
		return;
	/* If another CPU has taken the one seen, @p may be a lone one that is due much later. */
	if (vtime_before(own->now + FAIR_TURN_NS, start) &&
	    !(turn == FAIR_BEFORE && vtime_before(deadline, fc->gave_way))) {
		if (turn == FAIR_UNASKED)
			return;
		start = own->now + slice_ns;
	}
	vclock_advance(own, start);
}

/* For stopping(): @p leaves the CPU, for which it competed with others if @contended. */
static __always_inline void fair_stopping(struct task_struct *p, bool runnable, bool contended)
{
	struct fair_cpu *fc = fair_cpu(task_cpu(p));

	task_set_vtime(p, fair_charge(p, fc, contended));
	local_stopping(p, runnable);
}

/*
 * For update_idle() on @cpu, which goes idle; it serves a queue whose clock is @clock, and
 * in which tasks wait if @waiting.
 */
static __always_inline void fair_idle(s32 cpu, const struct vclock *clock, bool waiting)
{
	struct fair_cpu *fc = fair_cpu(cpu);

	fair_rejoin(fc, clock);
	fc->passed_over = waiting;
}

/* For enable(): @p, which is new, is even with the queue at @clock. */
static __always_inline void fair_enable(struct task_struct *p, const struct vclock *clock)
{
	task_set_vtime(p, clock->now + fair_slice(p));
}

#endif /* __ROTA_FAIR_BPF_H */
