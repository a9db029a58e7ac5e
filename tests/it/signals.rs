//! SIGINT and SIGTERM at any time of a run: the exit code shows the signal, and there are no other error messages.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Scratch, test_video, vidindex};

/// Stops a run at this time after its models are open. Returns its exit code and its later messages.
fn stopped(device: &str, signal: rustix::process::Signal, after: Duration) -> (Option<i32>, String) {
    let scratch = Scratch::new();
    for name in ["a.mp4", "b.mp4"] {
        test_video(
            &scratch.videos().join(name),
            "320x240",
            "30",
            60.0,
            &["-pix_fmt", "yuv420p", "-preset", "ultrafast"],
        );
    }
    let job = scratch.job(
        "[actions]\nmodel = \"models/demo-slowfast.onnx\"\nstride_seconds = 0.2\n\
         [persons]\nmodel = \"models/demo-yolov5.onnx\"\nframes_per_second = 30.0\n",
    );
    // The run has its own scratch disk: on a shared one, it would delete and report files that other killed processes
    // left.
    let disk = scratch.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut command = vidindex(["run".as_ref(), job.as_os_str()]);
    command.env("TMPDIR", disk);
    let mut child = command.args(["--device", device]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("models opened") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "the run ended before its models were open");
    }
    std::thread::sleep(after);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
    let mut messages = String::new();
    stderr.read_to_string(&mut messages).unwrap();
    (child.wait().unwrap().code(), messages)
}

fn assert_one_message(device: &str) {
    use rustix::process::Signal;
    for (n, millis) in [0, 100, 400, 900, 1700, 2500].into_iter().enumerate() {
        let (signal, code) = if n % 2 == 0 { (Signal::TERM, 143) } else { (Signal::INT, 130) };
        let (exit, messages) = stopped(device, signal, Duration::from_millis(millis));
        assert_eq!(exit, Some(code), "{device} after {millis} ms: {messages}");
        assert_eq!(messages.lines().count(), 1, "{device} after {millis} ms: {messages}");
        assert!(messages.contains("stopped by a signal"), "{messages}");
    }
}

#[test]
fn a_signal_during_inference_on_the_cpu_prints_one_message() {
    assert_one_message("cpu");
}

#[test]
fn a_signal_during_inference_on_openvino_prints_one_message() {
    assert_one_message("openvino");
}
