//! Status and duration of videos that are complete, truncated, damaged, concatenated, or have unusual timestamps.
//! `partial` means only that frames are missing or damaged. If the timestamps jump, time continues at the end of the
//! last frame.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::support::{Scratch, make, reference, run, tables, test_video};

type Row = Map<String, Value>;

/// The rows of `videos` by file name, after a run with the small action model that exits with this code.
fn index(scratch: &Scratch, code: i32) -> BTreeMap<String, Row> {
    let models = scratch.small_models();
    let job = scratch.job(models.split("[persons]").next().unwrap());
    run(&job, &["--set", "input.include=[\"**/*\"]"], code);
    tables::assert_counts(&scratch.index());
    let rows = tables::rows(&scratch.index(), "videos");
    rows.into_iter().map(|row| (name(&row).to_owned(), row)).collect()
}

fn name(row: &Row) -> &str {
    row["uri"].as_str().unwrap().rsplit('/').next().unwrap()
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].as_f64().unwrap()
}

/// Checks a video's status and duration, and that its last segment ends where the video ends.
fn assert_video(scratch: &Scratch, row: &Row, status: &str, duration: f64) {
    assert_eq!(row["status"], status, "{row:?}");
    assert!((number(row, "duration_seconds") - duration).abs() < 0.011, "{duration} s: {row:?}");
    let actions = tables::rows(&scratch.index(), "actions");
    let ends = actions.iter().filter(|action| action["uri"] == row["uri"]).map(|action| number(action, "end_seconds"));
    let last = ends.fold(0.0, f64::max);
    assert!((last - duration).abs() < 0.011, "the last segment ends at {last} s: {row:?}");
}

/// Encodes H.264 at 25 frames per second, with B-frames and a key frame every second.
fn encode(file: &Path, seconds: f64, options: &[&str]) {
    let h264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "25", "-pix_fmt", "yuv420p"];
    test_video(file, "160x120", "25", seconds, &[&h264, options].concat());
}

/// Eight seconds of video in every kind of container.
const CONTAINERS: [&str; 9] =
    ["fast.mp4", "fragments.mp4", "a.mkv", "live.mkv", "a.webm", "a.ts", "a.mpg", "a.avi", "a.flv"];

fn every_container(folder: &Path) {
    encode(&folder.join("a.mp4"), 8.0, &[]);
    make(folder, "-i @a.mp4 -c copy -movflags +faststart @fast.mp4");
    make(folder, "-i @a.mp4 -c copy -movflags frag_keyframe+empty_moov+default_base_moof @fragments.mp4");
    make(folder, "-i @a.mp4 -c copy @a.mkv");
    make(folder, "-i @a.mp4 -c copy -live 1 @live.mkv");
    make(folder, "-i @a.mp4 -c copy @a.ts");
    make(folder, "-i @a.mp4 -c copy @a.flv");
    // With a positive number, VP8 would adapt the effort to the time that is left, and each file would be another.
    make(folder, "-i @a.mp4 -c:v libvpx -deadline realtime -cpu-used -8 -b:v 300k @a.webm");
    make(folder, "-i @a.mp4 -c:v mpeg4 -q:v 4 -bf 2 @a.avi");
    make(folder, "-i @a.mp4 -c:v mpeg2video -q:v 4 -bf 2 -g 12 @a.mpg");
    std::fs::remove_file(folder.join("a.mp4")).unwrap();
}

#[test]
fn complete_files_are_ok_and_truncated_files_are_partial() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    every_container(&folder);
    for file in CONTAINERS {
        let complete = std::fs::read(folder.join(file)).unwrap();
        for percent in [35, 60, 85] {
            std::fs::write(folder.join(format!("{percent}_{file}")), &complete[..complete.len() * percent / 100])
                .unwrap();
        }
    }
    // Truncated inside the header of a fragment.
    let complete = std::fs::read(folder.join("fragments.mp4")).unwrap();
    let fragment = complete.windows(4).enumerate().filter(|(_, kind)| kind == b"moof").nth(5).unwrap().0 - 4;
    for kept in [12, 100, 250] {
        std::fs::write(folder.join(format!("header_{kept}.mp4")), &complete[..fragment + kept]).unwrap();
    }
    let rows = index(&scratch, 3);
    assert_eq!(rows.len(), 4 * CONTAINERS.len() + 3);
    for (name, row) in &rows {
        match CONTAINERS.contains(&name.as_str()) {
            true => {
                assert_video(&scratch, row, "ok", 8.0);
                assert_eq!(row["frames_presented"], 200, "{row:?}");
            }
            false => {
                assert_eq!((&row["status"], &row["error_kind"]), (&"partial".into(), &"corrupt".into()), "{row:?}");
                let frames = number(row, "frames_presented");
                assert!((40.0..200.0).contains(&frames), "{row:?}");
                assert!((number(row, "duration_seconds") - frames / 25.0).abs() < 0.2, "{row:?}");
            }
        }
    }
    for kept in [12, 100, 250] {
        let row = &rows[&format!("header_{kept}.mp4")];
        assert_eq!((&row["frames_presented"], &row["error_message"]), (&125.into(), &"the file is cut off".into()));
    }
}

