//! What is counted during a run, for the formats that export it.

use std::sync::atomic::Ordering::Relaxed;

use super::Progress;
use crate::video_status::StatusCounts;

/// A metric and its current values.
#[derive(Debug)]
pub(super) struct Reading {
    /// Without a prefix.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    /// What the values are told apart by. None for a single value.
    pub(super) label: Option<&'static str>,
    pub(super) values: Vec<(&'static str, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
}

pub(super) fn readings(progress: &Progress) -> Vec<Reading> {
    let ended = progress.ended();
    let StatusCounts { ok, partial, failed, deleted } = ended.videos;
    let one = |name, help, kind, value| Reading { name, help, kind, label: None, values: vec![("", value)] };
    let counter = |name, help, value| one(name, help, Kind::Counter, value);
    let family = |name, help, label, values| Reading { name, help, kind: Kind::Counter, label: Some(label), values };
    let statuses = [("ok", ok), ("partial", partial), ("failed", failed), ("deleted", deleted)];
    let stages = [("decode", ended.decode_seconds), ("write", progress.write_seconds())];
    let infer = progress.models().into_iter().map(|(model, usage)| match model {
        "actions" => ("infer_actions", usage.busy_seconds),
        _ => ("infer_persons", usage.busy_seconds),
    });
    vec![
        one(
            "videos_expected",
            "Videos in the shards of this worker",
            Kind::Gauge,
            progress.videos_total.load(Relaxed) as f64,
        ),
        one("bytes_expected", "Bytes of these videos", Kind::Gauge, progress.bytes_total.load(Relaxed) as f64),
        counter("bytes", "Bytes of video processed", progress.bytes_done.load(Relaxed) as f64),
        counter("segments", "Segments with scores: rows of the actions table", progress.segments.load(Relaxed) as f64),
        counter("boxes", "Boxes detected: rows of the persons table", progress.boxes.load(Relaxed) as f64),
        counter("frames", "Frames that decoders returned", ended.frames as f64),
        counter("video_seconds", "Duration of the finished videos", ended.video_seconds),
        family(
            "videos",
            "Finished videos by status",
            "status",
            statuses.into_iter().map(|(status, count)| (status, count as f64)).collect(),
        ),
        family(
            "video_errors",
            "Failed and partial videos by error_kind",
            "kind",
            ended.failures.iter().map(|(kind, count)| (kind.as_str(), *count as f64)).collect(),
        ),
        family(
            "stage_busy_seconds",
            "Seconds that a stage worked, summed over concurrent tasks",
            "stage",
            stages.into_iter().chain(infer).collect(),
        ),
        family(
            "stage_blocked_seconds",
            "Seconds that a stage waited: fetch for bytes from the store, decode for inference",
            "stage",
            vec![("fetch", ended.fetch_seconds), ("decode", ended.blocked_seconds)],
        ),
    ]
}
