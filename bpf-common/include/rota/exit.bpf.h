/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Keeps what the kernel says when it ends the policy, and wakes user space.
 */
#ifndef __ROTA_EXIT_BPF_H
#define __ROTA_EXIT_BPF_H

#include <rota/compat.bpf.h>
#include <rota/exit.h>
#include <rota/signal.bpf.h>

struct exit_record exit_record;

/*
 * The debug dump. User space sizes the section before the load; a policy that
 * is loaded without that keeps one byte.
 */
const volatile u32 exit_dump_len = 1;
char exit_dump[1] SEC(".data.exit_dump");

/* Keep @info, then tell user space. */
static __always_inline void exit_record_write(const struct scx_exit_info *info)
{
	bpf_probe_read_kernel_str(exit_record.reason, sizeof(exit_record.reason), info->reason);
	bpf_probe_read_kernel_str(exit_record.message, sizeof(exit_record.message), info->msg);
	bpf_probe_read_kernel_str(exit_dump, exit_dump_len, info->dump);
	exit_record.cpu = compat_exit_cpu(info);
	exit_record.code = info->exit_code;
	/* The release that makes "kind is set" mean "the rest is there". */
	__sync_fetch_and_or(&exit_record.kind, (u32)info->kind);
	signal_user();
}

#endif /* __ROTA_EXIT_BPF_H */
