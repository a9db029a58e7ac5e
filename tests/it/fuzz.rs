//! Damaged videos of each container and codec (`support/mutate.rs`) through the real binary.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::decoding;
use crate::support::{Scratch, said, tables, test_video, vidindex};

/// Number of files in every change; `VIDINDEX_TEST_ROUNDS` sets another.
const FILES: u64 = 300;
/// Files of one run.
const FILES_AT_ONCE: u64 = 1000;

/// Two seconds of video in each container and codec, most with sound.
fn encode_small(folder: &Path) {
    let h264 = "-c:v libx264 -preset veryfast -g 12 -bf 2";
    let files = [
        ("h264.mp4", format!("{h264} -c:a aac")),
        ("fragments.mp4", format!("{h264} -c:a aac -movflags frag_keyframe+empty_moov")),
        ("index_in_front.mov", format!("{h264} -c:a aac -movflags +faststart")),
        ("h264.mkv", format!("{h264} -c:a aac")),
        ("h264.flv", format!("{h264} -c:a aac")),
        ("h264.ts", format!("{h264} -c:a aac")),
        ("hevc.mp4", "-c:v libx265 -preset ultrafast -x265-params keyint=12:log-level=none".to_owned()),
        ("vp8.webm", "-c:v libvpx -deadline realtime -cpu-used -8 -g 12 -c:a libopus".to_owned()),
        ("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -c:a libopus".to_owned()),
        ("av1.mp4", "-c:v libsvtav1 -preset 12 -g 12".to_owned()),
        ("mpeg2.mpg", "-c:v mpeg2video -bf 2 -g 12 -c:a mp2".to_owned()),
        ("mpeg2.mxf", "-c:v mpeg2video -g 12 -c:a pcm_s16le -ar 48000".to_owned()),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2 -c:a mp2".to_owned()),
        ("mjpeg.avi", "-c:v mjpeg -q:v 8 -c:a mp2".to_owned()),
        ("wmv2.wmv", "-c:v wmv2 -c:a wmav2".to_owned()),
        ("theora.ogv", "-c:v libtheora -g 12 -c:a libvorbis".to_owned()),
        ("h263.3gp", "-c:v h263 -s 128x96 -c:a aac".to_owned()),
    ];
    for (name, options) in files {
        let mut all = vec!["-f", "lavfi", "-i", "sine=duration=2", "-shortest", "-pix_fmt", "yuv420p"];
        if name.starts_with("mjpeg") {
            all.extend(["-pix_fmt", "yuvj420p"]);
        }
        all.extend(options.split(' '));
        test_video(&folder.join(name), "128x96", "25", 2.0, &all);
    }
}

#[test]
fn every_damaged_file_gets_one_row_and_none_stops_the_run() {
    let scratch = Scratch::new();
    let seeds = scratch.path("seeds");
    std::fs::create_dir(&seeds).unwrap();
    encode_small(&seeds);
    let rounds = std::env::var("VIDINDEX_TEST_ROUNDS").ok();
    let files: u64 = rounds.as_ref().map_or(FILES, |rounds| rounds.parse().unwrap());
    // Other files in each campaign, and the same in each change.
    let first = rounds.map_or(1, |_| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
    let mutate = Path::new(env!("CARGO_BIN_EXE_vidindex")).with_file_name("examples").join("mutate");
    let mut kinds = BTreeMap::<String, BTreeMap<String, u64>>::new();
    for seed in (first..first + files).step_by(FILES_AT_ONCE as usize) {
        let videos = scratch.videos();
        let count = FILES_AT_ONCE.min(first + files - seed);
        let mut command = Command::new(&mutate);
        command.args(["--seed", &seed.to_string(), "--count", &count.to_string()]).arg(&seeds).arg(&videos);
        assert!(command.status().unwrap().success());
        let sections = decoding::sections((Some(1.0), Some(1.0)));
        let job = scratch.job(&format!("{sections}[run]\nvideo_timeout_seconds = 20\nshard_bytes = \"1 MiB\"\n"));
        let output = vidindex(["run".as_ref(), job.as_os_str(), "--device".as_ref(), "cpu".as_ref()])
            .args(["--set", "input.include=[\"**/*\"]"])
            .output()
            .unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "seed {seed}: {}", said(&output));
        assert!(!said(&output).contains("panicked"), "seed {seed}: {}", said(&output));
        let rows = tables::rows(&scratch.index(), "videos");
        assert_eq!(rows.len() as u64, count, "seed {seed}");
        tables::assert_counts(&scratch.index());
        for row in rows {
            let name = row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            let (seed, video) = name.split_once('-').unwrap();
            let kind = row["error_kind"].as_str().unwrap_or("none");
            if ["decoder_crashed", "timeout", "out_of_memory"].contains(&kind) {
                println!("seed {seed} {video}: {kind}: {}", row["error_message"]);
            }
            // The parent would refuse it: the decoder reported what cannot be.
            let message = row["error_message"].as_str().unwrap_or_default();
            assert!(!message.contains("it sent"), "seed {seed} {video}: {message}");
            let what = format!("{} {kind}", row["status"].as_str().unwrap());
            *kinds.entry(what).or_default().entry(video.to_owned()).or_default() += 1;
        }
        std::fs::remove_dir_all(scratch.index()).unwrap();
        std::fs::remove_dir_all(&videos).unwrap();
        std::fs::create_dir(&videos).unwrap();
    }
    for (kind, videos) in &kinds {
        println!("{kind}: {} of {files}: {videos:?}", videos.values().sum::<u64>());
    }
    assert_eq!(kinds.values().flat_map(BTreeMap::values).sum::<u64>(), files);
    assert!(kinds.len() > 4, "the damage is always of the same kind: {kinds:?}");
}
