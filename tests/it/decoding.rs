//! Selective decoding writes the same rows as full decoding, for every codec and container, from fewer decoded frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::outages::Unreliable;
use crate::support::bucket::{Bucket, comparable};
use crate::support::{
    Scratch, copy_drawn_clips, ffmpeg, make, reference, said, tables, test_video, tiny_model, vidindex,
};

type Row = Map<String, Value>;

/// Sections of jobs that look at different parts of a video: persons every 10 s and every second; clips without a pause,
/// every 7.3 s and every minute; and both models.
const JOBS: [(Option<f64>, Option<f64>); 6] = [
    (Some(0.1), None),
    (Some(1.0), None),
    (None, Some(1.0)),
    (None, Some(7.3)),
    (None, Some(60.0)),
    (Some(0.7), Some(3.1)),
];

/// Those of them that run with every change: the sparsest, the densest, and both models. The others need `VIDINDEX_TEST_ROUNDS`.
const USUAL_JOBS: [usize; 3] = [0, 2, 5];

pub(crate) fn sections((frames_per_second, stride_seconds): (Option<f64>, Option<f64>)) -> String {
    let actions = stride_seconds.map(|stride| {
        let model = tiny_model("slowfast-tiny", "32");
        let model = model.display();
        format!("[actions]\nmodel = \"{model}\"\nscores = \"full\"\nstride_seconds = {stride}\n")
    });
    let persons = frames_per_second.map(|rate| {
        let model = tiny_model("yolov5n", "96");
        let model = model.display();
        format!("[persons]\nmodel = \"{model}\"\nconfidence = 0.0001\nframes_per_second = {rate}\n")
    });
    [actions, persons].into_iter().flatten().collect()
}

/// Encodes twelve seconds, or as many as `options` say, with a file name and options for FFmpeg.
fn encode(folder: &Path, name: &str, options: &str) {
    let options: Vec<&str> = options.split_whitespace().collect();
    test_video(&folder.join(name), "128x96", "25", 12.0, &[&["-pix_fmt", "yuv420p"], &options[..]].concat());
}

/// Videos of all codecs and containers, with groups of pictures of many kinds.
fn encode_corpus(folder: &Path) {
    const H264: &str = "-c:v libx264 -preset veryfast";
    let files = [
        ("b_frames.mp4", &*format!("{H264} -bf 3 -g 50")),
        ("pyramid.mkv", &format!("{H264} -bf 7 -b_strategy 0 -x264-params b-pyramid=normal -g 40")),
        ("one_group.mp4", &format!("{H264} -bf 2 -g 10000 -sc_threshold 0")),
        ("short_groups.mp4", &format!("{H264} -bf 2 -g 12 -sc_threshold 0")),
        ("no_b_frames.mp4", &format!("{H264} -tune zerolatency -g 30")),
        ("intra.mp4", &format!("{H264} -g 1")),
        ("open_groups.mp4", &format!("{H264} -bf 3 -g 25 -x264-params open-gop=1")),
        ("refresh.mp4", &format!("{H264} -bf 0 -g 25 -x264-params intra-refresh=1")),
        ("interlaced.mp4", &format!("{H264} -bf 2 -g 25 -flags +ilme+ildct -top 1")),
        ("fragments.mp4", &format!("{H264} -bf 2 -g 25 -movflags frag_keyframe+empty_moov")),
        ("stream.ts", &format!("{H264} -bf 2 -g 25")),
        ("stream.flv", &format!("{H264} -bf 2 -g 25")),
        (
            "closed_hevc.mp4",
            "-c:v libx265 -preset ultrafast -x265-params keyint=25:open-gop=0:bframes=3:log-level=none",
        ),
        ("open_hevc.mkv", "-c:v libx265 -preset ultrafast -x265-params keyint=25:open-gop=1:bframes=3:log-level=none"),
        ("vp8.webm", "-c:v libvpx -deadline realtime -cpu-used -8 -b:v 300k -g 40"),
        ("vp9.webm", "-c:v libvpx-vp9 -deadline good -cpu-used 8 -b:v 200k -g 60 -auto-alt-ref 1 -lag-in-frames 16"),
        ("av1.mp4", "-c:v libsvtav1 -preset 10 -g 50"),
        ("mpeg2.mpg", "-c:v mpeg2video -q:v 4 -bf 2 -g 12"),
        ("mpeg4.avi", "-c:v mpeg4 -q:v 4 -bf 2"),
        ("mpeg4.mp4", "-c:v mpeg4 -q:v 4 -bf 2 -g 25"),
        ("mjpeg.mov", "-c:v mjpeg -q:v 5"),
        ("mjpeg.avi", "-c:v mjpeg -q:v 5"),
        ("theora.ogv", "-c:v libtheora -q:v 5 -g 25"),
    ];
    for (name, options) in files {
        encode(folder, name, options);
    }
    make(folder, "-ss 1.3 -i @b_frames.mp4 -c copy @edit_list.mp4");
    make(
        folder,
        "-i @b_frames.mp4 -vf select=not(mod(n\\,3))+gt(mod(n\\,40)\\,30) -fps_mode vfr -c:v libx264 -preset veryfast -bf 2 -g 30 @varying_rate.mp4",
    );
    make(folder, "-i @short_groups.mp4 -c copy -bsf:v noise=drop=eq(mod(n\\,97)\\,50) @lost_packets.mkv");
    // Recordings that were joined: the clock restarts.
    let stream = std::fs::read(folder.join("stream.ts")).unwrap();
    std::fs::write(folder.join("joined.ts"), [&stream[..], &stream[..]].concat()).unwrap();
    // Incomplete copies. An MP4 without its index is not a video; one with the index in front lacks its last frames.
    make(folder, "-i @b_frames.mp4 -c copy -movflags +faststart @index_in_front.mp4");
    for (file, cut) in
        [("b_frames.mp4", "cut.mp4"), ("index_in_front.mp4", "cut_after_the_index.mp4"), ("pyramid.mkv", "cut.mkv")]
    {
        let complete = std::fs::read(folder.join(file)).unwrap();
        std::fs::write(folder.join(cut), &complete[..complete.len() * 6 / 10]).unwrap();
    }
}

