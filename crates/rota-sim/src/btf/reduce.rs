// SPDX-License-Identifier: GPL-2.0-only
//! Cuts a kernel's BTF down to what sched_ext policies can ask for: from
//! megabytes to what can stand in a repository.

use std::collections::HashMap;

use super::types::{Composite, Func, Member, Param, Type, TypeId};
use super::{Btf, BtfError, Kind, MAX_ANONYMOUS, MAX_DEPTH};

/// The structs that are kept, and which of their members; `&[]` for all. Every
/// other struct is kept where it is a member of one of these, and becomes a
/// forward declaration where it is pointed to.
const STRUCTS: &[(&str, &[&str])] = &[
    ("task_struct", TASK_MEMBERS),
    ("sched_entity", ENTITY_MEMBERS),
    ("rq", RQ_MEMBERS),
    ("sched_ext_entity", &[]),
    ("thread_info", &[]),
    ("sched_ext_ops", &[]),
    ("scx_exit_info", &[]),
    ("scx_init_task_args", &[]),
    ("scx_exit_task_args", &[]),
    ("scx_enable_args", &[]),
    ("scx_cgroup_init_args", &[]),
    ("scx_cpu_acquire_args", &[]),
    ("scx_cpu_release_args", &[]),
    ("scx_dump_ctx", &[]),
    ("scx_event_stats", &[]),
    ("scx_bpf_dsq_insert_vtime_args", &[]),
    ("scx_bpf_select_cpu_and_args", &[]),
    ("cpumask", &[]),
    ("bpf_cpumask", &[]),
    ("bpf_timer", &[]),
    ("bpf_spin_lock", &[]),
    ("bpf_iter_num", &[]),
    ("bpf_iter_bits", &[]),
    ("bpf_iter_scx_dsq", &[]),
];

const TASK_MEMBERS: &[&str] = &[
    "thread_info",
    "__state",
    "flags",
    "on_cpu",
    "on_rq",
    "wake_cpu",
    "recent_used_cpu",
    "prio",
    "static_prio",
    "normal_prio",
    "rt_priority",
    "se",
    "scx",
    "policy",
    "nr_cpus_allowed",
    "cpus_ptr",
    "cpus_mask",
    "migration_disabled",
    "mm",
    "exit_state",
    "pid",
    "tgid",
    "real_parent",
    "parent",
    "group_leader",
    "utime",
    "stime",
    "nvcsw",
    "nivcsw",
    "start_time",
    "comm",
];

const ENTITY_MEMBERS: &[&str] = &[
    "load",
    "on_rq",
    "exec_start",
    "sum_exec_runtime",
    "prev_sum_exec_runtime",
    "vruntime",
    "nr_migrations",
];

const RQ_MEMBERS: &[&str] = &["nr_running", "curr", "idle", "clock", "clock_task", "cpu"];

/// Cut `kernel` down.
///
/// # Errors
/// If it has no `struct task_struct` or no sched_ext.
pub fn reduce(kernel: &Btf) -> Result<Btf, BtfError> {
    let mut reducer = Reducer {
        kernel,
        types: vec![Type::Void],
        whole: HashMap::new(),
        behind: HashMap::new(),
    };
    for (name, _) in STRUCTS {
        if let Some(id) = kernel.find(name, Kind::Struct) {
            reducer.copy(id, MAX_DEPTH);
        }
    }
    for name in ["task_struct", "sched_ext_ops"] {
        if kernel.find_struct(name).is_none() {
            return Err(BtfError::Missing(format!("struct {name}")));
        }
    }
    for (id, ty) in kernel.iter() {
        if is_sched_ext_enum(ty) {
            reducer.copy(id, MAX_DEPTH);
        }
    }
    for id in kfuncs(kernel) {
        reducer.copy(id, MAX_DEPTH);
    }
    Ok(Btf::new(reducer.types, Vec::new()))
}

/// An enum of sched_ext's: by its name or that of its values.
fn is_sched_ext_enum(ty: &Type) -> bool {
    match ty {
        Type::Enum(value) => {
            value.name.starts_with("scx_")
                || value
                    .values
                    .iter()
                    .any(|(name, _)| name.starts_with("SCX_"))
        }
        _ => false,
    }
}

/// The functions that programs may call. By name alone: only a new pahole tags
/// them, and Debian's 7.1 and 7.2 have lost tags. What is too much is small.
fn kfuncs(kernel: &Btf) -> Vec<TypeId> {
    let functions = kernel.iter().filter_map(|(id, ty)| match ty {
        Type::Func(func) if is_kfunc(&func.name) => Some(id),
        _ => None,
    });
    functions.collect()
}

