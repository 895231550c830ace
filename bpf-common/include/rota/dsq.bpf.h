/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Dispatch queues (DSQs): numbering, creation, insertion, and a look at a head.
 *
 * A policy that needs queues per CPU, LLC or node, or one for the machine,
 * takes their numbers from here, so that a dump of any policy reads the same.
 */
#ifndef __ROTA_DSQ_BPF_H
#define __ROTA_DSQ_BPF_H

#include <rota/compat.bpf.h>
#include <rota/fault.bpf.h>
#include <rota/topology.bpf.h>

/* The class of a queue in bits 32 and up, its index below: 0x200000003 is LLC 3's. */
#define DSQ_CPU		(1ULL << 32)
#define DSQ_LLC		(2ULL << 32)
#define DSQ_NODE	(3ULL << 32)
#define DSQ_MACHINE	(4ULL << 32)
#define DSQ_SHARD	(5ULL << 32)	/* a part of an LLC: shard.bpf.h */

#define DSQ_ANY_NODE	-1

/*
 * How far a look at a queue's head goes past tasks that may not run here. A
 * longer run of them makes the look say "nothing", never something wrong.
 */
#define DSQ_HEAD_SCAN	8

/* Create @nr queues of one class; to be called from init(). Returns 0 or -errno. */
static __always_inline s32 dsq_create(u64 class, u32 nr)
{
	u32 i;
	s32 err;

	bpf_for(i, 0, nr) {
		err = scx_bpf_create_dsq(class | i, DSQ_ANY_NODE);
		if (err) {
			policy_error("cannot create queue 0x%llx: error %d", class | i, err);
			return err;
		}
	}
	return 0;
}

/* Append @p to a queue in first-come order. */
static __always_inline void dsq_insert(struct task_struct *p, u64 dsq, u64 slice_ns,
				       u64 enq_flags)
{
	compat_dsq_insert(p, dsq, slice_ns, enq_flags);
}

/*
 * For select_cpu(): @p, which wakes, is to run on @cpu at once: it idles, or it is
 * the waker's, who is about to sleep. Where a real-time task is faster than @p on
 * a CPU that idles, @p is queued again, with enqueue(): from 7.1 on.
 */
static __always_inline void dsq_insert_at_once(struct task_struct *p, s32 cpu, u64 slice_ns)
{
	/* The idle task, whom an interrupt wakes here, has the pid 0. */
	bool idles = cpu != (s32)bpf_get_smp_processor_id() || !bpf_get_current_task_btf()->pid;

	compat_dsq_insert(p, SCX_DSQ_LOCAL, slice_ns, idles ? compat_enq_immed() : 0);
}

/* Insert @p into a queue ordered by virtual time. A queue in use has one kind of order. */
static __always_inline void dsq_insert_vtime(struct task_struct *p, u64 dsq, u64 slice_ns,
					     u64 vtime, u64 enq_flags)
{
	compat_dsq_insert_vtime(p, dsq, slice_ns, vtime, enq_flags);
}

/* Move the first task of @dsq that may run here to this CPU's local queue; false if none. */
static __always_inline bool dsq_move_to_local(u64 dsq)
{
	if (fault_sleeps_here())
		return false;
	return compat_dsq_move_to_local(dsq);
}

static __always_inline bool dsq_is_empty(u64 dsq)
{
	/* A queue that does not exist (negative) holds nothing either. */
	return scx_bpf_dsq_nr_queued(dsq) <= 0;
}

/* The first task of a queue that may run on a CPU. */
struct dsq_head {
	u64 vtime;		/* its virtual time */
	bool found;		/* there is one */
	bool others;		/* tasks wait that may not run there */
};

/*
 * The head of @dsq for @cpu; none is found if none of the first DSQ_HEAD_SCAN
 * may run there. A hint: without the queue's lock, another CPU may take the task
 * at any moment.
 */
static __always_inline struct dsq_head dsq_head(u64 dsq, s32 cpu)
{
	struct dsq_head head = {};
	struct task_struct *p;
	int scanned = 0;

	bpf_for_each(scx_dsq, p, dsq, 0) {
		if (bpf_cpumask_test_cpu(cpu, p->cpus_ptr)) {
			head.vtime = p->scx.dsq_vtime;
			head.found = true;
			break;
		}
		head.others = true;
		if (++scanned == DSQ_HEAD_SCAN)
			break;
	}
	return head;
}

/*
 * Take one task from the queue of another LLC for a CPU of @llc that would
 * idle: the LLCs of its own node first, then the rest, each in turn from its
 * neighbour on, so that thieves spread. Two passes over nr_llcs queues; an
 * empty queue costs a look without its lock.
 */
static __always_inline bool dsq_steal_llc(u32 llc)
{
	u32 node = llc_node(llc);
	u32 i, far;

	bpf_for(far, 0, nr_nodes > 1 ? 2 : 1) {
		bpf_for(i, 1, nr_llcs) {
			u32 victim = llc + i;

			if (victim >= nr_llcs)
				victim -= nr_llcs;
			if ((llc_node(victim) != node) == far &&
			    dsq_move_to_local(DSQ_LLC | victim))
				return true;
		}
	}
	return false;
}

#endif /* __ROTA_DSQ_BPF_H */
