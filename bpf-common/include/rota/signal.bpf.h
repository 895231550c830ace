/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Wakes user space: a ring buffer that carries a byte when there is something
 * to look at, so that the process sleeps in poll() instead of looking again and
 * again. An idle machine is not woken by its scheduler.
 */
#ifndef __ROTA_SIGNAL_BPF_H
#define __ROTA_SIGNAL_BPF_H

#include <rota/vmlinux.h>
#include <bpf/bpf_helpers.h>

struct user_signal {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
};

extern struct user_signal user_signal;

/* Part of POLICY(). */
#define USER_SIGNAL_DEFINE() struct user_signal user_signal SEC(".maps")

static __always_inline void signal_user(void)
{
	u8 byte = 1;

	/* When it is full user space is on its way already. */
	bpf_ringbuf_output(&user_signal, &byte, sizeof(byte), 0);
}

#endif /* __ROTA_SIGNAL_BPF_H */
