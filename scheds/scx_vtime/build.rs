// SPDX-License-Identifier: GPL-2.0-only
//! Builds the BPF side of scx_vtime.
fn main() {
    rota_build::policy("vtime");
}
