/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel types Rota's policies touch, and no others.
 *
 * Everything inside the attribute region below is relocated by CO-RE at load
 * time: libbpf matches a struct and its members *by name* against the running
 * kernel's BTF, so order, size and the members left out do not matter. One
 * object therefore loads on 6.12 to 7.3. The kind of a member has to match
 * (an enum is not an int), and a pointer needs a real struct behind it, or
 * libbpf leaves a weak kfunc that takes it unresolved without a word.
 */
#ifndef __ROTA_VMLINUX_H
#define __ROTA_VMLINUX_H

#include <rota/types.h>

/* Network byte order types: bpf_helper_defs.h names them, no policy uses them. */
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum bpf_map_type {
	BPF_MAP_TYPE_ARRAY	= 2,
	BPF_MAP_TYPE_RINGBUF	= 27,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct cpumask {
	unsigned long bits[1];
};

struct bpf_cpumask {
	struct cpumask cpumask;
};

struct bpf_iter_num {
	__u64 __opaque[1];
} __attribute__((aligned(8)));

struct bpf_iter_scx_dsq {
	__u64 __opaque[6];
} __attribute__((aligned(8)));

struct thread_info {
	u32 cpu;
};

struct sched_entity {
	u64 sum_exec_runtime;
};

struct sched_ext_entity {
	u64 slice;
	u64 dsq_vtime;
	u32 weight;
	u32 flags;
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	unsigned short migration_disabled;
	int nr_cpus_allowed;
	const struct cpumask *cpus_ptr;
	struct sched_entity se;
	struct sched_ext_entity scx;
	int pid;
	char comm[16];
};

enum scx_exit_kind {
	SCX_EXIT_NONE,
};

struct scx_exit_info {
	enum scx_exit_kind kind;
	s32 exit_cpu;		/* since 7.2 */
	s64 exit_code;
	const char *reason;
	char *msg;
	char *dump;
};

struct scx_init_task_args {
	bool fork;
};

struct scx_exit_task_args {
	bool cancelled;
};

/*
 * libbpf copies each member that is set here into the kernel's own table, by
 * name; a member that the running kernel lacks has to be NULL by then.
 */
struct sched_ext_ops {
	s32 (*select_cpu)(struct task_struct *p, s32 prev_cpu, u64 wake_flags);
	void (*enqueue)(struct task_struct *p, u64 enq_flags);
	void (*dequeue)(struct task_struct *p, u64 deq_flags);
	void (*dispatch)(s32 cpu, struct task_struct *prev);
	void (*tick)(struct task_struct *p);
	void (*runnable)(struct task_struct *p, u64 enq_flags);
	void (*running)(struct task_struct *p);
	void (*stopping)(struct task_struct *p, bool runnable);
	void (*quiescent)(struct task_struct *p, u64 deq_flags);
	void (*set_weight)(struct task_struct *p, u32 weight);
	void (*update_idle)(s32 cpu, bool idle);
	s32 (*init_task)(struct task_struct *p, struct scx_init_task_args *args);
	void (*exit_task)(struct task_struct *p, struct scx_exit_task_args *args);
	void (*enable)(struct task_struct *p);
	void (*disable)(struct task_struct *p);
	s32 (*init)(void);
	void (*exit)(struct scx_exit_info *info);
	u64 flags;
	u32 timeout_ms;
	u32 exit_dump_len;
	u64 hotplug_seq;
	char name[128];
};

#pragma clang attribute pop

/*
 * Enumerators below are asked of the running kernel by name
 * (bpf_core_enum_value): the numbers here are never used. They moved or
 * appeared between 6.12 and 7.3.
 */
enum scx_enq_flags {
	SCX_ENQ_CPU_SELECTED = 1,
	SCX_ENQ_IMMED = 2,
};

/* These have had one value since 6.12. */
#define SCX_ENQ_WAKEUP		1ULL
#define SCX_ENQ_PREEMPT		(1ULL << 32)
#define SCX_WAKE_FORK		4ULL
#define SCX_WAKE_SYNC		0x10ULL
#define SCX_KICK_IDLE		1ULL
#define SCX_KICK_PREEMPT	2ULL
#define SCX_PICK_IDLE_CORE	1ULL
#define SCX_OPS_KEEP_BUILTIN_IDLE 1ULL
#define SCX_TASK_QUEUED		1
#define SCX_DSQ_LOCAL		0x8000000000000002ULL
#define SCX_DSQ_LOCAL_ON	0xc000000000000000ULL

#define PF_EXITING		0x00000004
#define PF_KTHREAD		0x00200000

#define ENOENT			2
#define ENOMEM			12

#endif /* __ROTA_VMLINUX_H */
