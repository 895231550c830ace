/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a policy remembers about tasks: hints, in a table that may forget. The
 * policy defines the row, beginning with the pid, before it includes this:
 *
 *	struct task_memo {
 *		u32 pid;
 *		u16 last_choice;
 *	};
 *
 * A task has the row that its pid is hashed to. Two tasks with the same row make
 * each other forget, and a new task may find what an old one of its pid has left:
 * no decision may depend on a memo for more than its quality. In return a look
 * costs a multiplication; nothing is allocated, and nothing can fail.
 */
#ifndef __ROTA_TASK_MEMO_BPF_H
#define __ROTA_TASK_MEMO_BPF_H

#include <rota/vmlinux.h>

#define TASK_MEMO_BITS	13

static struct task_memo task_memos[1 << TASK_MEMO_BITS];

/* The memo of @p: of zeros, if it was forgotten. */
static __always_inline struct task_memo *task_memo(const struct task_struct *p)
{
	/* Fibonacci hashing: 2^32 / golden ratio spreads pids in a row over cache lines. */
	u32 row = (u32)p->pid * 2654435769U >> (32 - TASK_MEMO_BITS);
	struct task_memo *memo = &task_memos[row];

	if (memo->pid != (u32)p->pid)
		*memo = (struct task_memo){ .pid = p->pid };
	return memo;
}

#endif /* __ROTA_TASK_MEMO_BPF_H */
