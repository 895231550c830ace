// SPDX-License-Identifier: GPL-2.0-only
//! The tasks that are simulated.
