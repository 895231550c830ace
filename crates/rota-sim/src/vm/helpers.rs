// SPDX-License-Identifier: GPL-2.0-only
//! The helpers: what programs call by number.

use super::execution::Then;
use super::printf;
use super::program::Timer;
use super::{Cause, Held, Host, Kind, MAX_OBJECT_BYTES, MapKind, Memory, State};

const ENOENT: i64 = -2;
const E2BIG: i64 = -7;
const EFAULT: i64 = -14;
const EBUSY: i64 = -16;
const EINVAL: i64 = -22;

/// `BPF_MAX_LOOPS`.
const MAX_LOOPS: u64 = 8 * 1024 * 1024;
/// `BPF_F_TIMER_ABS`.
const TIMER_ABS: u64 = 1;
/// `BPF_LOCAL_STORAGE_GET_F_CREATE`.
const STORAGE_CREATE: u64 = 1;
/// The longest text that is formatted, as `MAX_BPRINTF_BUF`.
const MAX_TEXT: usize = 1024;
/// The longest string that is read from the kernel.
const MAX_STRING: usize = 4096;

/// What a call of a helper leads to.
pub(super) enum Flow {
    /// The program goes on with this in register 0.
    Value(u64),
    /// It waits for a lock, and makes the call again after that.
    Block(u64),
    /// It runs a callback.
    Callback {
        pc: usize,
        arguments: [u64; 5],
        then: Then,
    },
}

impl From<i64> for Flow {
    fn from(value: i64) -> Self {
        Flow::Value(value as u64)
    }
}

/// Names by number, from the kernel's `___BPF_FUNC_MAPPER`.
const NAMES: &str = "\
    unspec map_lookup_elem map_update_elem map_delete_elem probe_read ktime_get_ns trace_printk
    get_prandom_u32 get_smp_processor_id skb_store_bytes l3_csum_replace l4_csum_replace tail_call
    clone_redirect get_current_pid_tgid get_current_uid_gid get_current_comm get_cgroup_classid
    skb_vlan_push skb_vlan_pop skb_get_tunnel_key skb_set_tunnel_key perf_event_read redirect
    get_route_realm perf_event_output skb_load_bytes get_stackid csum_diff skb_get_tunnel_opt
    skb_set_tunnel_opt skb_change_proto skb_change_type skb_under_cgroup get_hash_recalc
    get_current_task probe_write_user current_task_under_cgroup skb_change_tail skb_pull_data
    csum_update set_hash_invalid get_numa_node_id skb_change_head xdp_adjust_head probe_read_str
    get_socket_cookie get_socket_uid set_hash setsockopt skb_adjust_room redirect_map
    sk_redirect_map sock_map_update xdp_adjust_meta perf_event_read_value perf_prog_read_value
    getsockopt override_return sock_ops_cb_flags_set msg_redirect_map msg_apply_bytes
    msg_cork_bytes msg_pull_data bind xdp_adjust_tail skb_get_xfrm_state get_stack
    skb_load_bytes_relative fib_lookup sock_hash_update msg_redirect_hash sk_redirect_hash
    lwt_push_encap lwt_seg6_store_bytes lwt_seg6_adjust_srh lwt_seg6_action rc_repeat rc_keydown
    skb_cgroup_id get_current_cgroup_id get_local_storage sk_select_reuseport
    skb_ancestor_cgroup_id sk_lookup_tcp sk_lookup_udp sk_release map_push_elem map_pop_elem
    map_peek_elem msg_push_data msg_pop_data rc_pointer_rel spin_lock spin_unlock sk_fullsock
    tcp_sock skb_ecn_set_ce get_listener_sock skc_lookup_tcp tcp_check_syncookie sysctl_get_name
    sysctl_get_current_value sysctl_get_new_value sysctl_set_new_value strtol strtoul
    sk_storage_get sk_storage_delete send_signal tcp_gen_syncookie skb_output probe_read_user
    probe_read_kernel probe_read_user_str probe_read_kernel_str tcp_send_ack send_signal_thread
    jiffies64 read_branch_records get_ns_current_pid_tgid xdp_output get_netns_cookie
    get_current_ancestor_cgroup_id sk_assign ktime_get_boot_ns seq_printf seq_write sk_cgroup_id
    sk_ancestor_cgroup_id ringbuf_output ringbuf_reserve ringbuf_submit ringbuf_discard
    ringbuf_query csum_level skc_to_tcp6_sock skc_to_tcp_sock skc_to_tcp_timewait_sock
    skc_to_tcp_request_sock skc_to_udp6_sock get_task_stack load_hdr_opt store_hdr_opt
    reserve_hdr_opt inode_storage_get inode_storage_delete d_path copy_from_user snprintf_btf
    seq_printf_btf skb_cgroup_classid redirect_neigh per_cpu_ptr this_cpu_ptr redirect_peer
    task_storage_get task_storage_delete get_current_task_btf bprm_opts_set ktime_get_coarse_ns
    ima_inode_hash sock_from_file check_mtu for_each_map_elem snprintf sys_bpf
    btf_find_by_name_kind sys_close timer_init timer_set_callback timer_start timer_cancel
    get_func_ip get_attach_cookie task_pt_regs get_branch_snapshot trace_vprintk skc_to_unix_sock
    kallsyms_lookup_name find_vma loop strncmp get_func_arg get_func_ret get_func_arg_cnt
    get_retval set_retval xdp_get_buff_len xdp_load_bytes xdp_store_bytes copy_from_user_task
    skb_set_tstamp ima_file_hash kptr_xchg map_lookup_percpu_elem skc_to_mptcp_sock
    dynptr_from_mem ringbuf_reserve_dynptr ringbuf_submit_dynptr ringbuf_discard_dynptr
    dynptr_read dynptr_write dynptr_data tcp_raw_gen_syncookie_ipv4 tcp_raw_gen_syncookie_ipv6
    tcp_raw_check_syncookie_ipv4 tcp_raw_check_syncookie_ipv6 ktime_get_tai_ns user_ringbuf_drain
    cgrp_storage_get cgrp_storage_delete";

