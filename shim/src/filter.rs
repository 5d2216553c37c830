//! The filter of system calls: what no tool needs and attacks do, sockets, and calls of another machine.
//!
//! Written out, one question after the other, so that it can be read from top to bottom. The kernel compiles it, and asks it
//! only once for calls that it lets through whatever their arguments.

use libc::{c_long, c_uint, c_ushort};
use seccompiler::sock_filter;

use crate::wire::Network;

const LOAD: c_ushort = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: c_ushort = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: c_ushort = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: c_ushort = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const GO: c_ushort = 0x05; // BPF_JMP | BPF_JA
const AND: c_ushort = 0x54; // BPF_ALU | BPF_AND | BPF_K
const ANSWER: c_ushort = 0x06; // BPF_RET | BPF_K

// Places in `struct seccomp_data`; of an argument its low half (both machines below are little-endian), which is all that
// the kernel looks at where we do.
const NUMBER: c_uint = 0;
const MACHINE: c_uint = 4;
const FIRST: c_uint = 16;
const SECOND: c_uint = 24;

const ALLOW: c_uint = libc::SECCOMP_RET_ALLOW;
const KILL: c_uint = libc::SECCOMP_RET_KILL_PROCESS;
const REFUSE: c_uint = libc::SECCOMP_RET_ERRNO | libc::EPERM as c_uint;
/// "There is no such call": callers then use the older one, whose flags a filter can see.
const UNKNOWN: c_uint = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as c_uint;

#[cfg(target_arch = "x86_64")]
const THIS_MACHINE: c_uint = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const THIS_MACHINE: c_uint = 0xC000_00B7;

/// First number of the x32 calls, which have the same machine as those of 64 bits.
#[cfg(target_arch = "x86_64")]
const X32: c_uint = 0x4000_0000;

/// All flags by which a new process gets a name space of its own.
const NEW_NAMESPACE: c_uint = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as c_uint;

/// Kind of a socket, without its flags.
const KIND: c_uint = 0xF;

