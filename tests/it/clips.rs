//! `clips` cuts moments out of videos: of every container and codec, with sound, exactly or at key frames, and with boxes drawn
//! on them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{
    DRAWN_CLIPS, Scratch, copy_drawn_clips, drawn_clip, ffmpeg, make, run, said, stderr, stdout, test_video, vidindex,
};

fn clips(place: &Path, args: &[&str], code: i32) -> Output {
    let duckdb = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/duckdb");
    let mut command = vidindex(["clips".as_ref(), place.as_os_str()]);
    let output = command.args(args).env("VIDINDEX_DUCKDB", duckdb).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?} {}", said(&output));
    output
}

fn cut(place: &Path, out: &Path, args: &[&str]) -> Vec<Value> {
    let output = clips(place, &[&["--json", "--out", out.to_str().unwrap()], args].concat(), 0);
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// What `ffprobe` prints.
fn probe(file: &Path, entries: &str) -> Vec<String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "default=nk=1:nw=1", "-show_entries", entries]).arg(file);
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}: {}", file.display(), said(&output));
    stdout(&output).lines().map(str::to_owned).collect()
}

/// The hash of each frame. Fails if the file has an error: H.264 may ask to forget pictures that were left out at the end.
fn frames(file: &Path) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-noautorotate", "-i"]).arg(file);
    let output = command.args(["-map", "0:v", "-f", "framemd5", "-vsync", "passthrough", "-"]).output().unwrap();
    let errors = stderr(&output);
    let is_readable = errors.lines().all(|line| line.ends_with("mmco: unref short failure"));
    assert!(output.status.success() && is_readable, "{}: {}", file.display(), said(&output));
    let text = stdout(&output);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(',').next().unwrap().trim().to_owned()).collect()
}

fn path(clip: &Value) -> PathBuf {
    clip["file"].as_str().unwrap().into()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// A job with the demo's detector, which finds drawn people.
fn job(scratch: &Scratch, more: &str) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    scratch.job(&format!("[persons]\nmodel = \"{}\"\n{more}", models.join("demo-yolov5.onnx").display()))
}

#[test]
fn a_part_of_a_video_in_any_container_is_copied_from_its_key_frame_on_or_encoded_exactly() {
    let scratch = Scratch::new();
    copy_drawn_clips(&scratch.videos());
    let job = job(&scratch, "frames_per_second = 0.5\n");
    run(&job, &[], 0);
    let mut encoded = Vec::new();
    for number_of_clip in 0..DRAWN_CLIPS / 2 {
        let name = drawn_clip(number_of_clip).file_name().unwrap().to_str().unwrap().to_owned();
        let part = ["--video", &name, "--from", "3", "--to", "5"];
        let [clip] = &cut(&job, &scratch.path("copied"), &part)[..] else { panic!("{name}: not one clip") };
        assert!((number(&clip["start_seconds"]), number(&clip["end_seconds"])) == (3.0, 5.0), "{clip}");
        let original = frames(&scratch.videos().join(&name));
        let seen = frames(&path(clip));
        let rate =
            original.len() as f64 / probe(&scratch.videos().join(&name), "format=duration")[0].parse::<f64>().unwrap();
        if clip["is_encoded"] == false {
            let first = number(&clip["first_seconds"]);
            assert!(first <= 3.0 + 1e-3, "{clip}");
            // The same pictures, without a gap: those that follow the last key frame.
            let begin = original.windows(seen.len()).position(|window| window == seen);
            let begin = begin.unwrap_or_else(|| panic!("{name}: {} pictures are not those of the video", seen.len()));
            assert!((begin as f64 / rate - first).abs() < 0.2, "{name}: picture {begin}, {first} s");
            assert!((begin + seen.len()) as f64 / rate > 5.0 - 0.2, "{name} ends early");
        } else {
            encoded.push(name.clone());
        }
        let [clip] = &cut(&job, &scratch.path("encoded"), &[&part[..], &["--encode"]].concat())[..] else {
            panic!("{name}")
        };
        let first = number(&clip["first_seconds"]);
        assert!((0.0..0.06).contains(&(first - 3.0)), "{name}: {first}");
        let seconds: f64 = probe(&path(clip), "format=duration")[0].parse().unwrap();
        assert!((seconds - 2.0).abs() < 0.1, "{name}: {seconds}");
        assert!((frames(&path(clip)).len() as f64 - 2.0 * rate).abs() < 3.0, "{name}");
        assert_eq!(probe(&path(clip), "stream=codec_name,pix_fmt"), ["h264", "yuv420p"], "{name}");
    }
    // The others are rotated.
    assert_eq!(encoded, ["clip-003.mov", "clip-008.mov", "clip-012.mov"]);
}

