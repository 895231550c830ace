// SPDX-License-Identifier: GPL-2.0-only
//! The kfuncs that are simulated, by the names that kernels have had for them.

macro_rules! kfuncs {
    ($($id:ident: $($name:literal)|+,)*) => {
        /// A kfunc, whatever its name in the chosen kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u16)]
        pub(super) enum Kfunc {
            $($id,)*
        }

        /// All of them in the order of their numbers.
        const ALL: &[Kfunc] = &[$(Kfunc::$id,)*];

        /// Names with numbers.
        const NAMES: &[(&str, Kfunc)] = &[$($(($name, Kfunc::$id),)+)*];
    };
}

kfuncs! {
    IterNumNew: "bpf_iter_num_new",
    IterNumNext: "bpf_iter_num_next",
    IterNumDestroy: "bpf_iter_num_destroy",
    RcuReadLock: "bpf_rcu_read_lock",
    RcuReadUnlock: "bpf_rcu_read_unlock",
    PreemptDisable: "bpf_preempt_disable",
    PreemptEnable: "bpf_preempt_enable",
    TaskAcquire: "bpf_task_acquire",
    TaskRelease: "bpf_task_release",
    TaskFromPid: "bpf_task_from_pid",

    MaskCreate: "bpf_cpumask_create",
    MaskAcquire: "bpf_cpumask_acquire",
    MaskRelease: "bpf_cpumask_release",
    MaskFirst: "bpf_cpumask_first",
    MaskFirstZero: "bpf_cpumask_first_zero",
    MaskFirstAnd: "bpf_cpumask_first_and",
    MaskSetCpu: "bpf_cpumask_set_cpu",
    MaskClearCpu: "bpf_cpumask_clear_cpu",
    MaskTestCpu: "bpf_cpumask_test_cpu",
    MaskTestAndSetCpu: "bpf_cpumask_test_and_set_cpu",
    MaskTestAndClearCpu: "bpf_cpumask_test_and_clear_cpu",
    MaskSetAll: "bpf_cpumask_setall",
    MaskClear: "bpf_cpumask_clear",
    MaskAnd: "bpf_cpumask_and",
    MaskOr: "bpf_cpumask_or",
    MaskXor: "bpf_cpumask_xor",
    MaskCopy: "bpf_cpumask_copy",
    MaskPopulate: "bpf_cpumask_populate",
    MaskEqual: "bpf_cpumask_equal",
    MaskIntersects: "bpf_cpumask_intersects",
    MaskSubset: "bpf_cpumask_subset",
    MaskEmpty: "bpf_cpumask_empty",
    MaskFull: "bpf_cpumask_full",
    MaskWeight: "bpf_cpumask_weight",
    MaskAnyDistribute: "bpf_cpumask_any_distribute",
    MaskAnyAndDistribute: "bpf_cpumask_any_and_distribute",

    CreateDsq: "scx_bpf_create_dsq",
    DestroyDsq: "scx_bpf_destroy_dsq",
    DsqNrQueued: "scx_bpf_dsq_nr_queued",
    DsqPeek: "scx_bpf_dsq_peek",
    DsqInsert: "scx_bpf_dsq_insert" | "scx_bpf_dsq_insert___v2" | "scx_bpf_dispatch",
    DsqInsertVtime: "scx_bpf_dsq_insert_vtime" | "scx_bpf_dispatch_vtime",
    DsqInsertVtimeArgs: "__scx_bpf_dsq_insert_vtime",
    DsqMoveToLocal: "scx_bpf_dsq_move_to_local" | "scx_bpf_consume",
    DsqMoveToLocalFlags: "scx_bpf_dsq_move_to_local___v2",
    IterDsqNew: "bpf_iter_scx_dsq_new",
    IterDsqNext: "bpf_iter_scx_dsq_next",
    IterDsqDestroy: "bpf_iter_scx_dsq_destroy",
    DsqMoveSetSlice: "scx_bpf_dsq_move_set_slice" | "scx_bpf_dispatch_from_dsq_set_slice",
    DsqMoveSetVtime: "scx_bpf_dsq_move_set_vtime" | "scx_bpf_dispatch_from_dsq_set_vtime",
    DsqMove: "scx_bpf_dsq_move" | "scx_bpf_dispatch_from_dsq",
    DsqMoveVtime: "scx_bpf_dsq_move_vtime" | "scx_bpf_dispatch_vtime_from_dsq",
    DispatchNrSlots: "scx_bpf_dispatch_nr_slots",
    DispatchCancel: "scx_bpf_dispatch_cancel",
    ReenqueueLocal: "scx_bpf_reenqueue_local",
    ReenqueueLocalLater: "scx_bpf_reenqueue_local___v2",
    DsqReenq: "scx_bpf_dsq_reenq",
    KickCpu: "scx_bpf_kick_cpu",
    SelectCpuDfl: "scx_bpf_select_cpu_dfl",
    SelectCpuAnd: "scx_bpf_select_cpu_and",
    SelectCpuAndArgs: "__scx_bpf_select_cpu_and",
    GetIdleCpumask: "scx_bpf_get_idle_cpumask",
    GetIdleSmtmask: "scx_bpf_get_idle_smtmask",
    GetIdleCpumaskNode: "scx_bpf_get_idle_cpumask_node",
    GetIdleSmtmaskNode: "scx_bpf_get_idle_smtmask_node",
    GetPossibleCpumask: "scx_bpf_get_possible_cpumask",
    GetOnlineCpumask: "scx_bpf_get_online_cpumask",
    PutCpumask: "scx_bpf_put_cpumask" | "scx_bpf_put_idle_cpumask",
    TestAndClearCpuIdle: "scx_bpf_test_and_clear_cpu_idle",
    PickIdleCpu: "scx_bpf_pick_idle_cpu",
    PickIdleCpuNode: "scx_bpf_pick_idle_cpu_node",
    PickAnyCpu: "scx_bpf_pick_any_cpu",
    PickAnyCpuNode: "scx_bpf_pick_any_cpu_node",
    NrCpuIds: "scx_bpf_nr_cpu_ids",
    NrNodeIds: "scx_bpf_nr_node_ids",
    CpuNode: "scx_bpf_cpu_node",
    TaskCpu: "scx_bpf_task_cpu",
    TaskRunning: "scx_bpf_task_running",
    CpuCurr: "scx_bpf_cpu_curr",
    CpuperfCap: "scx_bpf_cpuperf_cap",
    CpuperfCur: "scx_bpf_cpuperf_cur",
    CpuperfSet: "scx_bpf_cpuperf_set",
    TaskSetSlice: "scx_bpf_task_set_slice",
    TaskSetDsqVtime: "scx_bpf_task_set_dsq_vtime",
    Now: "scx_bpf_now",
    Events: "scx_bpf_events",
    Error: "scx_bpf_error_bstr",
    Exit: "scx_bpf_exit_bstr",
    Dump: "scx_bpf_dump_bstr",
}