/// The name of a helper, without `bpf_`.
pub fn name(number: i64) -> &'static str {
    let index = usize::try_from(number).unwrap_or(usize::MAX);
    NAMES.split_whitespace().nth(index).unwrap_or("unknown")
}

/// Whether a helper is simulated.
pub(crate) fn is_supported(number: i64) -> bool {
    matches!(
        number,
        1..=8 | 35 | 42 | 45 | 87..=89 | 93 | 94 | 113 | 115 | 118 | 125
            | 130..=134 | 156..=158 | 160 | 164 | 165 | 169..=172 | 177 | 181 | 182
            | 194 | 195 | 208
    )
}

/// Call the helper of that number.
pub(super) fn call<H: Host>(
    number: i64,
    state: &mut State,
    held: &mut Held,
    host: &mut H,
    args: [u64; 5],
) -> Result<Flow, Cause> {
    let value = match number {
        5 | 125 | 160 | 208 => host.ktime_ns(),
        8 => u64::from(host.cpu()),
        7 => u64::from(host.random()),
        // One node: which CPUs are near each other is the core's to know.
        42 => 0,
        35 | 158 => host.current(&mut state.memory),
        118 => host.jiffies(),
        1..=3 | 87..=89 | 195 => return map(number, state, host.cpu(), args),
        4 | 45 | 113 | 115 | 182 => return text(number, &mut state.memory, args),
        6 | 165 | 177 => return print(number, &mut state.memory, args),
        130..=134 => return ring(number, state, held, args),
        93 => return lock(state, held, args[0]),
        94 => return unlock(state, held, args[0]),
        164 => return each(state, host.cpu(), args),
        169..=172 => return timer(number, state, host, args),
        181 => return repeat(state, args),
        194 => return exchange(state, held, args),
        156 | 157 => return task(number, state, args),
        _ => {
            return Err(Cause::UnsupportedHelper {
                name: name(number),
                number,
            });
        }
    };
    Ok(Flow::Value(value))
}

/// Maps by key, and queues.
fn map(number: i64, state: &mut State, cpu: u32, args: [u64; 5]) -> Result<Flow, Cause> {
    let index = state.map_number(name(number), args[0])?;
    let (map, memory) = (&mut state.maps[index], &mut state.memory);
    Ok(match number {
        1 => Flow::Value(map.lookup(memory, args[1], cpu)?),
        195 => Flow::Value(map.lookup(memory, args[1], args[2] as u32)?),
        2 => map.update(memory, args[1], args[2], args[3], cpu)?.into(),
        3 => map.delete(memory, args[1])?.into(),
        87 => map.push(memory, args[1])?.into(),
        _ => map.head(memory, args[1], number == 88)?.into(),
    })
}

/// `size` as a program passes it, which has to be one that an object can have.
fn size(call: &'static str, size: u64) -> Result<usize, Cause> {
    let size = size as u32 as usize;
    if size > MAX_OBJECT_BYTES {
        return Err(Cause::argument(call, format!("size {size} is too large")));
    }
    Ok(size)
}

