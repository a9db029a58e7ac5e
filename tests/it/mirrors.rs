//! Rotated and mirrored videos: the models get the frames as the ffmpeg tool displays them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use vidindex::decode::{ClipSpec, Decoders, Decoding, FullDecode, ImageSpec, Request, SampledFrame, StreamInfo, View};

use crate::support::{self, Scratch, ffmpeg, reference, run, tables, test_video};

/// Four numbers (a, b, c, d) of a display matrix, in the order of a track header, and the orientation of a frame:
/// degrees clockwise, and whether it is mirrored after the rotation.
type Case = ([f64; 4], (u16, bool));

const EIGHT: [Case; 8] = [
    ([1.0, 0.0, 0.0, 1.0], (0, false)),
    ([0.0, 1.0, -1.0, 0.0], (90, false)),
    ([-1.0, 0.0, 0.0, -1.0], (180, false)),
    ([0.0, -1.0, 1.0, 0.0], (270, false)),
    ([-1.0, 0.0, 0.0, 1.0], (0, true)),
    ([0.0, 1.0, 1.0, 0.0], (90, true)),
    ([1.0, 0.0, 0.0, -1.0], (180, true)),
    ([0.0, -1.0, -1.0, 0.0], (270, true)),
];

/// Scaled matrices, a matrix of zeros, and almost a quarter turn.
const ODD: [Case; 4] = [
    ([2.0, 0.0, 0.0, -1.0], (180, true)),
    ([0.0, 3.0, 3.0, 0.0], (90, true)),
    ([0.0, 0.0, 0.0, 0.0], (0, false)),
    ([0.006, 1.0, -1.0, 0.006], (90, false)),
];

const STORED: (usize, usize) = (96, 64);
const SIDE: usize = 96;

/// A lossless clip of five frames whose colours need no conversion, with `matrix` in the track header.
fn clip(folder: &Path, matrix: [f64; 4]) -> PathBuf {
    let path = folder.join("matrix.mov");
    test_video(&path, "96x64", "5", 1.0, &["-c:v", "png", "-pix_fmt", "rgb24"]);
    set_matrix(&path, matrix);
    path
}

/// Writes these numbers to the matrix of the first track.
fn set_matrix(path: &Path, [a, b, c, d]: [f64; 4]) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = bytes.windows(4).position(|name| name == b"tkhd").unwrap();
    // In version 0, the matrix follows version and flags, times, id, duration, layer, group and volume.
    assert_eq!(bytes[header + 4], 0);
    for (at, number) in [(0, a), (1, b), (3, c), (4, d)] {
        let fixed = ((number * 65536.0).round() as i32).to_be_bytes();
        bytes[header + 44 + at * 4..][..4].copy_from_slice(&fixed);
    }
    std::fs::write(path, bytes).unwrap();
}

/// The frames in RGB, as the ffmpeg tool displays them.
fn shown_by_ffmpeg(path: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-i"]).arg(path).args(options).args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
    let output = command.output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty(), "{}", support::said(&output));
    output.stdout
}

/// What the models get from a video: its stream, and its frames and first clip, in RGB and in the displayed size.
struct ModelInput {
    info: StreamInfo,
    images: Vec<u8>,
    clip: Vec<u8>,
}

async fn model_input(path: &Path) -> ModelInput {
    match decoded(path, None).await {
        Ok(input) => input,
        Err(reason) => decoded(path, Some(reason)).await.unwrap(),
    }
}