#[test]
fn rotated_videos_are_upright_and_sound_is_kept() {
    let scratch = Scratch::new();
    let videos = scratch.videos();
    make(
        &videos,
        "-f lavfi -i testsrc2=size=320x180:rate=25:duration=6 -f lavfi -i sine=frequency=440:duration=6 -pix_fmt yuv420p -g 25 \
         -c:a aac @sound.mp4",
    );
    let (from, to) = (videos.join("sound.mp4"), videos.join("turned.mp4"));
    ffmpeg(&["-i", from.to_str().unwrap(), "-c", "copy", "-metadata:s:v", "rotate=90", to.to_str().unwrap()]);
    let job = job(&scratch, "frames_per_second = 0.5\n");
    run(&job, &[], 0);
    for (name, args, size, is_encoded) in [
        ("sound.mp4", &[][..], ["320", "180"], false),
        ("sound.mp4", &["--encode"], ["320", "180"], true),
        ("turned.mp4", &[], ["180", "320"], true),
    ] {
        let part = ["--video", name, "--from", "2", "--to", "4"];
        let [clip] = &cut(&job, &scratch.path("clips"), &[&part, args].concat())[..] else { panic!("{name}") };
        assert_eq!(clip["is_encoded"], is_encoded, "{clip}");
        assert_eq!(probe(&path(clip), "stream=codec_name"), ["h264", "aac"]);
        assert_eq!(probe(&path(clip), "stream=width,height"), size);
        for seconds in probe(&path(clip), "stream=duration") {
            assert!((seconds.parse::<f64>().unwrap() - 2.0).abs() < 0.15, "{name}: {seconds} s");
        }
    }
}

#[test]
fn moments_are_cut_strongest_first_and_their_edit_list_can_be_played() {
    let scratch = Scratch::new();
    for number in 0..2 {
        test_video(
            &scratch.videos().join(format!("{number} 'x'.mp4")),
            "128x96",
            "25",
            6.0,
            &["-pix_fmt", "yuv420p", "-g", "25"],
        );
    }
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    // With random weights, one label is the best of all segments.
    let label = crate::support::query(
        &scratch.index(),
        &["--format", "lines", "SELECT any_value(top_label) FROM current_actions"],
    );
    let args = [label.trim(), "--min-score", "0", "--pad", "0.5"];
    let written = cut(&job, &scratch.path("clips"), &args);
    assert_eq!(written.len(), 2, "{written:?}");
    assert!(number(&written[0]["peak_score"]) >= number(&written[1]["peak_score"]));
    for (clip, number_of_clip) in written.iter().zip(["001-", "002-"]) {
        let name = path(clip).file_name().unwrap().to_str().unwrap().to_owned();
        assert!(name.starts_with(number_of_clip) && name.ends_with("-0.0s.mp4") && !name.contains('\''), "{name}");
        assert_eq!(frames(&path(clip)).len(), 150);
    }
    // The index does not know any more than its address, and paths go to standard output.
    let printed = clips(
        &scratch.index(),
        &[&args[..], &["--limit", "1", "--out", scratch.path("one").to_str().unwrap()]].concat(),
        0,
    );
    assert!(Path::new(&stdout(&printed)).is_file(), "{}", said(&printed));
    let list = scratch.path("list.ffconcat");
    std::fs::write(&list, clips(&job, &[&args[..], &["--edit-list"]].concat(), 0).stdout).unwrap();
    let joined = scratch.path("joined.mp4");
    ffmpeg(&["-safe", "0", "-i", list.to_str().unwrap(), "-c", "copy", joined.to_str().unwrap()]);
    assert_eq!(frames(&joined).len(), 300);

    let none = clips(&job, &[label.trim(), "--min-score", "1.1"], 0);
    assert!(stderr(&none).contains("no moment is so strong"), "{}", said(&none));
    assert!(stderr(&clips(&job, &["no such label"], 1)).contains("Similar labels"));
    assert!(stderr(&clips(&job, &["--video", "absent.mp4"], 1)).contains("the index has no video absent.mp4"));
    clips(&job, &[], 2);
    clips(&job, &["--video", "0 'x'.mp4", "--from", "3", "--to", "2"], 2);
}