/// Copies from the kernel. Where nothing is, they give zeros and an error.
fn text(number: i64, memory: &mut Memory, args: [u64; 5]) -> Result<Flow, Cause> {
    let to = args[0];
    match number {
        4 | 113 => {
            let len = size(name(number), args[1])?;
            let bytes = memory.read(args[2], len).map(<[u8]>::to_vec);
            let error = if bytes.is_ok() { 0 } else { EFAULT };
            memory.write(to, &bytes.unwrap_or_else(|_| vec![0; len]))?;
            Ok(error.into())
        }
        45 | 115 => {
            let len = size(name(number), args[1])?;
            if len == 0 {
                return Ok(0.into());
            }
            let Ok(mut bytes) = memory.read_str(args[2], len - 1) else {
                memory.write(to, &vec![0; len])?;
                return Ok(EFAULT.into());
            };
            bytes.push(0);
            memory.write(to, &bytes)?;
            Ok((bytes.len() as i64).into())
        }
        _ => {
            let len = size(name(number), args[1])?;
            let one = memory.read_str(args[0], len)?;
            let two = memory.read_str(args[2], len)?;
            Ok((one.cmp(&two) as i64).into())
        }
    }
}

/// Formatted text: to the log, or to memory.
fn print(number: i64, memory: &mut Memory, args: [u64; 5]) -> Result<Flow, Cause> {
    let call = name(number);
    let (format, data) = match number {
        6 => (
            memory.read_str(args[0], size(call, args[1])?)?,
            args[2..].to_vec(),
        ),
        177 => (
            memory.read_str(args[0], size(call, args[1])?)?,
            numbers(call, memory, args[2], args[3])?,
        ),
        _ => (
            memory.read_str(args[2], MAX_STRING)?,
            numbers(call, memory, args[3], args[4])?,
        ),
    };
    let text = match printf::format(memory, &format, &data) {
        Ok(text) => text,
        Err(what) => return Err(Cause::argument(call, what)),
    };
    if number != 165 {
        log::debug!("{}", text.trim_end());
        return Ok((text.len() as i64).into());
    }
    let room = size(call, args[1])?;
    if room > 0 {
        let mut bytes = text.as_bytes()[..text.len().min(room - 1)].to_vec();
        bytes.push(0);
        memory.write(args[0], &bytes)?;
    }
    Ok((text.len() as i64 + 1).into())
}

/// The array of numbers that a format's arguments are.
pub(crate) fn numbers(
    call: &'static str,
    memory: &Memory,
    address: u64,
    bytes: u64,
) -> Result<Vec<u64>, Cause> {
    let bytes = size(call, bytes)?;
    if bytes == 0 {
        return Ok(Vec::new());
    }
    if bytes % 8 != 0 || bytes > MAX_TEXT {
        let what = format!("{bytes} bytes are no array of arguments");
        return Err(Cause::argument(call, what));
    }
    let bytes = memory.read(address, bytes)?;
    let number = |chunk: &[u8]| {
        let mut buffer = [0; 8];
        buffer.copy_from_slice(chunk);
        u64::from_le_bytes(buffer)
    };
    Ok(bytes.chunks_exact(8).map(number).collect())
}

/// Ring buffers.
fn ring(number: i64, state: &mut State, held: &mut Held, args: [u64; 5]) -> Result<Flow, Cause> {
    let call = name(number);
    if matches!(number, 132 | 133) {
        let Some(Kind::Record(map)) = state.memory.kind(args[0]) else {
            return Err(Cause::argument(
                call,
                format!("{:#x} is no record", args[0]),
            ));
        };
        if !held.release(args[0]) {
            return Err(Cause::argument(call, "the record is another program's"));
        }
        let len = state.memory.object_bytes(args[0]);
        let record = state.memory.read(args[0], len)?.to_vec();
        state.memory.free(args[0]);
        state.maps[map as usize].ring_commit(record, number == 132);
        return Ok(0.into());
    }
    let index = state.map_number(call, args[0])?;
    let map = &mut state.maps[index];
    match number {
        130 => {
            let record = state.memory.read(args[1], size(call, args[2])?)?.to_vec();
            Ok(map.ring_output(record).into())
        }
        131 => {
            let len = size(call, args[1])?;
            if !map.ring_reserve(len) {
                return Ok(0.into());
            }
            let kind = Kind::Record(index as u32);
            let record = state
                .memory
                .add("a ring buffer's record", kind, vec![0; len]);
            held.acquire(record, "bpf_ringbuf_reserve()");
            Ok(Flow::Value(record))
        }
        _ => Ok(match args[1] {
            0 => map.ring_used() as i64,
            1 => i64::from(map.def.max_entries),
            _ => 0,
        }
        .into()),
    }
}

/// `bpf_spin_lock()`.
fn lock(state: &mut State, held: &mut Held, address: u64) -> Result<Flow, Cause> {
    if held.lock.is_some() {
        return Err(Cause::Deadlock);
    }
    if state.memory.read_u32(address)? != 0 {
        return Ok(Flow::Block(address));
    }
    state.memory.write_kernel(address, &1_u32.to_le_bytes())?;
    held.lock = Some(address);
    Ok(0.into())
}