/// Decodes a video. If it must be decoded in full, returns the reason.
async fn decoded(path: &Path, in_full: Option<FullDecode>) -> Result<ModelInput, FullDecode> {
    let file = File::open(path).unwrap();
    // At these sizes, nothing is scaled.
    let clips = ClipSpec {
        frames: 5,
        side: STORED.1,
        view: View::Whole,
        mean: [0.0; 3],
        std: [1.0; 3],
        clip_seconds: 1.0,
        stride_seconds: 1.0,
    };
    let request = Request {
        size_bytes: file.metadata().unwrap().len(),
        clips: Some(clips),
        images: Some(ImageSpec { width: SIDE, height: SIDE, frames_per_second: 5.0 }),
        threads: 1,
        memory_bytes: 4 << 30,
        in_full,
        ..Default::default()
    };
    let decoders = Decoders::new(env!("CARGO_BIN_EXE_vidindex"));
    let mut decoding = Decoding::start(&decoders, request, Arc::new(file), Duration::from_secs(60)).unwrap();
    let (mut info, mut images, mut clip) = (None, Vec::new(), Vec::new());
    while let Some(frame) = decoding.next().await.unwrap() {
        match frame {
            SampledFrame::Opened(stream) => info = Some(stream),
            SampledFrame::Image(image) => {
                let (width, height) = (image.width as usize, image.height as usize);
                let (left, top) = ((SIDE - width) / 2, (SIDE - height) / 2);
                for y in top..top + height {
                    images.extend_from_slice(&image.slot.bytes()[(y * SIDE + left) * 3..][..width * 3]);
                }
            }
            SampledFrame::Clip(found) => {
                let halves = found.slot.halves();
                let channel = halves.len() / 3;
                let bytes = (0..channel)
                    .flat_map(|i| [0, 1, 2].map(|c| (halves[c * channel + i].to_f32() * 255.0).round() as u8));
                clip.extend(bytes);
            }
        }
    }
    match decoding.needs_full() {
        Some(reason) => Err(reason),
        None => Ok(ModelInput { info: info.unwrap(), images, clip }),
    }
}

fn orientation(info: &StreamInfo) -> (u16, bool) {
    (info.orientation.rotation, info.orientation.mirrored)
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.len() as f64
}

#[tokio::test]
async fn every_display_matrix_gives_the_same_pixels_as_ffmpeg() {
    let folder = tempfile::tempdir().unwrap();
    let mut pictures = Vec::new();
    for (matrix, expected) in EIGHT.into_iter().chain(ODD) {
        let path = clip(folder.path(), matrix);
        let (input, shown) = (model_input(&path).await, shown_by_ffmpeg(&path, &[]));
        assert_eq!(orientation(&input.info), expected, "{matrix:?}");
        let size = if expected.0 % 180 == 90 { (STORED.1, STORED.0) } else { STORED };
        assert_eq!((input.info.width as usize, input.info.height as usize), size, "{matrix:?}");
        assert_eq!(shown.len(), 5 * 3 * STORED.0 * STORED.1);
        assert!(input.images == shown, "{matrix:?}: images differ by {}", mean_difference(&input.images, &shown));
        assert!(input.clip == shown, "{matrix:?}: clips differ by {}", mean_difference(&input.clip, &shown));
        pictures.push(shown);
    }
    // The test picture has no symmetry, so all eight orientations differ.
    pictures.truncate(EIGHT.len());
    pictures.sort();
    pictures.dedup();
    assert_eq!(pictures.len(), EIGHT.len());
}

#[tokio::test]
async fn a_tilted_video_gives_almost_the_same_pixels_as_ffmpeg() {
    let folder = tempfile::tempdir().unwrap();
    for degrees in [45.0_f64, 200.0] {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        let path = clip(folder.path(), [cosine, sine, -sine, cosine]);
        let (input, shown) = (model_input(&path).await, shown_by_ffmpeg(&path, &[]));
        assert_eq!(orientation(&input.info), (degrees as u16, false));
        // ffmpeg rounds down, so the pixels may differ slightly.
        let difference = mean_difference(&input.images, &shown);
        assert!(difference < 0.5, "{degrees}: images differ by {difference}");
        assert!(mean_difference(&input.images, &shown_by_ffmpeg(&path, &["-vf", "hflip"])) > 20.0);
    }
}

