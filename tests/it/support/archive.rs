//! An archive of short videos in several shards, whose runs are disturbed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

const TABLES: [&str; 4] = ["videos", "actions", "persons", "thumbnails"];

/// Short videos in four shards.
pub(crate) struct Archive {
    pub(crate) scratch: Scratch,
    pub(crate) job: PathBuf,
}

/// The result of an undisturbed run.
pub(crate) struct Undisturbed {
    /// The rows of each table.
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) seconds: f64,
}

impl Undisturbed {
    /// The rows of a table.
    pub(crate) fn rows_of(&self, table: &str) -> Vec<String> {
        self.rows[TABLES.iter().position(|known| *known == table).unwrap()].clone()
    }
}

impl Archive {
    /// Eight videos of three to five seconds.
    pub(crate) fn new() -> Self {
        Self::of(8, 3.0)
    }

    /// The first video takes `seconds`, and each further one a quarter of a second more.
    pub(crate) fn of(videos: u32, seconds: f64) -> Self {
        let scratch = Scratch::new();
        for i in 0..videos {
            let file = scratch.videos().join(format!("{i}.mp4"));
            test_video(&file, "160x120", "25", seconds + f64::from(i) / 4.0, &["-pix_fmt", "yuv420p", "-g", "25"]);
        }
        let job = scratch.job(&scratch.small_models());
        let bytes: u64 =
            std::fs::read_dir(scratch.videos()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        let text = std::fs::read_to_string(&job).unwrap();
        let run_section =
            format!("[report]\nthumbnails = true\n[run]\ndevice = \"cpu\"\nshard_bytes = {}\n", bytes / 4 + 1);
        std::fs::write(&job, text + &run_section).unwrap();
        Self { scratch, job }
    }

    /// Runs the job with another output.
    pub(crate) fn undisturbed(&self) -> Undisturbed {
        let output = self.scratch.path("undisturbed");
        let started = Instant::now();
        run(&self.job, &["--set", &format!("output.uri={}", output.display())], 0);
        let seconds = started.elapsed().as_secs_f64();
        let rows = TABLES.map(|table| tables::stable_rows(&output, table)).to_vec();
        assert!(rows.iter().all(|rows| !rows.is_empty()));
        Undisturbed { rows, seconds }
    }

    pub(crate) fn plan(&self, args: &[&str]) -> String {
        let planned = vidindex(["plan".as_ref(), self.job.as_os_str()]).args(args).output().unwrap();
        assert!(planned.status.success(), "{}", said(&planned));
        stdout(&planned)
    }

    pub(crate) fn command(&self, name: &str, run: &str, args: &[&str]) -> Command {
        let mut command = vidindex([name.as_ref(), self.job.as_os_str()]);
        command.args(["--run", run]).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn expect(&self, name: &str, run: &str, args: &[&str], code: i32) -> String {
        let output = self.command(name, run, args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{name}: {}", said(&output));
        stderr(&output)
    }

    /// All files of attempts that are left.
    pub(crate) fn attempts(&self, run: &str) -> Vec<PathBuf> {
        let parts = self.scratch.index().join("_vidindex/runs").join(run).join("parts");
        let entries = walkdir::WalkDir::new(parts).into_iter().filter_map(Result::ok);
        entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
    }

    pub(crate) fn assert_rows(&self, undisturbed: &Undisturbed) {
        for (table, expected) in TABLES.iter().zip(&undisturbed.rows) {
            assert_eq!(&tables::stable_rows(&self.scratch.index(), table), expected, "{table}");
        }
    }
}

/// The decoder processes of a worker, and the template from which it forks them.
pub(crate) fn decoders_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return vec![] };
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers
        .filter(|number: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            // pid (name) state ppid ...
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(&parent.to_string())
        })
        .collect()
}

/// Whether the process has entered the sandbox, so that it is a decoder and not the template.
pub(crate) fn is_sandboxed(process: &u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/status")).is_ok_and(|status| status.contains("Seccomp:\t2"))
}

pub(crate) fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

pub(crate) fn send(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
