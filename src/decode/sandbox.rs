//! The sandbox of the decoder process: it may compute and use the descriptors that it was given, and nothing else.
//!
//! | layer | what it takes away | when |
//! |---|---|---|
//! | namespaces | the network, System V IPC and the user's privileges | once, in the template |
//! | landlock | every file, every TCP port | once, in the template |
//! | seccomp | every system call that is not listed: opening a file, a socket or a program fails with `EPERM` | in each decoder |
//! | limits | memory and processor time beyond the request's, files, core dumps, inspection by other processes | in each decoder |
//!
//! Seccomp and the limits are required. The other layers only matter if these fail, and a container may forbid them: `vidindex
//! doctor` reports them, and `[run] sandbox = "require"` insists on them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What [`isolate`] could not do.
static MISSING: OnceLock<Vec<String>> = OnceLock::new();

/// Enters the layers that are entered once, in the template, which has loaded its libraries and has one thread. Forked processes
/// inherit them.
pub(super) fn isolate() {
    let layers = [("namespaces", namespaces()), ("landlock", landlock())];
    let missing = layers.into_iter().filter_map(|(layer, entered)| Some(format!("no {layer} ({})", entered.err()?)));
    let _ = MISSING.set(missing.collect());
}

/// The layers that [`isolate`] could not enter, with the reasons.
pub(super) fn missing() -> Vec<String> {
    MISSING.get().cloned().unwrap_or_default()
}

fn namespaces() -> Result<(), String> {
    // SAFETY: the namespaces of users, the network and IPC affect neither memory nor descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC) }
        .map_err(|error| error.to_string())
}

fn landlock() -> Result<(), String> {
    let abi = ABI::V4;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
        .and_then(Ruleset::create)
        .map_err(|error| error.to_string())?;
    let status = ruleset.restrict_self().map_err(|error| error.to_string())?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err("the kernel knows only a part of it".to_owned()),
        RulesetStatus::NotEnforced => Err("the kernel does not know it".to_owned()),
    }
}

/// Enters the sandbox, permanently and for every thread that starts later. `memory_bytes` bounds the memory, `cpu_seconds` the
/// time of all processors together.
pub(super) fn enter(memory_bytes: u64, cpu_seconds: u64) -> Result<(), String> {
    // Decoders must not outlive the parent, even if it is killed with SIGKILL.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("prctl: {e}"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| format!("prctl: {e}"))?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    let limits =
        [(Resource::Data, memory_bytes), (Resource::Cpu, cpu_seconds), (Resource::Core, 0), (Resource::Fsize, 0)];
    for (resource, value) in limits {
        setrlimit(resource, limit(value)).map_err(|e| format!("setrlimit: {e}"))?;
    }
    // Of two filters, the stricter one counts. They set no_new_privs as well.
    for program in [without_clone3(), filter()] {
        let program = program.map_err(|e| format!("seccomp: {e}"))?;
        seccompiler::apply_filter(&program).map_err(|e| format!("seccomp: {e}"))?;
    }
    Ok(())
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use calls::ALLOWED;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, vec![])).collect();
    let argument = |index, operator, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
    };
    // abort() sends a signal to its own thread. No other process may be signalled.
    allowed.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?]);
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    allowed.insert(libc::SYS_clone, vec![argument(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // No memory that can be executed, and no shared memory, which the limit does not count.
    let condition = |index, mask: i32, value: i32| {
        let masked = SeccompCmpOp::MaskedEq(mask as u64);
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, masked, value as u64)
    };
    let kinds = libc::MAP_SHARED | libc::MAP_PRIVATE;
    let private = SeccompRule::new(vec![condition(2, libc::PROT_EXEC, 0)?, condition(3, kinds, libc::MAP_PRIVATE)?])?;
    allowed.insert(libc::SYS_mmap, vec![private]);
    allowed.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![condition(2, libc::PROT_EXEC, 0)?])?]);
    // Names of threads.
    allowed.insert(libc::SYS_prctl, vec![argument(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    let commands = commands.map(|command| argument(1, SeccompCmpOp::Eq, command as u64));
    allowed.insert(libc::SYS_fcntl, commands.into_iter().collect::<Result<_, _>>()?);
    program(allowed, libc::EPERM, false)
}

/// The flags of `clone3` are in memory, where a filter cannot read them. If it is missing, the C library uses `clone`.
fn without_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    program([(libc::SYS_clone3, vec![])].into(), libc::ENOSYS, true)
}

/// A filter that allows these calls and no others, or (`inverted`) all others.
fn program(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    error: i32,
    inverted: bool,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let (refuse, allow) = (SeccompAction::Errno(error as u32), SeccompAction::Allow);
    let (others, these) = if inverted { (allow, refuse) } else { (refuse, allow) };
    SeccompFilter::new(calls, others, these, std::env::consts::ARCH.try_into()?)?.try_into()
}

/// The system calls of a computing process: threads, memory, clocks and open descriptors.
mod calls {
    pub(super) const ALLOWED: &[i64] = &[
        // bytes through descriptors that are already open
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        libc::SYS_ppoll,
        // memory
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // threads
        libc::SYS_clone3,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_getparam,
        libc::SYS_sched_getscheduler,
        libc::SYS_membarrier,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // signals, clocks, randomness, limits
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_sysinfo,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_time,
    ];
}

#[cfg(test)]
mod tests {
    /// The filter applies to the whole process and cannot be removed, so this test only checks that it compiles to a
    /// program. `vidindex doctor` enters the sandbox, in a child.
    #[test]
    fn the_filters_are_programs() {
        for program in [super::filter(), super::without_clone3()] {
            assert!(program.is_ok_and(|program| !program.is_empty()));
        }
    }
}