#[test]
fn files_with_overwritten_bytes_are_partial() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    every_container(&folder);
    for file in CONTAINERS {
        let complete = std::fs::read(folder.join(file)).unwrap();
        for seed in 1..4_u32 {
            let mut damaged = complete.clone();
            let at = damaged.len() / 5 * (seed as usize + 1);
            for (i, byte) in damaged[at..at + 3000].iter_mut().enumerate() {
                *byte = ((i as u32 + seed * 7919).wrapping_mul(2_654_435_761) >> 13) as u8;
            }
            std::fs::write(folder.join(format!("{seed}_{file}")), damaged).unwrap();
        }
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    for (_, row) in index(&scratch, 3) {
        assert_eq!((&row["status"], &row["error_kind"]), (&"partial".into(), &"corrupt".into()), "{row:?}");
    }
}

#[test]
fn audio_and_subtitles_that_are_longer_than_the_video_do_not_affect_its_row() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    let file = |name: &str| folder.join(name);
    encode(&file("a.mp4"), 4.0, &[]);
    let sound = "-f lavfi -i sine=duration=20 -i @a.mp4 -map 0 -map 1 -c:v copy -c:a aac";
    make(&folder, &format!("{sound} -movflags +faststart @sound.mp4"));
    make(&folder, &format!("{sound} @sound.ts"));
    let drawn = "-f lavfi -i sine=duration=20 -f lavfi -i testsrc2=size=160x120:rate=25:duration=4";
    make(&folder, &format!("{drawn} -c:v mpeg4 -q:v 4 -c:a pcm_s16le @sound.avi"));
    make(&folder, &format!("{sound} @sound.flv"));
    make(&folder, &format!("{sound} @sound.mkv"));
    std::fs::write(scratch.path("a.srt"), "1\n00:00:01,000 --> 00:01:00,000\nstill here\n").unwrap();
    let subtitles = format!("-i @a.mp4 -i {} -c:v copy", scratch.path("a.srt").display());
    make(&folder, &format!("{subtitles} -c:s mov_text @subtitles.mp4"));
    make(&folder, &format!("{subtitles} -c:s srt @subtitles.mkv"));
    let late = "-f lavfi -i sine=duration=20 -itsoffset 9 -i @a.mp4 -map 0 -map 1 -c:v copy -c:a aac";
    for container in ["mp4", "mkv", "ts", "flv"] {
        make(&folder, &format!("{late} @late.{container}"));
    }
    // Truncated after the last frame, so that only audio is missing.
    for name in ["sound.mp4", "sound.mkv"] {
        let complete = std::fs::read(file(name)).unwrap();
        std::fs::write(file(&format!("cut_{name}")), &complete[..complete.len() * 8 / 10]).unwrap();
    }
    // A fragmented recording whose header was written before its end: all bits of the durations in it are ones.
    make(&folder, "-i @a.mp4 -c copy -movflags frag_keyframe+empty_moov+default_base_moof @unknown.mp4");
    let mut unknown = std::fs::read(file("unknown.mp4")).unwrap();
    for (kind, duration) in [(b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)] {
        let at = unknown.windows(4).position(|bytes| bytes == kind).unwrap();
        unknown[at + duration..at + duration + 4].fill(0xff);
    }
    std::fs::write(file("unknown.mp4"), unknown).unwrap();
    for row in index(&scratch, 0).values() {
        assert_video(&scratch, row, "ok", 4.0);
        assert_eq!(row["frames_presented"], 100, "{row:?}");
        if name(row).starts_with("late") {
            assert!(number(row, "start_seconds") >= 9.0, "{row:?}");
        }
    }
}

