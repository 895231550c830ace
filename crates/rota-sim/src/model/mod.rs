// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's sched_ext core as a discrete-event model.
