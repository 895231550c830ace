/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a policy declares its callbacks and its table of them.
 *
 *	OP(void, vtime, enqueue, struct task_struct *p, u64 enq_flags)
 *	{
 *		...
 *	}
 *
 *	POLICY(vtime,
 *	       .enqueue = (void *)vtime_enqueue,
 *	       ...);
 *
 * OP() defines the program `vtime_enqueue`; OP_SLEEPABLE() one that may sleep,
 * which only init() needs to. Each starts with its fault knob (fault.bpf.h).
 */
#ifndef __ROTA_OPS_BPF_H
#define __ROTA_OPS_BPF_H

#include <rota/fault.bpf.h>
#include <rota/exit.bpf.h>
#include <bpf/bpf_tracing.h>

#define __OP(section, ret, policy, op, args...)					\
static __always_inline ret __##policy##_##op(unsigned long long *___ctx, ##args);	\
SEC(section) ret policy##_##op(unsigned long long *ctx)				\
{										\
	fault_error(#op);							\
	_Pragma("GCC diagnostic push")						\
	/* The context is an array of u64, whatever the arguments are. */	\
	_Pragma("GCC diagnostic ignored \"-Wint-conversion\"")			\
	return __##policy##_##op(___bpf_ctx_cast(args));			\
	_Pragma("GCC diagnostic pop")						\
}										\
static __always_inline ret __##policy##_##op(unsigned long long *___ctx, ##args)

#define OP(ret, policy, op, args...)						\
	__OP("struct_ops/" #policy "_" #op, ret, policy, op, ##args)

#define OP_SLEEPABLE(ret, policy, op, args...)					\
	__OP("struct_ops.s/" #policy "_" #op, ret, policy, op, ##args)

/*
 * The table of a policy's callbacks, `<policy>_ops`, with the exit record that
 * every policy keeps. Name, timeout and dump length are written by user space
 * before the load, as are the flags that come from options.
 */
#define POLICY(policy, members...)						\
USER_SIGNAL_DEFINE();								\
OP(void, policy, exit, struct scx_exit_info *info)				\
{										\
	exit_record_write(info);						\
}										\
SEC(".struct_ops.link")								\
struct sched_ext_ops policy##_ops = {						\
	.exit = (void *)policy##_exit,						\
	members									\
};										\
char _license[] SEC("license") = "GPL"

#endif /* __ROTA_OPS_BPF_H */
