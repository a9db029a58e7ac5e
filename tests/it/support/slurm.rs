//! A Slurm cluster on loopback: a controller and node daemons that end with the test.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{said, vidindex};

/// Programs from Debian's packages slurmctld, slurmd, slurm-client and munge.
const PROGRAMS: [&str; 4] = ["munged", "slurmctld", "slurmd", "sbatch"];

/// A cluster of the nodes `node1`, `node2`, ..., each with two processors and one GPU (which is only a device file).
pub(crate) struct Cluster {
    directory: TempDir,
    munged: Child,
    controller: Child,
    nodes: Vec<Child>,
}

impl Cluster {
    /// Starts a cluster. If that is not possible, reports that the test is skipped and returns `None`.
    pub(crate) fn start(nodes: usize) -> Option<Self> {
        let missing = PROGRAMS.iter().find(|name| !on_path(name));
        let problem = match missing {
            Some(name) => format!("{name} is missing: run make setup-test"),
            None if !rustix::process::geteuid().is_root() => "Slurm's daemons need root".to_owned(),
            None => return Some(Self::start_here(nodes)),
        };
        assert!(std::env::var_os("VIDINDEX_TEST_REQUIRE").is_none(), "{problem}");
        eprintln!("skipped: {problem}");
        None
    }

    fn start_here(nodes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        ["state", "spool", "log"].iter().for_each(|name| fs::create_dir(root.join(name)).unwrap());
        let gpu = root.join("nvidia0");
        let status = Command::new("mknod").arg(&gpu).args(["c", "1", "3"]).status().unwrap();
        assert!(status.success(), "mknod");
        write_configuration(root, nodes);
        let key = root.join("munge.key");
        fs::write(&key, std::array::from_fn::<u8, 128, _>(|i| i as u8)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let file = |option: &str, name: &str| format!("--{option}={}", root.join(name).display());
        let munged = Command::new(program("munged"))
            .args(["--foreground".to_owned(), file("key-file", "munge.key"), file("socket", "munge.sock")])
            .args([file("pid-file", "munged.pid"), file("log-file", "log/munged"), file("seed-file", "munged.seed")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("munged's socket", || root.join("munge.sock").exists());
        let controller = start_controller(root);
        let nodes = (1..=nodes).map(|node| start_node(root, node)).collect::<Vec<_>>();
        let cluster = Self { directory, munged, controller, nodes };
        wait_until("idle nodes", || {
            cluster.output("sinfo", &["-h", "-N", "-t", "idle", "-o", "%N"]).lines().count() == cluster.nodes.len()
        });
        cluster
    }

    /// Makes a command of Slurm or `vidindex` use this cluster.
    pub(crate) fn configure(&self, command: &mut Command) {
        command.env("SLURM_CONF", self.directory.path().join("slurm.conf"));
    }

    /// Runs a command of Slurm. Returns its output, which is empty if it fails.
    pub(crate) fn output(&self, program: &str, args: &[&str]) -> String {
        let mut command = Command::new(program);
        self.configure(&mut command);
        String::from_utf8_lossy(&command.args(args).output().unwrap().stdout).trim().to_owned()
    }

    /// Runs `vidindex submit JOB --engine slurm ARGS` in `directory`, and returns the id of the run.
    pub(crate) fn submit(&self, job: &Path, directory: &Path, args: &[&str], environment: &[(&str, &str)]) -> String {
        let mut command = vidindex(["submit".as_ref(), job.as_os_str()]);
        self.configure(&mut command);
        command.args(["--engine", "slurm"]).args(args).envs(environment.iter().copied()).current_dir(directory);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// `(task, state, node)` of each job in Slurm's memory, including finished jobs.
    pub(crate) fn jobs(&self) -> Vec<(String, String, String)> {
        let listed = self.output("squeue", &["-h", "-r", "-t", "all", "-o", "%i|%T|%N"]);
        let columns = |line: &str| {
            let mut columns = line.split('|').map(str::to_owned);
            Some((columns.next()?, columns.next()?, columns.next()?))
        };
        listed.lines().filter_map(columns).collect()
    }

    /// Waits until no job is running or pending.
    pub(crate) fn drain(&self, seconds: u64) {
        let ended = |state: &str| !matches!(state, "PENDING" | "RUNNING" | "COMPLETING" | "CONFIGURING" | "REQUEUED");
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !self.jobs().iter().all(|(_, state, _)| ended(state)) {
            self.release_duplicates();
            assert!(
                Instant::now() < deadline,
                "jobs are left: {:?}\n{}\n{}",
                self.jobs(),
                self.output("squeue", &["-r", "-o", "%i %T %r"]),
                self.output("sinfo", &["-N", "-o", "%N %T %E"])
            );
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }

    /// Does what an administrator does after a crash of the controller. A controller that was killed before it saved its
    /// state starts a running task again; the task's node refuses, and the controller then drains the node and holds
    /// the task.
    fn release_duplicates(&self) {
        for node in self.output("sinfo", &["-h", "-N", "-t", "drain", "-o", "%N %E"]).lines() {
            if let Some(name) = node.strip_suffix(" Duplicate jobid") {
                self.output("scontrol", &["update", &format!("nodename={name}"), "state=resume"]);
            }
        }
        for job in self.output("squeue", &["-h", "-r", "-t", "pending", "-o", "%i %r"]).lines() {
            if let Some(job) = job.strip_suffix(" launch failed requeued held") {
                eprintln!("releases {job}");
                self.output("scontrol", &["release", job]);
            }
        }
    }

    /// Waits until a task is decoding a video, and returns its node.
    pub(crate) fn busy_node(&self) -> usize {
        let mut busy = None;
        wait_until("a decoding task", || {
            busy = (1..=self.nodes.len()).find(|node| self.processes_on(*node).into_iter().any(decodes));
            busy.is_some()
        });
        busy.unwrap()
    }

    /// Simulates the loss of a machine: kills its daemon and all processes that the daemon started.
    pub(crate) fn kill_node(&mut self, node: usize) {
        self.kill_daemon(node);
        for process in self.processes_on(node) {
            kill(process);
        }
        self.mark_down(node);
    }

    /// Kills only the daemon of a node: its task continues and writes, although Slurm considers it lost.
    pub(crate) fn kill_daemon(&mut self, node: usize) {
        self.nodes[node - 1].kill().unwrap();
        self.nodes[node - 1].wait().unwrap();
    }

    /// Stops the tasks of a node. Slurm continues them before it ends them.
    pub(crate) fn stop_tasks(&self, node: usize) {
        let tasks = self.processes_on(node).into_iter().filter(|process| !supervises_task(*process));
        tasks.for_each(|process| send("-STOP", process));
    }

    /// Marks a node as down in the controller, which would also detect it after its timeout.
    pub(crate) fn mark_down(&self, node: usize) {
        self.output("scontrol", &["update", &format!("nodename=node{node}"), "state=down", "reason=lost"]);
    }

    /// Kills the controller and starts it again.
    pub(crate) fn restart_controller(&mut self) {
        self.controller.kill().unwrap();
        self.controller.wait().unwrap();
        self.controller = start_controller(self.directory.path());
        wait_until("the controller", || !self.output("sinfo", &["-h"]).is_empty());
    }

    /// The finished jobs: start, end, node and state, one per line.
    pub(crate) fn timeline(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log/jobcomp")).unwrap_or_default();
        let field = |line: &str, name: &str| {
            let found = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
            found.unwrap_or_default().to_owned()
        };
        let mut lines: Vec<String> = log
            .lines()
            .map(|line| {
                let of = |name| field(line, name);
                let id = if of("ArrayTaskId").is_empty() { "     " } else { "task " };
                let started = of("StartTime");
                format!(
                    "{started} to {}  {id}job {:>4} on {:<6} {}",
                    of("EndTime"),
                    of("JobId"),
                    of("NodeList"),
                    of("JobState")
                )
            })
            .collect();
        lines.sort();
        lines.join("\n")
    }

    /// The processes of a node's jobs, and the daemons that supervise them.
    pub(crate) fn processes_on(&self, node: usize) -> Vec<u32> {
        let configuration = format!("SLURM_CONF={}", self.directory.path().join("slurm.conf").display());
        let name = format!("SLURMD_NODENAME=node{node}");
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            let has = |variable: &str| environment.split(|&byte| byte == 0).any(|set| set == variable.as_bytes());
            if has(&configuration) && has(&name) {
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
                // The supervisor comes first, because it would report the end of its task.
                found.splice(0..0, parent.filter(|parent| supervises_task(*parent)));
                found.push(process);
            }
        }
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.output("scancel", &["--state=PENDING", "--user=root"]);
        for node in 1..=self.nodes.len() {
            for process in self.processes_on(node) {
                kill(process);
            }
        }
        for daemon in self.nodes.iter_mut().chain([&mut self.controller, &mut self.munged]) {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn write_configuration(root: &Path, nodes: usize) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim().split('.').next().unwrap();
    let at = root.display();
    let mut configuration = format!(
        "ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock,cred_expire=5
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool/%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.%n.pid
SlurmctldLogFile={at}/log/slurmctld
SlurmdLogFile={at}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={at}/log/jobcomp
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=10
KillWait=5
MinJobAge=3600
DefMemPerCPU=100
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
",
        free_port()
    );
    let mut devices = "AutoDetect=off\n".to_owned();
    for node in 1..=nodes {
        let port = free_port();
        configuration.push_str(&format!(
            "NodeName=node{node} NodeHostname=node{node} NodeAddr=127.0.0.1 Port={port} CPUs=2 CoresPerSocket=2 \
             RealMemory=2000 Gres=gpu:1\n"
        ));
        devices.push_str(&format!("NodeName=node{node} Name=gpu File={at}/nvidia0\n"));
    }
    fs::write(root.join("slurm.conf"), configuration).unwrap();
    fs::write(root.join("gres.conf"), devices).unwrap();
    fs::write(root.join("cgroup.conf"), "CgroupAutomount=no\n").unwrap();
}

fn start_controller(root: &Path) -> Child {
    start_daemon(root, Command::new(program("slurmctld")).arg("-D"), "slurmctld.out")
}

fn start_node(root: &Path, node: usize) -> Child {
    let name = format!("node{node}");
    start_daemon(root, Command::new(program("slurmd")).args(["-D", "-N", &name]), &format!("{name}.out"))
}

fn start_daemon(root: &Path, command: &mut Command, log: &str) -> Child {
    let log = fs::File::options().create(true).append(true).open(root.join("log").join(log)).unwrap();
    command.arg("-f").arg(root.join("slurm.conf")).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The path of a program. Daemons are in /usr/sbin, which is not in every user's `PATH`.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file())).unwrap_or_else(|| name.into())
}

fn on_path(name: &str) -> bool {
    program(name).is_absolute()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether this process is a daemon of Slurm that supervises a task.
fn supervises_task(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default().starts_with("slurmstepd")
}

/// Whether this process decodes a video or is about to.
fn decodes(process: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return false };
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: String = children.collect();
    children
        .split_whitespace()
        .any(|child| fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default().contains("__decode"))
}

fn kill(process: u32) {
    send("-KILL", process);
}

fn send(signal: &str, process: u32) {
    // Fails if the process has ended, which is fine.
    let _ = Command::new("kill").args([signal, &process.to_string()]).stderr(Stdio::null()).status();
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
