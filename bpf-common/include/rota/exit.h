/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The record a policy leaves behind when it ends, read by user space.
 */
#ifndef __ROTA_EXIT_H
#define __ROTA_EXIT_H

#include <rota/types.h>

/* The kernel's own limits (SCX_EXIT_MSG_LEN and the longest reason, 6.12 to 7.3). */
#define EXIT_REASON_LEN		128
#define EXIT_MESSAGE_LEN	1024

struct exit_record {
	s64 code;		/* low 32 bits the policy's own, above them the kernel's */
	s32 cpu;		/* where the error was raised, -1 if the kernel does not say */
	u32 kind;		/* enum scx_exit_kind; 0 while the policy runs, written last */
	char reason[EXIT_REASON_LEN];
	char message[EXIT_MESSAGE_LEN];
};

#endif /* __ROTA_EXIT_H */
