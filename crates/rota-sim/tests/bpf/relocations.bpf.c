/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Asks the kernel's types and symbols everything that can be asked, and calls
 * functions in every way. The test compares the answers with the BTF.
 */
#include <rota/vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct___other {
	char comm[16];
	/* The kernel's has 16 bits. */
	unsigned int migration_disabled;
	struct sched_ext_entity scx;
	int no_such_member;
	/* The kernel's is a number. */
	struct task_struct *pid;
};

struct no_such_struct {
	int member;
};

enum scx_enq_flags___other {
	SCX_ENQ_HEAD___other = 1,
	SCX_ENQ_NO_SUCH_FLAG = 2,
};

#pragma clang attribute pop

struct row {
	u32 number;
	u16 parts[4];
};

const volatile u32 reach;
const volatile struct row rows[3] = { [1] = { .number = 5, .parts = { 1, 2, 3, 4 } } };
u64 answers[32];
u64 sum = 100;
static u32 hidden = 7;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, u32);
	__type(value, u64);
} table SEC(".maps");

void scx_bpf_kick_cpu(s32 cpu, u64 flags) __ksym;
u32 scx_bpf_nr_cpu_ids(void) __ksym __weak;
void scx_bpf_no_such_kfunc(void) __ksym __weak;
/* Exists everywhere, but with two arguments. */
void scx_bpf_kick_cpu___one(s32 cpu) __ksym __weak;

static __noinline u32 hidden_add(u32 number)
{
	hidden += number;
	return hidden;
}

__noinline u64 shown_double(u64 number)
{
	return number * 2;
}

static long add(u64 index, void *context)
{
	sum += index;
	*(u64 *)context += 1;
	return 0;
}

static void ask_types(void)
{
	answers[0] = bpf_core_field_exists(struct task_struct, scx.slice);
	answers[1] = bpf_core_field_exists(struct task_struct___other, no_such_member);
	answers[2] = bpf_core_field_size(struct task_struct___other, comm);
	answers[3] = bpf_core_type_exists(struct task_struct___other);
	answers[4] = bpf_core_type_exists(struct no_such_struct);
	answers[5] = bpf_core_type_size(struct sched_ext_entity);
	answers[6] = bpf_core_enum_value_exists(enum scx_enq_flags___other, SCX_ENQ_HEAD___other);
	answers[7] = bpf_core_enum_value_exists(enum scx_enq_flags___other, SCX_ENQ_NO_SUCH_FLAG);
	answers[8] = bpf_core_enum_value(enum scx_enq_flags___other, SCX_ENQ_HEAD___other);
	answers[9] = bpf_core_field_offset(struct task_struct, scx.dsq_vtime);
	/* A member of another kind is none. */
	answers[10] = bpf_core_field_exists(struct task_struct___other, pid);
}

static void ask_symbols(void)
{
	answers[11] = !!bpf_ksym_exists(scx_bpf_nr_cpu_ids);
	answers[12] = !!bpf_ksym_exists(scx_bpf_no_such_kfunc);
	answers[13] = !!bpf_ksym_exists(scx_bpf_kick_cpu___one);
	if (bpf_ksym_exists(scx_bpf_no_such_kfunc))
		scx_bpf_no_such_kfunc();
}

SEC("struct_ops/probe_enqueue")
int probe_enqueue(unsigned long long *ctx)
{
	struct task_struct___other *p = (void *)ctx[0];
	u64 calls = 0, *value;
	u32 key = 2;

	ask_types();
	ask_symbols();
	answers[14] = p->scx.weight;
	answers[15] = p->migration_disabled;
	answers[16] = p->comm[1];
	answers[17] = hidden_add(3);
	answers[18] = shown_double(21);
	answers[19] = bpf_loop(4, add, &calls, 0);
	answers[20] = calls;
	answers[21] = sum;
	answers[22] = rows[1].parts[2] + rows[2].number;
	value = bpf_map_lookup_elem(&table, &key);
	if (value)
		answers[23] = *value;
	p->scx.slice = 77;
	if (reach == 1)
		answers[24] = p->no_such_member;
	if (reach == 2)
		scx_bpf_kick_cpu(1, 0);
	if (reach == 3)
		p->scx.weight = 1;
	return 0;
}

SEC(".struct_ops.link")
struct sched_ext_ops probe_ops = {
	.enqueue = (void *)probe_enqueue,
	.flags = 3,
	.timeout_ms = 5000,
	.name = "probe",
};

char _license[] SEC("license") = "GPL";