/// A minute and a half, of which sparse jobs look at little.
fn encode_long(folder: &Path) {
    let h264 = ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "50", "-pix_fmt", "yuv420p"];
    test_video(&folder.join("long.mp4"), "128x96", "25", 90.0, &h264);
}

/// Links the real videos that are there.
fn link_real(folder: &Path) {
    let Some(reference) = reference() else { return };
    for file in ["videos", "cases"].iter().flat_map(|name| std::fs::read_dir(reference.join(name)).unwrap()) {
        let file = file.unwrap().path();
        let is_video = file.extension().is_some_and(|e| ["mp4", "mkv", "ts", "avi"].iter().any(|known| e == *known));
        if is_video {
            std::os::unix::fs::symlink(&file, folder.join(file.file_name().unwrap())).unwrap();
        }
    }
}

/// Runs the job in a new index. `mode` is `selective` or `full`.
fn index(scratch: &Scratch, job: usize, mode: &str) -> PathBuf {
    let index = scratch.path(&format!("index-{job}-{mode}"));
    let file = scratch.job(&sections(JOBS[job]));
    let output = vidindex(["run".as_ref(), file.as_os_str()])
        .args(["--device", "cpu", "--set", "input.include=[\"**/*\"]", "--set", "input.exclude=[\"**/*.json\"]"])
        .arg("--set")
        .arg(format!("output.uri={}", index.display()))
        .env("VIDINDEX_DECODE", mode)
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", said(&output));
    tables::assert_counts(&index);
    index
}