#[test]
fn recordings_that_start_between_key_frames_are_ok() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    let file = |name: &str| folder.join(name);
    let open = ["-x264-params", "open-gop=1:bframes=3", "-preset", "fast"];
    encode(&scratch.path("h264.ts"), 8.0, &open);
    let source = |name: &str| scratch.path(name).display().to_string();
    let mpeg2 = ["-c:v", "mpeg2video", "-q:v", "4", "-bf", "2", "-g", "12"];
    test_video(&scratch.path("mpeg2.ts"), "160x120", "25", 8.0, &mpeg2);
    let hevc =
        ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "open-gop=1:keyint=25:bframes=3:log-level=none"];
    test_video(&scratch.path("hevc.ts"), "160x120", "25", 8.0, &[&hevc[..], &["-pix_fmt", "yuv420p"]].concat());
    for codec in ["h264", "mpeg2", "hevc"] {
        let complete = std::fs::read(source(&format!("{codec}.ts"))).unwrap();
        for percent in [15, 40, 50] {
            let from = complete.len() * percent / 100 / 188 * 188;
            std::fs::write(file(&format!("{percent}_{codec}.ts")), &complete[from..]).unwrap();
        }
        for container in ["mp4", "mkv", "ts"] {
            let from = source(&format!("{codec}.ts"));
            make(&folder, &format!("-ss 2.5 -i {from} -c copy @{codec}.{container}"));
        }
    }
    for row in index(&scratch, 0).values() {
        assert!(number(row, "frames_presented") > 50.0, "{row:?}");
    }
}

#[test]
fn timestamps_that_restart_or_wrap_continue_after_the_last_frame() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    let file = |name: &str| folder.join(name);
    let join = |names: [&str; 2], joined: &str| {
        let bytes = names.map(|name| std::fs::read(file(name)).unwrap()).concat();
        std::fs::write(file(joined), bytes).unwrap();
    };
    let hour = ["-output_ts_offset", "3600"];
    encode(&file("hour.ts"), 6.0, &hour);
    encode(&file("zero.ts"), 6.0, &["-bf", "0"]);
    encode(&file("wrap.ts"), 12.0, &["-output_ts_offset", "95436"]);
    join(["hour.ts", "zero.ts"], "from_hour.ts");
    join(["zero.ts", "hour.ts"], "to_hour.ts");
    encode(&file("short.ts"), 0.4, &["-bf", "0"]);
    for options in [&["-bf", "2"], &["-bf", "0"]] {
        let mpeg2 = ["-c:v", "mpeg2video", "-q:v", "4", "-g", "12"];
        let name = format!("bf{}.mpg", options[1]);
        test_video(&file(&name), "160x120", "25", 6.0, &[&mpeg2[..], options].concat());
    }
    join(["bf2.mpg", "bf0.mpg"], "joined.mpg");
    join(["bf0.mpg", "bf2.mpg"], "joined_reversed.mpg");
    join(["short.ts", "short.ts"], "twice.ts");
    for name in ["hour.ts", "zero.ts", "short.ts", "bf2.mpg", "bf0.mpg"] {
        std::fs::remove_file(file(name)).unwrap();
    }
    for (name, row) in &index(&scratch, 0) {
        let seconds = if name == "twice.ts" { 0.8 } else { 12.0 };
        assert_video(&scratch, row, "ok", seconds);
        assert_eq!(number(row, "frames_presented"), (seconds * 25.0_f64).round(), "{row:?}");
    }
    let actions = tables::rows(&scratch.index(), "actions");
    let frames = |name: &str| -> f64 {
        let of = actions.iter().filter(|row| row["uri"].as_str().unwrap().ends_with(name));
        of.map(|row| number(row, "frames")).sum()
    };
    assert_eq!(
        (frames("/from_hour.ts"), frames("/joined.mpg")),
        (300.0, 300.0),
        "each frame is in exactly one segment"
    );
}

#[test]
fn reference_cases_have_the_expected_durations_and_person_times() {
    let Some(reference) = reference() else { return };
    let scratch = Scratch::new();
    let cases =
        [("audio_longer.mkv", 4.0), ("static_end.mp4", 29.93), ("bus8s_grey4s.ts", 12.0), ("people_1s.mp4", 1.0)];
    for (case, _) in cases {
        std::os::unix::fs::symlink(reference.join("cases").join(case), scratch.videos().join(case)).unwrap();
    }
    let models = scratch.small_models();
    let actions = models.split("[persons]").next().unwrap();
    let persons = format!("[persons]\nmodel = \"{}\"\n", reference.join("models/yolov5n.onnx").display());
    run(&scratch.job(&format!("{actions}{persons}")), &[], 0);
    let rows = tables::rows(&scratch.index(), "videos");
    for (case, seconds) in cases {
        let row = rows.iter().find(|row| name(row) == case).unwrap();
        assert_video(&scratch, row, "ok", seconds);
    }
    let persons = tables::rows(&scratch.index(), "persons");
    let times = |case: &str| -> Vec<i64> {
        let of = persons.iter().filter(|row| name(row) == case);
        let mut times: Vec<_> = of.map(|row| (number(row, "time_seconds") * 1000.0).round() as i64).collect();
        times.dedup();
        times
    };
    assert_eq!(times("bus8s_grey4s.ts"), (0..8).map(|second| second * 1000).collect::<Vec<_>>());
    assert_eq!(times("people_1s.mp4"), [0]);
}
