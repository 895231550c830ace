/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fault knobs: the lab makes the shipped object misbehave on purpose and
 * checks that the kernel ejects it and that the text says why.
 *
 * They are rodata, frozen before the program is verified. With the knobs off
 * the verifier knows every test below to be false and drops the code, so they
 * cost a shipped policy nothing.
 */
#ifndef __ROTA_FAULT_BPF_H
#define __ROTA_FAULT_BPF_H

#include <rota/compat.bpf.h>

#define FAULT_NAME_LEN	16

enum fault_kind {
	FAULT_NONE,
	FAULT_ERROR,	/* report an error from the op `fault_name` */
	FAULT_STALL,	/* lose the tasks whose comm is `fault_name`; "": the first user task */
	FAULT_STARVE,	/* queue the tasks whose comm is `fault_name` far behind all others */
	FAULT_SLEEPY,	/* CPU 1 takes nothing out of queues, nor a task that wakes */
	FAULT_UNFAIR,	/* charge all tasks as if they had weight 100 */
	FAULT_STRAY,	/* answer select_cpu() with a CPU that the task may not use */
	FAULT_REQUEUE,	/* send the tasks whose comm is `fault_name` to busy CPUs only */
};

/* How far behind, in nanoseconds of virtual time. */
#define FAULT_STARVE_NS	10000000000ULL

const volatile u32 fault_kind = FAULT_NONE;
const volatile char fault_name[FAULT_NAME_LEN];

/* The user task that FAULT_STALL without a name has chosen, 0 before that. */
int fault_victim;

/* True if @name, a literal, is fault_name: unrolled, so that the verifier can decide it. */
#define fault_named(name)							\
({										\
	const char ___name[FAULT_NAME_LEN] = name;				\
	bool ___same = true;							\
										\
	_Pragma("clang loop unroll(full)")					\
	for (int ___i = 0; ___i < FAULT_NAME_LEN; ___i++)			\
		___same &= fault_name[___i] == ___name[___i];			\
	___same;								\
})

#define fault_error(op)								\
do {										\
	if (fault_kind == FAULT_ERROR && fault_named(op))			\
		policy_error("fault injected into " op);			\
} while (0)

/* True if the comm of @p is fault_name. */
static __always_inline bool fault_is_named(const struct task_struct *p)
{
	for (int i = 0; i < FAULT_NAME_LEN; i++) {
		if (p->comm[i] != fault_name[i])
			return false;
		if (!fault_name[i])
			break;
	}
	return true;
}

/*
 * Put @p into the local queue of its CPU, for which that has to have time at once:
 * while it has none the kernel has @p queued again, and so on. A kernel that knows no
 * such request has @p lost.
 */
static __always_inline bool fault_requeue(struct task_struct *p)
{
	u64 immed = compat_enq_immed();

	if (immed)
		compat_dsq_insert(p, SCX_DSQ_LOCAL, 1000000, immed);
	return true;
}

/* True if the policy is to forget @p instead of queueing it. */
static __always_inline bool fault_stalls(struct task_struct *p)
{
	if (fault_kind == FAULT_REQUEUE && fault_is_named(p))
		return fault_requeue(p);
	if (fault_kind != FAULT_STALL || p->flags & PF_KTHREAD)
		return false;
	if (!fault_name[0]) {
		/* A race here loses two tasks instead of one, which a fault may. */
		if (!fault_victim)
			fault_victim = p->pid;
		return fault_victim == p->pid;
	}
	return fault_is_named(p);
}

/* True if @cpu is to idle beside what waits. */
static __always_inline bool fault_sleeps(s32 cpu)
{
	return fault_kind == FAULT_SLEEPY && cpu == 1;
}

/* The same for the CPU that asks; without the fault it is not even asked which one that is. */
static __always_inline bool fault_sleeps_here(void)
{
	return fault_kind == FAULT_SLEEPY && fault_sleeps(bpf_get_smp_processor_id());
}

/* How much too late @p is to be queued, in virtual time. */
static __always_inline u64 fault_delay(const struct task_struct *p)
{
	return fault_kind == FAULT_STARVE && fault_is_named(p) ? FAULT_STARVE_NS : 0;
}

/* The weight by which @p is charged. */
static __always_inline u32 fault_weight(const struct task_struct *p)
{
	return fault_kind == FAULT_UNFAIR ? 100 : p->scx.weight;
}

#endif /* __ROTA_FAULT_BPF_H */
