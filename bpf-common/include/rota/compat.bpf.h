/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels of the matrix, and nothing else: one small
 * function for each difference, headed by the version that made it and the
 * version of the support floor after which it can go.
 *
 * libbpf resolves `name___flavour` against the kernel symbol `name` (it cuts
 * at the last `___`) and checks the prototype. A weak flavour that does not
 * exist, or not with this prototype, resolves to 0; bpf_ksym_exists() is then
 * constant to the verifier, which drops the branch.
 */
#ifndef __ROTA_COMPAT_BPF_H
#define __ROTA_COMPAT_BPF_H

#include <rota/kfuncs.bpf.h>
#include <bpf/bpf_core_read.h>

/* 6.13 renamed dispatch to dsq_insert, 6.17 dropped the old name. Until 6.16. */
void scx_bpf_dsq_insert___new(struct task_struct *p, u64 dsq_id, u64 slice,
			      u64 enq_flags) __ksym __weak;
void scx_bpf_dispatch___old(struct task_struct *p, u64 dsq_id, u64 slice,
			    u64 enq_flags) __ksym __weak;

static __always_inline void compat_dsq_insert(struct task_struct *p, u64 dsq_id,
					      u64 slice_ns, u64 enq_flags)
{
	if (bpf_ksym_exists(scx_bpf_dsq_insert___new))
		scx_bpf_dsq_insert___new(p, dsq_id, slice_ns, enq_flags);
	else
		scx_bpf_dispatch___old(p, dsq_id, slice_ns, enq_flags);
}

/* 6.13 renamed dispatch_vtime to dsq_insert_vtime, 6.17 dropped the old name. Until 6.16. */
void scx_bpf_dsq_insert_vtime___new(struct task_struct *p, u64 dsq_id, u64 slice,
				    u64 vtime, u64 enq_flags) __ksym __weak;
void scx_bpf_dispatch_vtime___old(struct task_struct *p, u64 dsq_id, u64 slice,
				  u64 vtime, u64 enq_flags) __ksym __weak;

static __always_inline void compat_dsq_insert_vtime(struct task_struct *p, u64 dsq_id,
						    u64 slice_ns, u64 vtime, u64 enq_flags)
{
	if (bpf_ksym_exists(scx_bpf_dsq_insert_vtime___new))
		scx_bpf_dsq_insert_vtime___new(p, dsq_id, slice_ns, vtime, enq_flags);
	else
		scx_bpf_dispatch_vtime___old(p, dsq_id, slice_ns, vtime, enq_flags);
}

/* 6.13 renamed consume to dsq_move_to_local, 6.17 dropped the old name. Until 6.16. */
bool scx_bpf_dsq_move_to_local___new(u64 dsq_id) __ksym __weak;
bool scx_bpf_consume___old(u64 dsq_id) __ksym __weak;

static __always_inline bool compat_dsq_move_to_local(u64 dsq_id)
{
	if (bpf_ksym_exists(scx_bpf_dsq_move_to_local___new))
		return scx_bpf_dsq_move_to_local___new(dsq_id);
	return scx_bpf_consume___old(dsq_id);
}

/*
 * 6.13 renamed dispatch_from_dsq to dsq_move, 6.17 dropped the old names. @it is
 * the iterator that is at @p, BPF_FOR_EACH_ITER inside bpf_for_each(). Until 6.16.
 */
bool scx_bpf_dsq_move_vtime___new(struct bpf_iter_scx_dsq *it__iter, struct task_struct *p,
				  u64 dsq_id, u64 enq_flags) __ksym __weak;
void scx_bpf_dsq_move_set_vtime___new(struct bpf_iter_scx_dsq *it__iter, u64 vtime) __ksym __weak;
bool scx_bpf_dispatch_vtime_from_dsq___old(struct bpf_iter_scx_dsq *it__iter,
					   struct task_struct *p, u64 dsq_id,
					   u64 enq_flags) __ksym __weak;
void scx_bpf_dispatch_from_dsq_set_vtime___old(struct bpf_iter_scx_dsq *it__iter,
					       u64 vtime) __ksym __weak;

#define BPF_FOR_EACH_ITER (&___it)

static __always_inline bool compat_dsq_move_vtime(struct bpf_iter_scx_dsq *it,
						  struct task_struct *p, u64 dsq_id, u64 vtime)
{
	if (bpf_ksym_exists(scx_bpf_dsq_move_vtime___new)) {
		scx_bpf_dsq_move_set_vtime___new(it, vtime);
		return scx_bpf_dsq_move_vtime___new(it, p, dsq_id, 0);
	}
	scx_bpf_dispatch_from_dsq_set_vtime___old(it, vtime);
	return scx_bpf_dispatch_vtime_from_dsq___old(it, p, dsq_id, 0);
}

/*
 * 6.19 brought a kfunc for the slice; 7.1 and 7.2 warn once about the direct
 * write that older kernels need. Until 6.19.
 */
bool scx_bpf_task_set_slice___new(struct task_struct *p, u64 slice) __ksym __weak;

static __always_inline void compat_task_set_slice(struct task_struct *p, u64 slice_ns)
{
	if (bpf_ksym_exists(scx_bpf_task_set_slice___new))
		scx_bpf_task_set_slice___new(p, slice_ns);
	else
		p->scx.slice = slice_ns;
}

/* 6.19 brought a kfunc for the virtual time; see compat_task_set_slice(). Until 6.19. */
bool scx_bpf_task_set_dsq_vtime___new(struct task_struct *p, u64 vtime) __ksym __weak;

static __always_inline void compat_task_set_dsq_vtime(struct task_struct *p, u64 vtime)
{
	if (bpf_ksym_exists(scx_bpf_task_set_dsq_vtime___new))
		scx_bpf_task_set_dsq_vtime___new(p, vtime);
	else
		p->scx.dsq_vtime = vtime;
}

/*
 * 7.1 brought SCX_ENQ_IMMED: a task put into the local queue of a CPU that turns
 * out to have no time for it at once is queued again. An older kernel lets it
 * wait there, for a real-time task that was faster too; its cpu_release() tells
 * of those that drive a task off, not of those that come while the CPU idles.
 * Until 7.1.
 */
static __always_inline u64 compat_enq_immed(void)
{
	if (bpf_core_enum_value_exists(enum scx_enq_flags, SCX_ENQ_IMMED))
		return bpf_core_enum_value(enum scx_enq_flags, SCX_ENQ_IMMED);
	return 0;
}

/*
 * 6.15 brought SCX_ENQ_CPU_SELECTED, 6.19 moved it. True when select_cpu() ran
 * for this wake-up, and so no idle CPU was left for the task a moment ago. A
 * kernel without the flag calls select_cpu() on every wake-up of a task that
 * can choose, which is what a policy asks about. Until 6.16.
 */
static __always_inline bool compat_cpu_selected(u64 enq_flags)
{
	if (bpf_core_enum_value_exists(enum scx_enq_flags, SCX_ENQ_CPU_SELECTED))
		return enq_flags & bpf_core_enum_value(enum scx_enq_flags, SCX_ENQ_CPU_SELECTED);
	return enq_flags & SCX_ENQ_WAKEUP;
}

/* 7.2 added the CPU of the error to the exit record; -1 where it is not known. Until 7.2. */
static __always_inline s32 compat_exit_cpu(const struct scx_exit_info *info)
{
	if (bpf_core_field_exists(info->exit_cpu))
		return info->exit_cpu;
	return -1;
}

#endif /* __ROTA_COMPAT_BPF_H */
