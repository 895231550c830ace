/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A policy for one CPU that lets one task go on each beat of its timer. It counts
 * the beats in two maps by turns, which it finds in a third.
 */
#include <rota/compat.bpf.h>

/* No policy has one, so <rota/vmlinux.h> has not either. */
#define BPF_MAP_TYPE_ARRAY_OF_MAPS 12

#define WAITING 0
#define ANY_NODE -1
#define CLOCK_MONOTONIC 1
#define BEAT_NS 1000000
/* Longer than a task of the test runs. */
#define SLICE_NS 20000000
#define COUNTED 1
#define NOT_THERE 2

/* As large as the kernel's. */
struct bpf_timer {
	u64 room[2];
} __attribute__((aligned(8)));

struct pulse {
	struct bpf_timer timer;
};

struct beats {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTED + 1);
	__type(key, u32);
	__type(value, u64);
} even SEC(".maps"), odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NOT_THERE + 1);
	__uint(key_size, sizeof(u32));
	__array(values, struct beats);
} parities SEC(".maps") = {
	.values = { &even, &odd },
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pulse);
} pulses SEC(".maps");

const volatile u32 nr_cpu_ids = 1;
u64 nr_beats;
u64 nr_not_there;
u64 nr_let_go;
/* Made as long as the test says. */
u64 beats_by_rest[1] SEC(".bss.beats_by_rest");

static void count_beat(u32 parity)
{
	u32 counted = COUNTED, not_there = NOT_THERE;
	void *map = bpf_map_lookup_elem(&parities, &parity);
	u64 *count = map ? bpf_map_lookup_elem(map, &counted) : NULL;

	if (count)
		*count += 1;
	if (!bpf_map_lookup_elem(&parities, &not_there))
		nr_not_there++;
}

static int beat(void *map, u32 *key, struct pulse *pulse)
{
	count_beat(nr_beats % 2);
	beats_by_rest[nr_beats % 3]++;
	nr_beats++;
	scx_bpf_kick_cpu(nr_cpu_ids - 1, 0);
	bpf_timer_start(&pulse->timer, BEAT_NS, 0);
	return 0;
}

SEC("struct_ops/timed_enqueue")
int timed_enqueue(unsigned long long *ctx)
{
	compat_dsq_insert((struct task_struct *)ctx[0], WAITING, SLICE_NS, ctx[1]);
	return 0;
}

SEC("struct_ops/timed_dispatch")
int timed_dispatch(unsigned long long *ctx)
{
	if (nr_let_go < nr_beats && compat_dsq_move_to_local(WAITING))
		nr_let_go = nr_beats;
	return 0;
}

SEC("struct_ops.s/timed_init")
int timed_init(unsigned long long *ctx)
{
	u32 first = 0;
	struct pulse *pulse = bpf_map_lookup_elem(&pulses, &first);

	if (!pulse)
		return -1;
	bpf_timer_init(&pulse->timer, &pulses, CLOCK_MONOTONIC);
	bpf_timer_set_callback(&pulse->timer, beat);
	bpf_timer_start(&pulse->timer, BEAT_NS, 0);
	return scx_bpf_create_dsq(WAITING, ANY_NODE);
}

SEC(".struct_ops.link")
struct sched_ext_ops timed_ops = {
	.enqueue = (void *)timed_enqueue,
	.dispatch = (void *)timed_dispatch,
	.init = (void *)timed_init,
	.name = "timed",
};

char _license[] SEC("license") = "GPL";
