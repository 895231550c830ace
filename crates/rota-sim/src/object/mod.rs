// SPDX-License-Identifier: GPL-2.0-only
//! Loads a policy's object.
