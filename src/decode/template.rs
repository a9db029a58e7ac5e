//! The template of decoder processes: this binary, started again, with FFmpeg loaded and without a video. For each video it
//! forks itself, because loading FFmpeg's hundred libraries takes longer than decoding a short clip.
//!
//! The forked process is a child of the template's parent, which starts it, kills it and waits for it as if it had started
//! it directly. It decodes one video. The template itself never sees a byte of a video, and its socket is closed in the
//! forked process.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use tokio::signal::unix::{SignalKind, signal};

use super::{CHILD_ARGUMENT, child, sandbox};
use crate::error::Error;

/// The template's end of the socket on which it is asked to fork.
const SOCKET_FD: i32 = 3;

/// Templates that are asked to start a decoder. They only fail if somebody kills them, or if the system has no memory left.
const TRIES: u32 = 3;

/// A template that does not answer for this long is replaced.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts decoder processes. Dropping it kills them.
#[derive(Debug)]
pub struct Decoders {
    /// Asks the thread that starts templates for one. Linux kills a template and its forks when the thread that started it ends
    /// (see `PR_SET_PDEATHSIG`), and the runtime's threads may end at any time.
    starter: mpsc::Sender<mpsc::Sender<Result<Template, Error>>>,
    template: Mutex<Option<Template>>,
}

/// What a decoder is given: one end of a socket or pipe each, and shared memory.
pub(super) struct Descriptors {
    pub(super) control: OwnedFd,
    pub(super) bytes: OwnedFd,
    pub(super) frames: OwnedFd,
    pub(super) log: OwnedFd,
}

impl Decoders {
    /// `program` is the path of this binary. Nothing is started before the first video.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        let (starter, requests) = mpsc::channel::<mpsc::Sender<_>>();
        // The thread ends when `starter` is dropped.
        std::thread::spawn(move || {
            for answer in requests {
                // An error means that nobody waits any more.
                let _ = answer.send(Template::start(&program));
            }
        });
        Self { starter, template: Mutex::new(None) }
    }

    /// Starts a decoder process.
    pub(super) fn start(&self, descriptors: Descriptors) -> Result<Process, Error> {
        let Descriptors { control, bytes, frames, log } = &descriptors;
        let descriptors = [control, bytes, frames, log].map(AsFd::as_fd);
        let mut template = self.template.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        loop {
            tries += 1;
            let running = match template.take() {
                Some(running) => running,
                None => self.start_template()?,
            };
            match running.fork(descriptors) {
                Ok(process) => {
                    *template = Some(running);
                    return Ok(process);
                }
                Err(error) if tries < TRIES => {
                    tracing::debug!(%error, "the template of the decoders failed, starting another one");
                }
                Err(error) => return Err(running.failed_to_start(&error)),
            }
        }
    }
}

impl Decoders {
    fn start_template(&self) -> Result<Template, Error> {
        let (answer, started) = mpsc::channel();
        let ended = || failed(&"the thread that starts it has ended");
        self.starter.send(answer).map_err(|_| ended())?;
        started.recv().map_err(|_| ended())?
    }
}

#[derive(Debug)]
struct Template {
    process: Child,
    socket: OwnedFd,
}

impl Template {
    fn start(program: &std::path::Path) -> Result<Self, Error> {
        let (socket, its_socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(&e))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT)).map_err(|e| failed(&e))?;
        let mut command = Command::new(program);
        command.arg(CHILD_ARGUMENT).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // No credentials reach the decoders, but they must still find their shared libraries.
        command.envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)));
        command
            .fd_mappings(vec![FdMapping { parent_fd: its_socket, child_fd: SOCKET_FD }])
            .map_err(|error| failed(&error))?;
        let process = command.spawn().map_err(|error| failed(&error))?;
        Ok(Self { process, socket })
    }

    fn fork(&self, descriptors: [BorrowedFd<'_>; 4]) -> io::Result<Process> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        retry_on_intr(|| sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL))?;
        let mut answer = [0; 4];
        // A decoder that ends meanwhile interrupts the call, because it has a timeout.
        let (received, _) = retry_on_intr(|| recv(&self.socket, &mut answer, RecvFlags::empty()))?;
        if received != answer.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match i32::from_ne_bytes(answer) {
            error @ ..=0 => Err(io::Error::from_raw_os_error(-error)),
            pid => Ok(Process { pid: Pid::from_raw(pid), status: None }),
        }
    }
}

