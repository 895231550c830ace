// SPDX-License-Identifier: GPL-2.0-only
//! The machine that is simulated.