/// An H.264 stream can contain the display orientation, which applies to all frames up to the next key frame.
#[tokio::test]
async fn an_orientation_in_the_h264_stream_applies_until_the_next_key_frame() {
    let scratch = Scratch::new();
    let upright = scratch.path("upright.mp4");
    let lossless = ["-c:v", "libx264rgb", "-qp", "0", "-g", "99", "-bf", "2"];
    test_video(&upright, "96x64", "5", 1.0, &lossless);
    let tagged = scratch.videos().join("tagged.mp4");
    let (from, to) = (upright.to_str().unwrap(), tagged.to_str().unwrap());
    let filter = "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal";
    ffmpeg(&["-i", from, "-c", "copy", "-bsf:v", filter, to]);
    let input = model_input(&tagged).await;
    // Mirroring and then rotating by 90 degrees counterclockwise equals rotating by 90 degrees clockwise and then
    // mirroring.
    assert_eq!(orientation(&input.info), (90, true));
    assert_eq!((input.info.width, input.info.height), (64, 96));
    let shown = shown_by_ffmpeg(&upright, &["-vf", "hflip,transpose=cclock"]);
    assert!(input.images == shown, "images differ by {}", mean_difference(&input.images, &shown));
    assert!(input.clip == shown, "clips differ by {}", mean_difference(&input.clip, &shown));
    // ffmpeg applies the orientation to the first frame.
    let first = shown_by_ffmpeg(&tagged, &["-frames:v", "1"]);
    assert!(input.images.starts_with(&first));
    // A stream of key frames of which only the first has an orientation.
    test_video(&upright, "96x64", "5", 1.0, &["-c:v", "libx264rgb", "-qp", "0", "-g", "1"]);
    ffmpeg(&["-i", from, "-c", "copy", "-bsf:v", filter, to]);
    let job = scratch.job(&scratch.small_models());
    run(&job, &["--set", "persons.frames_per_second=5.0"], 0);
    let rows = tables::rows(&scratch.index(), "videos");
    assert_eq!((&rows[0]["rotation"], &rows[0]["mirrored"]), (&90.into(), &true.into()), "{rows:?}");
    assert_eq!((&rows[0]["width"], &rows[0]["height"]), (&64.into(), &96.into()), "{rows:?}");
    let widest = |frame: i64| {
        let persons = tables::rows(&scratch.index(), "persons");
        let of = persons.iter().filter(|row| row["frame"] == frame).map(|row| row["x2"].as_f64().unwrap());
        of.fold(0.0, f64::max)
    };
    assert!(widest(0) <= 64.0 && widest(1) > 64.0 && widest(1) <= 96.0, "{} {}", widest(0), widest(1));
}

/// A street with three persons, stored mirrored or upside down. They are found if the frames are displayed upright.
#[test]
fn persons_in_mirrored_videos_are_found_where_a_player_shows_them() {
    let Some(reference) = reference() else { return };
    let scratch = Scratch::new();
    let cases = [("hflip.mp4", 0, true), ("stored_vflip.mp4", 180, true)];
    for (name, ..) in cases {
        std::os::unix::fs::symlink(reference.join("cases").join(name), scratch.videos().join(name)).unwrap();
    }
    let model = reference.join("models/yolov5n.onnx");
    let job = scratch.job(&format!("[persons]\nmodel = \"{}\"\n[report]\nthumbnails = true\n", model.display()));
    run(&job, &[], 0);
    let rows = |table: &str, name: &str| {
        let rows = tables::rows(&scratch.index(), table);
        rows.into_iter().filter(|row| row["uri"].as_str().unwrap().ends_with(name)).collect::<Vec<_>>()
    };
    for (name, rotation, mirrored) in cases {
        let video = &rows("videos", name)[0];
        let seconds = video["duration_seconds"].as_f64().unwrap();
        assert!(video["status"] == "ok" && (seconds - 3.0).abs() < 1e-6, "{video:?}");
        assert_eq!((&video["rotation"], &video["mirrored"]), (&rotation.into(), &mirrored.into()), "{video:?}");
        assert_eq!((&video["width"], &video["height"]), (&406.into(), &540.into()), "{video:?}");
        // One frame per second, for three seconds.
        let persons = rows("persons", name);
        for frame in [0, 1, 2].map(f64::from) {
            assert_eq!(persons.iter().filter(|row| row["time_seconds"] == frame).count(), 3, "{persons:?}");
        }
        assert_eq!(rows("thumbnails", name).len(), 3);
    }
    // Both videos show the same street, but mirrored.
    let centres = |name: &str| {
        let persons = rows("persons", name).into_iter().filter(|row| row["time_seconds"] == 0.0);
        let mut centres: Vec<f64> =
            persons.map(|row| (row["x1"].as_f64().unwrap() + row["x2"].as_f64().unwrap()) / 2.0).collect();
        centres.sort_by(f64::total_cmp);
        centres
    };
    let mut mirrored: Vec<f64> = centres("hflip.mp4").into_iter().map(|x| 406.0 - x).collect();
    mirrored.sort_by(f64::total_cmp);
    let upright = centres("stored_vflip.mp4");
    assert!(mirrored.iter().zip(&upright).all(|(a, b)| (a - b).abs() < 12.0), "{mirrored:?} {upright:?}");
}
