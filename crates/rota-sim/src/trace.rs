// SPDX-License-Identifier: GPL-2.0-only
//! What happened, event by event.