fn is_sched_ext_kfunc(name: &str) -> bool {
    ["scx_bpf_", "__scx_bpf_", "bpf_iter_scx_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// A kfunc that struct_ops programs can call; the rest is the network's, HID's, ...
fn is_kfunc(name: &str) -> bool {
    is_sched_ext_kfunc(name)
        || [
            "bpf_cpumask_",
            "bpf_iter_num_",
            "bpf_iter_bits_",
            "bpf_iter_task_",
            "bpf_iter_css_",
            "bpf_rcu_",
            "bpf_preempt_",
            "bpf_local_irq_",
            "bpf_task_",
            "bpf_cgroup_",
            "bpf_obj_",
            "bpf_percpu_obj_",
            "bpf_refcount_",
            "bpf_list_",
            "bpf_rbtree_",
            "bpf_throw",
            "bpf_rdonly_cast",
            "bpf_cast_to_kern_ctx",
            "bpf_get_cgroup",
            "bpf_res_spin_",
            "bpf_arena_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

struct Reducer<'a> {
    kernel: &'a Btf,
    types: Vec<Type>,
    /// Numbers of what was copied.
    whole: HashMap<TypeId, TypeId>,
    /// Numbers of what stands for structs that are only pointed to.
    behind: HashMap<TypeId, TypeId>,
}

impl Reducer<'_> {
    fn push(&mut self, ty: Type) -> TypeId {
        self.types.push(ty);
        TypeId(self.types.len() as u32 - 1)
    }

    /// Copy a type with all that it consists of. Void if it nests too deep.
    fn copy(&mut self, id: TypeId, depth: usize) -> TypeId {
        if let Some(done) = self.whole.get(&id) {
            return *done;
        }
        let (Some(ty), Some(depth)) = (self.kernel.get(id), depth.checked_sub(1)) else {
            return TypeId(0);
        };
        if matches!(ty, Type::Void) {
            return TypeId(0);
        }
        // Its number is known before its parts are, which may lead back to it.
        let place = self.push(Type::Void);
        self.whole.insert(id, place);
        let copy = match ty.clone() {
            Type::Ptr(to) => Type::Ptr(self.behind(to, depth)),
            Type::Array { element, index, nr } => Type::Array {
                element: self.copy(element, depth),
                index: self.copy(index, depth),
                nr,
            },
            Type::Composite(composite) => Type::Composite(self.composite(composite, depth)),
            Type::Typedef { name, ty } => Type::Typedef {
                name,
                ty: self.copy(ty, depth),
            },
            Type::TypeTag { name, ty } => Type::TypeTag {
                name,
                ty: self.copy(ty, depth),
            },
            Type::Volatile(ty) => Type::Volatile(self.copy(ty, depth)),
            Type::Const(ty) => Type::Const(self.copy(ty, depth)),
            Type::Restrict(ty) => Type::Restrict(self.copy(ty, depth)),
            Type::Func(func) => Type::Func(Func {
                prototype: self.copy(func.prototype, depth),
                ..func
            }),
            Type::FuncProto { result, params } => Type::FuncProto {
                result: self.copy(result, depth),
                params: self.params(params, depth),
            },
            other => other,
        };
        self.types[place.0 as usize] = copy;
        place
    }

    fn params(&mut self, params: Vec<Param>, depth: usize) -> Vec<Param> {
        let copy = |param: Param| Param {
            ty: self.copy(param.ty, depth),
            ..param
        };
        params.into_iter().map(copy).collect()
    }

    fn composite(&mut self, composite: Composite, depth: usize) -> Composite {
        let wanted = STRUCTS
            .iter()
            .find(|(name, _)| !composite.union && *name == &*composite.name)
            .map_or(&[] as &[&str], |(_, members)| members);
        let mut members = Vec::new();
        for member in composite.members {
            if self.is_wanted(&member, wanted) {
                let ty = self.copy(member.ty, depth);
                members.push(Member { ty, ..member });
            }
        }
        Composite {
            members,
            ..composite
        }
    }

    /// A member that is asked for, or an anonymous one that has such a member.
    fn is_wanted(&self, member: &Member, wanted: &[&str]) -> bool {
        let within = |name: &&str| self.kernel.member(member.ty, name, MAX_ANONYMOUS).is_some();
        wanted.is_empty()
            || wanted.contains(&&*member.name)
            || member.name.is_empty() && wanted.iter().any(within)
    }

    /// What a pointer points to.
    fn behind(&mut self, id: TypeId, depth: usize) -> TypeId {
        let (Some(ty), Some(depth)) = (self.kernel.get(id), depth.checked_sub(1)) else {
            return TypeId(0);
        };
        match ty {
            Type::Composite(composite) if composite.name.is_empty() => TypeId(0),
            Type::Composite(composite) if !is_kept(composite) => {
                if let Some(done) = self.behind.get(&id) {
                    return *done;
                }
                let empty = self.push(Type::Composite(Composite {
                    members: Vec::new(),
                    ..composite.clone()
                }));
                self.behind.insert(id, empty);
                empty
            }
            Type::Const(to) => {
                let to = self.behind(*to, depth);
                self.modified(id, Type::Const(to))
            }
            Type::Volatile(to) => {
                let to = self.behind(*to, depth);
                self.modified(id, Type::Volatile(to))
            }
            Type::TypeTag { name, ty } => {
                let (name, ty) = (name.clone(), *ty);
                let ty = self.behind(ty, depth);
                self.modified(id, Type::TypeTag { name, ty })
            }
            _ => self.copy(id, depth),
        }
    }

    /// The modifier `ty` of something that is pointed to, once.
    fn modified(&mut self, id: TypeId, ty: Type) -> TypeId {
        if let Some(done) = self.behind.get(&id) {
            return *done;
        }
        let copy = self.push(ty);
        self.behind.insert(id, copy);
        copy
    }
}

fn is_kept(composite: &Composite) -> bool {
    !composite.union && STRUCTS.iter().any(|(name, _)| *name == &*composite.name)
}