impl Template {
    /// Explains why it did not answer, for example because a library is missing.
    fn failed_to_start(mut self, error: &io::Error) -> Error {
        let _ = self.process.kill();
        let mut log = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            let _ = stderr.read_to_string(&mut log);
        }
        let reason = log.lines().next_back().map_or_else(|| error.to_string(), ToOwned::to_owned);
        failed(&reason)
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn failed(problem: &dyn std::fmt::Display) -> Error {
    Error::failed(format!("failed to start a decoder process: {problem}"))
}

/// A decoder process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    /// None once it was waited for.
    pid: Option<Pid>,
    status: Option<ExitStatus>,
}

impl Process {
    pub(super) fn kill(&self) {
        if let Some(pid) = self.pid {
            // It may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Waits for its end.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.pid {
            self.status = Some(end_of(pid).await?);
            self.pid = None;
        }
        self.status.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let Some(pid) = self.pid.take() else { return };
        if !matches!(try_wait(pid, WaitOptions::NOHANG), Ok(None)) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            // A runtime that is shutting down drops the task at once, so the task must not own a `Process`.
            Ok(runtime) => drop(runtime.spawn(end_of(pid))),
            // A killed process ends within milliseconds.
            Err(_) => drop(try_wait(pid, WaitOptions::empty())),
        }
    }
}

/// Waits for the end of a child process.
async fn end_of(pid: Pid) -> io::Result<ExitStatus> {
    // From before the first look, so that no signal is missed.
    let mut ended = signal(SignalKind::child())?;
    loop {
        if let Some(status) = try_wait(pid, WaitOptions::NOHANG)? {
            return Ok(status);
        }
        ended.recv().await;
    }
}

/// The status of a child process, if it has ended.
fn try_wait(pid: Pid, options: WaitOptions) -> io::Result<Option<ExitStatus>> {
    let ended = retry_on_intr(|| waitpid(Some(pid), options))?;
    Ok(ended.map(|(_, status)| ExitStatus::from_raw(status.as_raw())))
}

/// Runs the template, and in its forks the decoder.
pub fn main() -> ExitCode {
    // SAFETY: the parent, the only caller, mapped this descriptor for this process; nothing else here owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET_FD) };
    if ffmpeg_next::init().is_err() {
        return ExitCode::FAILURE;
    }
    sandbox::isolate();
    // A new user namespace would reset it.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return ExitCode::FAILURE;
    }
    // An error means that the parent is gone.
    while let Ok(Descriptors { control, bytes, frames, log }) = receive(&socket) {
        // SAFETY: this process has a single thread, so the fork finds all locks open and all memory consistent.
        let answer = match unsafe { fork_for_parent() } {
            Ok(0) => {
                drop(socket);
                if rustix::stdio::dup2_stderr(&log).is_err() {
                    return ExitCode::FAILURE;
                }
                drop(log);
                return child::main(UnixStream::from(control), UnixStream::from(bytes), File::from(frames));
            }
            Ok(pid) => pid,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EAGAIN),
        };
        if send(&socket, &answer.to_ne_bytes(), SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// Receives the descriptors for the next decoder.
fn receive(socket: &OwnedFd) -> io::Result<Descriptors> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    let mut next = || descriptors.next().ok_or(io::ErrorKind::UnexpectedEof);
    Ok(Descriptors { control: next()?, bytes: next()?, frames: next()?, log: next()? })
}

/// Forks this process. The new process is a child of this one's parent. Returns its id, and 0 in the new process.
///
/// # Safety
/// The process must have a single thread.
unsafe fn fork_for_parent() -> io::Result<i32> {
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: without a stack and without shared memory, this is a fork. The C library's own would not take the flag.
    let id = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if id < 0 { Err(io::Error::last_os_error()) } else { Ok(id as i32) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_dropped_by_a_runtime_that_ends_is_killed() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process { pid: Some(Pid::from_child(&child)), status: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.spawn(async move {
            let _process = process;
            std::future::pending::<()>().await;
        });
        runtime.block_on(tokio::task::yield_now());
        drop(runtime);
        // An error means that it had ended so fast that the drop waited for it.
        assert!(child.wait().map_or(true, |status| status.signal() == Some(libc::SIGKILL)));
    }
}
