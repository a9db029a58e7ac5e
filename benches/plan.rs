//! Planning from an S3 Inventory report on one core: time and peak memory for one million and for ten million objects.
//! Memory must not grow with the archive, and time must grow at most linearly.
//!
//! ```text
//! cargo bench --bench plan                          1 and 10 million objects, a few minutes and 5 GB of disk
//! VIDINDEX_BENCH_MILLIONS=3 cargo bench --bench plan
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run fails")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};

const VIDINDEX: &str = env!("CARGO_BIN_EXE_vidindex");

fn main() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plan");
    std::fs::create_dir_all(&folder).unwrap();
    let built = Command::new(VIDINDEX).args(["models", "build", "yolov5n", "-q", "-o"]).arg(&folder).output().unwrap();
    assert!(built.status.success());
    let endpoint = start_server();
    let max_millions: u32 = std::env::var("VIDINDEX_BENCH_MILLIONS").ok().map_or(10, |text| text.parse().unwrap());
    let seconds = [1, max_millions].map(|millions| {
        let (seconds, cpu_seconds, peak_bytes) = plan(&folder, millions, &endpoint);
        let peak_mib = peak_bytes as f64 / 1048576.0;
        println!("{millions:>3} million objects: {seconds:.1} s, CPU {cpu_seconds:.1} s, peak {peak_mib:.0} MiB");
        cpu_seconds
    });
    println!("{:.2} times the CPU time for {max_millions} times the objects", seconds[1] / seconds[0]);
}

/// Plans from a report with this many millions of objects. Returns seconds, CPU seconds (other programs may use the
/// core, too), and peak memory in bytes.
fn plan(folder: &Path, millions: u32, endpoint: &str) -> (f64, f64, u64) {
    let scratch = tempfile::tempdir_in(folder).unwrap();
    let manifest = report(scratch.path(), millions);
    let job = scratch.path().join("job.toml");
    let text = format!(
        "[input]\ninventory = {manifest:?}\nuri = \"s3://archive/\"\npartition = '(?<camera>cam-[^/]+)/'\n\
         [output]\nuri = {:?}\n[persons]\nmodel = {:?}\n[store]\nendpoint = {endpoint:?}\n",
        scratch.path().join("index"),
        folder.join("yolov5n.onnx")
    );
    std::fs::write(&job, text).unwrap();
    let mut plan = Command::new("taskset");
    plan.args(["-c", "0", VIDINDEX, "plan", "-q"]).arg(&job).env("TMPDIR", scratch.path()).stdout(Stdio::null());
    plan.env("AWS_ACCESS_KEY_ID", "any").env("AWS_SECRET_ACCESS_KEY", "any").env("AWS_REGION", "us-east-1");
    let started = Instant::now();
    let mut plan = plan.spawn().unwrap();
    let (mut peak, mut ticks) = (0, 0);
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", plan.id())).unwrap_or_default();
        let high_water = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = peak.max(high_water.map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024));
        // Fields 14 and 15, counted from the end of the name in parentheses: user and kernel time, in hundredths of a
        // second.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", plan.id())).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        ticks = ticks.max(fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum());
        if let Some(status) = plan.try_wait().unwrap() {
            break status;
        }
        std::thread::park_timeout(Duration::from_millis(50));
    };
    assert!(status.success());
    (started.elapsed().as_secs_f64(), ticks as f64 / 100.0, peak)
}

/// Writes a report in CSV like S3, with one file per million objects, and returns the path of its manifest.
fn report(folder: &Path, millions: u32) -> String {
    let files: Vec<_> = (0..millions)
        .map(|file| {
            let key = format!("{file}.csv.gz");
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            for n in 0..1_000_000_u32 {
                // Cameras and days alternate, so that the report is not in the plan's order.
                let (camera, day, etag) = (n % 500, n % 28 + 1, u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let size = 20_000_000 + n.wrapping_mul(2_654_435_761) % 80_000_000;
                writeln!(
                    encoder,
                    "\"archive\",\"site-{}/cam-{camera:03}/2026-10-{day:02}/recording-{file:03}-{n:07}.mp4\",\"{size}\",\
                     \"2026-10-{day:02}T{:02}:00:00.000Z\",\"{etag:016x}{file:016x}\"",
                    camera % 20,
                    n % 24
                )
                .unwrap();
            }
            let bytes = encoder.finish().unwrap();
            std::fs::write(folder.join(&key), &bytes).unwrap();
            let md5: String = Md5::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({"key": key, "size": bytes.len(), "MD5checksum": md5})
        })
        .collect();
    let manifest = serde_json::json!({
        "sourceBucket": "archive", "fileFormat": "CSV", "files": files,
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
    });
    let path = folder.join("manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Starts a server that answers all requests with 200, so that the bucket exists. Planning from a report reads no
/// objects.
fn start_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    endpoint
}