fn name(row: &Row) -> String {
    row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

/// Rows of each video in all tables, without what the modes may differ in.
fn content(index: &Path) -> BTreeMap<String, Vec<String>> {
    let mut content = BTreeMap::<String, Vec<String>>::new();
    for table in ["videos", "actions", "persons"] {
        for mut row in tables::rows(index, table) {
            for column in ["run_id", "shard", "indexed_at", "decode_seconds", "inference_seconds"] {
                row.remove(column);
            }
            for column in ["frames_decoded", "decode_mode", "full_decode_reason"] {
                row.remove(column);
            }
            content.entry(name(&row)).or_default().push(format!("{table} {}", Value::Object(row)));
        }
    }
    content
}

#[test]
fn selective_decoding_writes_the_same_rows_from_fewer_frames() {
    let scratch = Scratch::new();
    let folder = scratch.videos();
    encode_corpus(&folder);
    encode_long(&folder);
    copy_drawn_clips(&folder);
    link_real(&folder);
    let mut wrong = Vec::new();
    let mut modes = BTreeMap::<String, Vec<String>>::new();
    let is_long = std::env::var_os("VIDINDEX_TEST_ROUNDS").is_some();
    for job in (0..JOBS.len()).filter(|job| is_long || USUAL_JOBS.contains(job)) {
        let (selective, full) = (index(&scratch, job, "selective"), index(&scratch, job, "full"));
        let (found, expected) = (content(&selective), content(&full));
        assert!(expected.len() > 40, "{} videos", expected.len());
        for (video, expected) in &expected {
            let found = &found[video];
            if let Some(at) = (0..expected.len().max(found.len())).find(|&at| found.get(at) != expected.get(at)) {
                wrong.push(format!("job {job} {video}:\n  {:?}\n  {:?}", found.get(at), expected.get(at)));
            }
        }
        for row in tables::rows(&full, "videos") {
            assert!(row["decode_mode"] == "full" || row["frames_decoded"] == 0, "{row:?}");
        }
        for row in tables::rows(&selective, "videos") {
            let share = format!("{}/{}", row["frames_decoded"], row["frames_presented"]);
            let mode = row["full_decode_reason"].as_str().or(row["decode_mode"].as_str()).unwrap_or("-").to_owned();
            modes.entry(name(&row)).or_default().push(format!("{mode} {share}"));
        }
    }
    for (video, modes) in &modes {
        println!("{video}: {}", modes.join(", "));
    }
    assert!(wrong.is_empty(), "{} videos differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Bytes of the object that all requests for it asked for.
fn fetched(server: &Unreliable, size_bytes: u64) -> u64 {
    let reads = server.proxy.seen().into_iter().filter(|seen| seen.method == "GET" && seen.target.contains("long.mp4"));
    reads.filter_map(|seen| seen.range).map(|(first, last)| (last + 1).min(size_bytes) - first).sum()
}

#[test]
fn sparse_jobs_fetch_at_most_a_fifth_of_the_bytes_from_a_bucket() {
    let Some(server) = Unreliable::start() else { return };
    let scratch = Scratch::new();
    let video = scratch.videos().join("long.mp4");
    // Sound lies between the pictures.
    let source = "testsrc2=size=480x270:rate=30:duration=60,noise=alls=20:allf=t";
    let h264 = "-c:v libx264 -preset ultrafast -bf 2 -g 30 -sc_threshold 0 -b:v 4M -pix_fmt yuv420p -c:a aac -shortest";
    let mut arguments = vec!["-f", "lavfi", "-i", source, "-f", "lavfi", "-i", "sine=duration=60"];
    arguments.extend(h264.split(' '));
    arguments.push(video.to_str().unwrap());
    ffmpeg(&arguments);
    let size_bytes = video.metadata().unwrap().len();
    assert!(size_bytes > 20_000_000, "{size_bytes} bytes");
    let job = sections((Some(0.1), None));
    let local = scratch.job(&job);
    let output = vidindex(["run".as_ref(), local.as_os_str()])
        .args(["--device", "cpu"])
        .env("VIDINDEX_DECODE", "full")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let bucket = Bucket::with_models(server, scratch, &job);
    bucket.server.proxy.set(Vec::new());
    bucket.vidindex(&["run"], 0);
    let fetched = fetched(&bucket.server, size_bytes);
    println!("{fetched} of {size_bytes} bytes, {:.1} %", 100.0 * fetched as f64 / size_bytes as f64);
    assert!(fetched * 5 <= size_bytes, "{fetched} of {size_bytes} bytes");
    let downloaded = bucket.index();
    let persons = comparable(&bucket.scratch.index(), "persons");
    assert_eq!(comparable(&downloaded, "persons"), persons);
    assert!(!persons.is_empty());
    assert_eq!(tables::rows(&downloaded, "videos")[0]["decode_mode"], "selective");
}
