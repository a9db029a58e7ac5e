//! The sandbox of the decoder process: it may compute and use the descriptors that it was given, and nothing else.
//!
//! Only listed system calls are allowed. Opening a file, a socket or another program fails with `EPERM`, which the
//! codec sees as an error of that call. `RLIMIT_DATA` bounds the memory.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Enters the sandbox, permanently and for every thread that starts later. `memory_bytes` bounds the private memory.
pub(super) fn enter(memory_bytes: u64) -> Result<(), String> {
    // Decoders must not outlive the parent, even if it is killed with SIGKILL.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("prctl: {e}"))?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Data, limit(memory_bytes)).map_err(|e| format!("setrlimit: {e}"))?;
    setrlimit(Resource::Core, limit(0)).map_err(|e| format!("setrlimit: {e}"))?;
    let program = filter().map_err(|e| format!("seccomp: {e}"))?;
    // This sets no_new_privs as well.
    seccompiler::apply_filter(&program).map_err(|e| format!("seccomp: {e}"))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use calls::ALLOWED;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, vec![])).collect();
    // abort() sends a signal to its own thread. No other process may be signalled.
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::from(std::process::id()))?;
    allowed.insert(libc::SYS_tgkill, vec![SeccompRule::new(vec![own])?]);
    SeccompFilter::new(
        allowed,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?
    .try_into()
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
        libc::SYS_fcntl,
        // memory
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        // threads
        libc::SYS_clone,
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
        libc::SYS_prctl,
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
    fn the_filter_is_a_program() {
        assert!(super::filter().is_ok_and(|program| !program.is_empty()));
    }
}