/// Calls that are refused whatever their arguments.
const REFUSED: &[c_long] = &[
    // Into other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Into the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mbind,
    libc::SYS_syslog,
    libc::SYS_lookup_dcookie,
    libc::SYS_fanotify_init,
    // Into another view of the system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_personality,
    // Of whoever runs the machine.
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    443, // quotactl_fd, on all machines
    467, // open_tree_attr, on all machines
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    174, // create_module
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[
    294, // kexec_file_load
];

/// Calls about a process whose number is their first argument. Of zero they are about the caller.
const OF_ANOTHER: &[c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setaffinity,
];
/// The same, where the first says what the second is: zero, or that of a process.
const OF_SOME_OTHER: &[(c_long, c_uint)] = &[(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];
/// What stays in the kernel when its process is gone, and is found by others.
const SHARED: &[c_long] = &[libc::SYS_shmget, libc::SYS_msgget, libc::SYS_semget];

/// The filter for a tool with this network. `own_world`: it has processes and shared memory of its own, so that it reaches none of
/// others.
pub(crate) fn filter(network: Network, unix_sockets: bool, own_world: bool) -> Vec<sock_filter> {
    let mut to = Vec::with_capacity(2 * REFUSED.len() + 64);
    to.extend([
        op(LOAD, MACHINE),
        jump(IF_EQUAL, THIS_MACHINE, 1, 0),
        op(ANSWER, KILL),
        op(LOAD, NUMBER),
        #[cfg(target_arch = "x86_64")]
        jump(IF_AT_LEAST, X32, 0, 1),
        #[cfg(target_arch = "x86_64")]
        op(ANSWER, REFUSE),
    ]);
    // One after the other, each with its way to the one answer after them.
    let refused: Vec<c_long> = REFUSED.iter().chain(REFUSED_HERE).copied().collect();
    for (behind, call) in (1..=refused.len()).rev().zip(refused) {
        to.push(jump(IF_EQUAL, number(call), u8::try_from(behind).expect("there are fewer than 256"), 0));
    }
    to.extend([op(GO, 1), op(ANSWER, REFUSE)]);
    to.extend([jump(IF_EQUAL, number(libc::SYS_clone3), 0, 1), op(ANSWER, UNKNOWN)]);
    on(
        &mut to,
        libc::SYS_clone,
        &[op(LOAD, FIRST), jump(IF_ANY_BIT, NEW_NAMESPACE, 0, 1), op(ANSWER, REFUSE), op(ANSWER, ALLOW)],
    );
    if !own_world {
        // Of the same user, which is the agent's where that is not root.
        for call in OF_ANOTHER {
            on(&mut to, *call, &[op(LOAD, FIRST), jump(IF_EQUAL, 0, 1, 0), op(ANSWER, REFUSE), op(ANSWER, ALLOW)]);
        }
        for (call, process) in OF_SOME_OTHER {
            let itself = [
                op(LOAD, FIRST),
                jump(IF_EQUAL, *process, 0, 2),
                op(LOAD, SECOND),
                jump(IF_EQUAL, 0, 1, 0),
                op(ANSWER, REFUSE),
                op(ANSWER, ALLOW),
            ];
            on(&mut to, *call, &itself);
        }
        for call in SHARED {
            to.extend([jump(IF_EQUAL, number(*call), 0, 1), op(ANSWER, REFUSE)]);
        }
    }
    // Input for a terminal as if it was typed there.
    on(
        &mut to,
        libc::SYS_ioctl,
        &[
            op(LOAD, SECOND),
            jump(IF_EQUAL, libc::TIOCSTI as c_uint, 1, 0),
            jump(IF_EQUAL, libc::TIOCLINUX as c_uint, 0, 1),
            op(ANSWER, REFUSE),
            op(ANSWER, ALLOW),
        ],
    );
    let mut families = Vec::new();
    // With a network of its own, which has nothing but its loopback, or with that of the device.
    if network != Network::None {
        families.extend([libc::AF_INET, libc::AF_INET6]);
    }
    if unix_sockets {
        families.push(libc::AF_UNIX);
    }
    let mut socket = vec![op(LOAD, FIRST)];
    for family in families {
        socket.extend([jump(IF_EQUAL, family.cast_unsigned(), 0, 1), op(ANSWER, ALLOW)]);
    }
    socket.push(op(ANSWER, REFUSE));
    on(&mut to, libc::SYS_socket, &socket);
    // Pairs stay, as pipes in two directions. Not those of datagrams: they can still be connected to a socket of the system.
    let mut pair = vec![op(LOAD, FIRST), jump(IF_EQUAL, libc::AF_UNIX as c_uint, 1, 0), op(ANSWER, REFUSE)];
    if !unix_sockets {
        pair.extend([op(LOAD, SECOND), op(AND, KIND)]);
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            pair.extend([jump(IF_EQUAL, kind.cast_unsigned(), 0, 1), op(ANSWER, ALLOW)]);
        }
        pair.push(op(ANSWER, REFUSE));
    }
    pair.push(op(ANSWER, ALLOW));
    on(&mut to, libc::SYS_socketpair, &pair);
    to.push(op(ANSWER, ALLOW));
    to
}

/// The questions about one call, all of which must end in an answer.
fn on(to: &mut Vec<sock_filter>, call: c_long, questions: &[sock_filter]) {
    let past = u8::try_from(questions.len()).unwrap_or(u8::MAX);
    to.push(jump(IF_EQUAL, number(call), 0, past));
    to.extend_from_slice(questions);
}

/// All numbers of calls are small.
fn number(call: c_long) -> c_uint {
    c_uint::try_from(call).unwrap_or(c_uint::MAX)
}

fn op(code: c_ushort, k: c_uint) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: c_ushort, k: c_uint, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer of the filter, as the kernel would find it.
    fn ask(filter: &[sock_filter], machine: u32, call: c_long, args: [u32; 2]) -> u32 {
        let (mut at, mut held) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = filter[at];
            at += 1;
            let go = |held: bool| usize::from(if held { jt } else { jf });
            match code {
                LOAD => {
                    held = match k {
                        NUMBER => number(call),
                        MACHINE => machine,
                        FIRST => args[0],
                        SECOND => args[1],
                        _ => panic!("nothing is at {k}"),
                    }
                }
                AND => held &= k,
                GO => at += usize::try_from(k).unwrap(),
                IF_EQUAL => at += go(held == k),
                IF_AT_LEAST => at += go(held >= k),
                IF_ANY_BIT => at += go(held & k != 0),
                ANSWER => return k,
                _ => panic!("{code:#x} is none of ours"),
            }
        }
    }

    #[test]
    fn answers_are_those_that_are_meant() {
        let inet = [libc::AF_INET as u32, libc::SOCK_STREAM as u32];
        let unix = |kind: i32| [libc::AF_UNIX as u32, (kind | libc::SOCK_CLOEXEC).cast_unsigned()];
        let none = filter(Network::None, false, true);
        let here = |call, args| ask(&none, THIS_MACHINE, call, args);
        assert_eq!(ask(&none, THIS_MACHINE ^ 1, libc::SYS_read, [0; 2]), KILL);
        assert_eq!(here(libc::SYS_read, [0; 2]), ALLOW);
        for call in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(here(*call, [0; 2]), REFUSE, "{call}");
        }
        let through = (0..470).filter(|call| here(*call, [0; 2]) == ALLOW).count();
        assert_eq!(through, 470 - REFUSED.len() - REFUSED_HERE.len() - 3, "but for clone3, socket and socketpair");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(here(0x4000_0000 + 59, [0; 2]), REFUSE, "x32");
        assert_eq!(here(libc::SYS_clone3, [0; 2]), UNKNOWN);
        assert_eq!(here(libc::SYS_clone, [libc::SIGCHLD as u32, 0]), ALLOW);
        assert_eq!(here(libc::SYS_clone, [libc::CLONE_NEWUSER as u32, 0]), REFUSE);
        assert_eq!(here(libc::SYS_ioctl, [0, libc::TIOCSTI as u32]), REFUSE);
        assert_eq!(here(libc::SYS_ioctl, [0, libc::TIOCLINUX as u32]), REFUSE);
        assert_eq!(here(libc::SYS_ioctl, [0, libc::FIONREAD as u32]), ALLOW);
        for args in [inet, unix(libc::SOCK_STREAM), [libc::AF_VSOCK as u32, 1], [libc::AF_NETLINK as u32, 3]] {
            assert_eq!(here(libc::SYS_socket, args), REFUSE);
        }
        assert_eq!(here(libc::SYS_socketpair, unix(libc::SOCK_STREAM)), ALLOW);
        assert_eq!(here(libc::SYS_socketpair, unix(libc::SOCK_SEQPACKET)), ALLOW);
        assert_eq!(here(libc::SYS_socketpair, unix(libc::SOCK_DGRAM)), REFUSE);
        assert_eq!(here(libc::SYS_socketpair, inet), REFUSE);
        let beside = filter(Network::None, false, false);
        let there = |call, args| ask(&beside, THIS_MACHINE, call, args);
        for call in OF_ANOTHER {
            assert_eq!(
                (there(*call, [0, 9]), there(*call, [7, 0]), here(*call, [7, 0])),
                (ALLOW, REFUSE, ALLOW),
                "{call}"
            );
        }
        for (call, process) in OF_SOME_OTHER {
            assert_eq!((there(*call, [*process, 0]), there(*call, [*process, 7])), (ALLOW, REFUSE), "{call}");
            assert_eq!((there(*call, [process + 1, 0]), here(*call, [*process, 7])), (REFUSE, ALLOW), "{call}");
        }
        for call in SHARED {
            assert_eq!((there(*call, [0; 2]), here(*call, [0; 2])), (REFUSE, ALLOW), "{call}");
        }
        let host = filter(Network::Host, false, true);
        assert_eq!(ask(&host, THIS_MACHINE, libc::SYS_socket, inet), ALLOW);
        assert_eq!(ask(&host, THIS_MACHINE, libc::SYS_socket, unix(libc::SOCK_STREAM)), REFUSE);
        let own = filter(Network::Restricted, false, true);
        assert_eq!(ask(&own, THIS_MACHINE, libc::SYS_socket, inet), ALLOW);
        assert_eq!(ask(&own, THIS_MACHINE, libc::SYS_socket, [libc::AF_VSOCK as u32, 1]), REFUSE);
        assert_eq!(ask(&own, THIS_MACHINE, libc::SYS_socket, unix(libc::SOCK_STREAM)), REFUSE);
        let services = filter(Network::None, true, true);
        assert_eq!(ask(&services, THIS_MACHINE, libc::SYS_socket, unix(libc::SOCK_DGRAM)), ALLOW);
        assert_eq!(ask(&services, THIS_MACHINE, libc::SYS_socketpair, unix(libc::SOCK_DGRAM)), ALLOW);
        assert_eq!(ask(&services, THIS_MACHINE, libc::SYS_socket, inet), REFUSE);
    }
}
