// SPDX-License-Identifier: GPL-2.0-only
//! Runs a sched_ext policy without a kernel: the very object that the policy
//! ships, in an interpreter, under a discrete-event model of the kernel's core.
//!
//! The lower half knows BPF and nothing about scheduling:
//!
//! - [`btf`] reads type information, of an object and of a kernel, and cuts a
//!   kernel's down to what policies ask for.
//! - [`object`] loads an object as libbpf does: relocations against a chosen
//!   kernel's BTF, kfunc prototypes compared, rodata set before the start.
//! - [`vm`] interprets it. Every access to memory is checked against the bounds
//!   of one object, and an execution can be stopped after any instruction.
//! - [`kernel_api`] is what a program can call: it decodes the arguments and
//!   asks the core for what concerns scheduling ([`kernel_api::CoreApi`]).
//!
//! The upper half knows scheduling and nothing about BPF: [`model`] is the core,
//! [`machine`] and [`workload`] what it runs on and what it runs, [`trace`] and
//! [`report`] what came of it. [`bpf`] is where the halves meet: the object as the
//! policy of a [`model::Sim`].
//!
//! What it is not: a verifier. A program that the kernel would refuse may run
//! here until it does something that has no meaning.
#![forbid(unsafe_code)]

pub mod bpf;
pub mod btf;
pub mod kernel_api;
pub mod machine;
pub mod model;
pub mod object;
#[cfg(feature = "properties")]
pub mod properties;
#[cfg(any(test, feature = "properties"))]
pub mod random;
pub mod report;
pub mod simulation;
pub mod sysfs;
pub mod trace;
pub mod vm;
pub mod workload;
