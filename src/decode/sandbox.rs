//! What the decoder process may do: compute, and talk through the descriptors it was given. Nothing else.
//!
//! An allow-list of system calls: no file, no socket, no other program can be opened; each attempt fails with `EPERM`
//! and the codec gets an error where it tried. Memory is bounded by `RLIMIT_DATA`.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Closes the process in, from here on and for every thread it will start. `memory_bytes` bounds its private memory.
pub(super) fn enter(memory_bytes: u64) -> Result<(), String> {
    // The parent may be killed outright: its decoders must not outlive it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("prctl: {e}"))?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Data, limit(memory_bytes)).map_err(|e| format!("setrlimit: {e}"))?;
    setrlimit(Resource::Core, limit(0)).map_err(|e| format!("setrlimit: {e}"))?;
    let program = filter().map_err(|e| format!("seccomp: {e}"))?;
    // Sets no_new_privs too.
    seccompiler::apply_filter(&program).map_err(|e| format!("seccomp: {e}"))
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use calls::ALLOWED;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|&call| (call, vec![])).collect();
    // abort() signals its own thread; no other process may be signalled.
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

/// The system calls of a computing process with threads, memory, clocks and open descriptors.
mod calls {
    pub(super) const ALLOWED: &[i64] = &[
        // bytes through descriptors that are open already
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
    /// The filter is for the whole process and for good, so the test itself only checks that it compiles to a program;
    /// `vidindex doctor` enters it for real, in a child.
    #[test]
    fn the_filter_is_a_program() {
        assert!(super::filter().is_ok_and(|program| !program.is_empty()));
    }
}
