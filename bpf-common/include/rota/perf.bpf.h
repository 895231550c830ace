/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Performance levels: how much of a CPU is used, and what to ask of it. Where
 * the machine's cpufreq governor is schedutil the kernel passes a request on;
 * elsewhere it has no effect.
 */
#ifndef __ROTA_PERF_BPF_H
#define __ROTA_PERF_BPF_H

#include <rota/kfuncs.bpf.h>
#include <rota/topology.bpf.h>

/* All that a CPU can give (SCX_CPUPERF_ONE). */
#define PERF_ONE	1024

/* The use of a CPU is looked at over no less than this. */
#define PERF_WINDOW_NS	2000000

struct perf_cpu {
	u64 since;		/* begin of the window */
	u64 busy_ns;		/* run time on this CPU up to then */
	u32 used;		/* 0..PERF_ONE; the last window counts half, and so on */
	u32 asked;		/* the last request */
} __attribute__((aligned(64)));

static struct perf_cpu perf_cpus[MAX_CPUS];

/* The part of @cpu that is used, 0..PERF_ONE, if all run time on it has been @busy_ns by @now. */
static __always_inline u32 perf_used(s32 cpu, u64 busy_ns, u64 now)
{
	struct perf_cpu *pc = &perf_cpus[(u32)cpu & (MAX_CPUS - 1)];
	u64 window = now - pc->since, busy = busy_ns - pc->busy_ns;

	if (window < PERF_WINDOW_NS)
		return pc->used;
	/* Run time is charged when it ends, so it may be more than fits into the window. */
	if (busy > window)
		busy = window;
	pc->used = (pc->used + busy * PERF_ONE / window) / 2;
	pc->since = now;
	pc->busy_ns = busy_ns;
	return pc->used;
}

/* Ask for @level, 0..PERF_ONE, of @cpu, which is this one; true if that is news. */
static __always_inline bool perf_ask(s32 cpu, u32 level)
{
	struct perf_cpu *pc = &perf_cpus[(u32)cpu & (MAX_CPUS - 1)];

	if (pc->asked == level)
		return false;
	pc->asked = level;
	scx_bpf_cpuperf_set(cpu, level < PERF_ONE ? level : PERF_ONE);
	return true;
}

#endif /* __ROTA_PERF_BPF_H */