/// The number of the kfunc of that name; `None` if it is not simulated.
pub fn number(name: &str) -> Option<u16> {
    let found = NAMES.iter().find(|(other, _)| *other == name);
    found.map(|(_, kfunc)| *kfunc as u16)
}

/// The kfunc of a number.
pub(super) fn kfunc(number: u16) -> Kfunc {
    ALL[usize::from(number)]
}

/// Its first name, for messages.
pub(super) fn name(kfunc: Kfunc) -> &'static str {
    let found = NAMES.iter().find(|(_, other)| *other == kfunc);
    found.map_or("?", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btf::{self, Kind};

    /// Goal: no name is misspelt. Method: each is one of the three kernels'.
    #[test]
    fn every_name_is_that_of_some_kernel() {
        let kernels = btf::KERNELS.map(|(_, bytes)| btf::Btf::parse(bytes).unwrap());
        for (name, _) in NAMES {
            let known = kernels
                .iter()
                .any(|kernel| kernel.find(name, Kind::Func).is_some());
            assert!(known, "{name}");
        }
    }

    #[test]
    fn numbers_lead_back_to_their_kfunc() {
        for (name, id) in NAMES {
            assert_eq!(number(name).map(kfunc), Some(*id), "{name}");
        }
        assert_eq!(number("scx_bpf_task_cgroup"), None);
        assert_eq!(name(Kfunc::DsqInsert), "scx_bpf_dsq_insert");
    }
}