/// `bpf_spin_unlock()`.
fn unlock(state: &mut State, held: &mut Held, address: u64) -> Result<Flow, Cause> {
    if held.lock != Some(address) {
        return Err(Cause::argument("spin_unlock", "the lock is not held"));
    }
    held.lock = None;
    state.memory.write_kernel(address, &0_u32.to_le_bytes())?;
    Ok(0.into())
}

/// `bpf_loop()`.
fn repeat(state: &State, args: [u64; 5]) -> Result<Flow, Cause> {
    let [nr, callback, context, flags, _] = args;
    let nr = nr as u32;
    if flags != 0 {
        return Ok(EINVAL.into());
    }
    if u64::from(nr) > MAX_LOOPS {
        return Ok(E2BIG.into());
    }
    if nr == 0 {
        return Ok(0.into());
    }
    let pc = state.function_at(callback)?;
    Ok(Flow::Callback {
        pc,
        arguments: [0, context, 0, 0, 0],
        then: Then::Loop {
            callback: pc,
            context,
            index: 0,
            nr,
        },
    })
}

/// `bpf_for_each_map_elem()`.
fn each(state: &mut State, cpu: u32, args: [u64; 5]) -> Result<Flow, Cause> {
    let [map, callback, context, flags, _] = args;
    let index = state.map_number("for_each_map_elem", map)?;
    if flags != 0 {
        return Ok(EINVAL.into());
    }
    let pc = state.function_at(callback)?;
    let first = state.maps[index].element(&mut state.memory, 0, cpu)?;
    let Some((row, key, value)) = first else {
        return Ok(0.into());
    };
    Ok(Flow::Callback {
        pc,
        arguments: [map, key, value, context, 0],
        then: Then::Each {
            callback: pc,
            context,
            map: index as u32,
            row,
            done: 0,
        },
    })
}

/// Timers: `bpf_timer_init()`, `_set_callback()`, `_start()`, `_cancel()`.
fn timer<H: Host>(
    number: i64,
    state: &mut State,
    host: &mut H,
    args: [u64; 5],
) -> Result<Flow, Cause> {
    let at = args[0];
    state.memory.read_u64(at)?;
    let known = state.timers.get(&at).copied();
    match (number, known) {
        (169, None) => {
            let map = state.map_number("timer_init", args[1])? as u32;
            if state.memory.kind(at) != Some(Kind::MapValues(map)) {
                return Err(Cause::argument("timer_init", "the timer is not in the map"));
            }
            let callback = None;
            state.timers.insert(at, Timer { map, callback });
            Ok(0.into())
        }
        (169, Some(_)) => Ok(EBUSY.into()),
        (_, None) => Ok(EINVAL.into()),
        (170, Some(timer)) => {
            let callback = Some(state.function_at(args[1])? as u32);
            state.timers.insert(at, Timer { callback, ..timer });
            Ok(0.into())
        }
        (171, Some(timer)) => {
            if timer.callback.is_none() {
                return Ok(EINVAL.into());
            }
            let base = if args[2] & TIMER_ABS != 0 {
                0
            } else {
                host.ktime_ns()
            };
            host.timer_start(at, base.saturating_add(args[1]));
            Ok(0.into())
        }
        (_, Some(_)) => Ok(i64::from(host.timer_cancel(at)).into()),
    }
}

/// `bpf_kptr_xchg()`: who passes a pointer gives it away, and gets the old one.
fn exchange(state: &mut State, held: &mut Held, args: [u64; 5]) -> Result<Flow, Cause> {
    let [place, new, ..] = args;
    let old = state.memory.read_u64(place)?;
    if new != 0 && !held.release(new) {
        return Err(Cause::argument("kptr_xchg", "the new pointer is not held"));
    }
    state.memory.write(place, &new.to_le_bytes())?;
    if old != 0 {
        held.acquire(old, "bpf_kptr_xchg()");
    }
    Ok(Flow::Value(old))
}

/// What belongs to a task.
fn task(number: i64, state: &mut State, args: [u64; 5]) -> Result<Flow, Cause> {
    let index = state.map_number(name(number), args[0])?;
    let Some(Kind::Task(task)) = state.memory.kind(args[1]) else {
        return match args[1] {
            0 => Ok(0.into()),
            other => Err(Cause::argument(
                name(number),
                format!("{other:#x} is no task"),
            )),
        };
    };
    let map = &mut state.maps[index];
    if map.def.kind != MapKind::TaskStorage {
        return Ok(EINVAL.into());
    }
    if number == 157 {
        let deleted = map.storage_delete(&mut state.memory, task);
        return Ok(if deleted { 0 } else { ENOENT }.into());
    }
    let create = args[3] & STORAGE_CREATE != 0;
    let value = map.storage(&mut state.memory, task, create);
    Ok(Flow::Value(value))
}