#[test]
fn a_video_that_changed_is_named_and_the_others_are_cut() {
    let scratch = Scratch::new();
    for name in ["changed", "gone", "kept"] {
        test_video(&scratch.videos().join(format!("{name}.mp4")), "128x96", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&scratch.small_models());
    run(&job, &[], 0);
    std::fs::write(scratch.videos().join("changed.mp4"), "another file").unwrap();
    std::fs::remove_file(scratch.videos().join("gone.mp4")).unwrap();
    let label = crate::support::query(
        &scratch.index(),
        &["--format", "lines", "SELECT any_value(top_label) FROM current_actions"],
    );
    let out = scratch.path("clips");
    let output = clips(&job, &[label.trim(), "--min-score", "0", "--out", out.to_str().unwrap()], 3);
    let message = stderr(&output);
    assert!(message.contains("changed_during_read") && message.contains("changed.mp4"), "{message}");
    assert!(message.contains("not_found") && message.contains("gone.mp4"), "{message}");
    assert!(stdout(&output).ends_with("-kept-0.0s.mp4"), "{}", said(&output));
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "no unfinished files");
}

#[test]
fn boxes_are_drawn_where_the_detector_found_them() {
    let scratch = Scratch::new();
    let source = drawn_clip(0);
    std::fs::copy(&source, scratch.videos().join("drawn.mp4")).unwrap();
    let job = job(&scratch, "track = true\n");
    run(&job, &[], 0);
    let [clip] = &cut(&job, &scratch.path("clips"), &["--video", "drawn.mp4", "--annotate"])[..] else { panic!() };
    let rows = crate::support::tables::rows(&scratch.index(), "persons");
    let row = rows.iter().find(|row| row["track_id"] == 1 && number(&row["time_seconds"]) > 2.0).unwrap();
    let rgb = |file: &Path, name: &str| {
        let raw = scratch.path(name);
        let at = row["time_seconds"].to_string();
        let (file, to) = (file.to_str().unwrap(), raw.to_str().unwrap());
        ffmpeg(&["-i", file, "-ss", &at, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", to]);
        std::fs::read(raw).unwrap()
    };
    let (plain, drawn) = (rgb(&source, "plain"), rgb(&path(clip), "drawn"));
    let size: Vec<usize> = probe(&source, "stream=width,height").iter().map(|text| text.parse().unwrap()).collect();
    let at = |picture: &[u8], x: f64, y: f64| -> [i32; 3] {
        let start = 3 * (y.round() as usize * size[0] + x.round() as usize);
        [0, 1, 2].map(|channel| i32::from(picture[start + channel]))
    };
    let distance = |a: [i32; 3], b: [i32; 3]| (0..3).map(|channel| (a[channel] - b[channel]).abs()).max().unwrap();
    // The first colour is orange. Its line is thin, and the chroma of a pixel is that of its neighbours, too.
    let edges = ["x1", "y1", "x2", "y2"].map(|edge| number(&row[edge]));
    let middle = f64::midpoint(edges[1], edges[3]);
    let is_line = |x: f64| (-2..=2).any(|by| distance(at(&drawn, x + f64::from(by), middle), [230, 159, 0]) < 90);
    assert!(is_line(edges[0]) && is_line(edges[2]), "{row:?}");
    // Nothing is drawn far from boxes and text.
    let far = (size[0] as f64 - 4.0, size[1] as f64 - 4.0);
    assert!(distance(at(&plain, far.0, far.1), at(&drawn, far.0, far.1)) < 24);
}
