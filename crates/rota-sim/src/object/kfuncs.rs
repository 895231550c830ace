// SPDX-License-Identifier: GPL-2.0-only
//! Kfuncs: the kernel's by name, and whether their prototypes agree.

use super::Reason;
use crate::btf::{Btf, Kind, Type, TypeId, without_flavour};
use crate::kernel_api;
use crate::vm::KfuncRef;

/// How deep types are compared, as libbpf's limit.
const MAX_DEPTH: usize = 32;

/// Find the kernel's function that the object's function `local`, called `name`,
/// stands for.
///
/// # Errors
/// If the kernel has none of that name or one of another prototype.
pub(super) fn resolve(
    btf: &Btf,
    local: TypeId,
    name: &str,
    kernel: &Btf,
) -> Result<KfuncRef, Reason> {
    let name = without_flavour(name);
    let missing = || Reason::MissingKfunc(name.into());
    let theirs = kernel.find(name, Kind::Func).ok_or_else(missing)?;
    let prototype = |btf: &Btf, id| match btf.get(id) {
        Some(Type::Func(func)) => Some(func.prototype),
        _ => None,
    };
    let ours = prototype(btf, local).ok_or_else(missing)?;
    let prototype = prototype(kernel, theirs).ok_or_else(missing)?;
    if !is_compatible(btf, ours, kernel, prototype) {
        return Err(Reason::KfuncPrototype {
            name: name.into(),
            damaged: is_damaged(kernel, name, prototype),
        });
    }
    Ok(KfuncRef {
        name: name.into(),
        number: kernel_api::number(name),
    })
}

/// Whether the kernel's prototype has the argument that only the kernel sees,
/// and there is no form with it beside one without.
fn is_damaged(kernel: &Btf, name: &str, prototype: TypeId) -> bool {
    let takes_aux = || {
        let (_, params) = kernel.prototype(prototype)?;
        let (_, pointer) = kernel.resolve(params.last()?.ty)?;
        let Type::Ptr(to) = pointer else { return None };
        Some(kernel.resolve(*to)?.1.name() == "bpf_prog_aux")
    };
    let twin = kernel.find(&format!("{name}_impl"), Kind::Func);
    twin.is_none() && takes_aux().unwrap_or(false)
}

/// Whether two types agree as libbpf's `bpf_core_types_are_compat()` has it:
/// kinds have to, down to what is pointed to; names and the sizes of integers
/// do not, nor what is inside of structs.
pub(super) fn is_compatible(btf: &Btf, ours: TypeId, kernel: &Btf, theirs: TypeId) -> bool {
    compare(btf, ours, kernel, theirs, MAX_DEPTH).unwrap_or(false)
}

fn compare(btf: &Btf, ours: TypeId, kernel: &Btf, theirs: TypeId, depth: usize) -> Option<bool> {
    let depth = depth.checked_sub(1)?;
    let (_, ours) = btf.resolve(ours)?;
    let (_, theirs) = kernel.resolve(theirs)?;
    match (ours, theirs) {
        (Type::Ptr(ours), Type::Ptr(theirs)) => compare(btf, *ours, kernel, *theirs, depth),
        (
            Type::Array { element: ours, .. },
            Type::Array {
                element: theirs, ..
            },
        ) => compare(btf, *ours, kernel, *theirs, depth),
        (
            Type::FuncProto {
                result: our_result,
                params: our_params,
            },
            Type::FuncProto { result, params },
        ) => {
            if our_params.len() != params.len() {
                return Some(false);
            }
            for (ours, theirs) in our_params.iter().zip(params) {
                if !compare(btf, ours.ty, kernel, theirs.ty, depth)? {
                    return Some(false);
                }
            }
            compare(btf, *our_result, kernel, *result, depth)
        }
        (Type::Enum(_), Type::Enum(_)) => Some(true),
        (ours, theirs) => {
            let compared = matches!(
                ours.kind(),
                Kind::Void | Kind::Struct | Kind::Union | Kind::Fwd | Kind::Int
            );
            Some(compared && ours.kind() == theirs.kind())
        }
    }
}
