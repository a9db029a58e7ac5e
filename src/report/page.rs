//! Assembles the page from its script, its style and the run's data.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::Subject;
use super::pack::{Columns, Names, base64, packed};
use super::read::{Contents, PersonBox, Picture, Scored, Segment, TOP, Video};
use crate::error::{Error, Result};
use crate::palette;
use crate::run::ModelRef;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(
    include_str!("page/data.js"),
    include_str!("page/overview.js"),
    include_str!("page/videos.js"),
    include_str!("page/moments.js"),
    include_str!("page/timeline.js"),
    include_str!("page/print.js"),
    include_str!("page/start.js")
);

pub(super) fn render(subject: &Subject, contents: &Contents) -> Result<String> {
    let (index, columns) = columns(contents).finish()?;
    let facts = facts(subject, contents, index);
    let facts =
        serde_json::to_vec(&facts).map_err(|error| Error::failed(format!("failed to write the report: {error}")))?;
    let title = match subject {
        Subject::Run(run, _) => format!("Run {}", run.run_id),
        Subject::Index { .. } => "Index".to_owned(),
    };
    let pictures: String = pictures(contents).map(|picture| base64(&picture.jpeg)).collect();
    // No part contains the placeholder of another part: the data is base64, and the rest are our own files.
    let fill = [
        ("{title}", title),
        ("{style-hash}", hash(STYLE)),
        ("{script-hash}", hash(SCRIPT)),
        ("{style}", STYLE.to_owned()),
        ("{facts}", packed(&facts)?),
        ("{columns}", columns),
        ("{pictures}", pictures),
        ("{script}", SCRIPT.to_owned()),
    ];
    Ok(fill.iter().fold(HTML.to_owned(), |page, (place, text)| page.replace(place, text)))
}

/// A hash in the notation of a content security policy.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", base64(&Sha256::digest(text)))
}

fn facts(subject: &Subject, contents: &Contents, columns: serde_json::Value) -> serde_json::Value {
    let videos = &contents.videos;
    let (Subject::Run(run, _) | Subject::Index { newest: run, .. }) = subject;
    let random: Vec<_> = [&run.actions_model, &run.persons_model]
        .into_iter()
        .flatten()
        .filter_map(|model| model.random.then_some(&model.id))
        .collect();
    let version = match subject {
        Subject::Run(run, _) => run.version.as_str(),
        Subject::Index { .. } => env!("CARGO_PKG_VERSION"),
    };
    let of_subject = match subject {
        Subject::Run(run, committed) => json!({
            "planned_at": run.created_at,
            "finished_at": committed.finished_at,
            "shards": run.shards,
            "shards_committed": committed.shards,
            "hosts": committed.hosts.len(),
            "videos_planned": run.videos,
        }),
        Subject::Index { read_at, .. } => json!({ "read_at": read_at }),
    };
    let (totals, actions, persons) = match subject {
        Subject::Run(run, committed) => {
            let model = |model: &Option<ModelRef>| model.iter().map(|model| model.id.clone()).collect();
            (&committed.totals, model(&run.actions_model), model(&run.persons_model))
        }
        Subject::Index { .. } => (&contents.totals, contents.actions_models.clone(), contents.persons_models.clone()),
    };
    let seconds = |value: f64| (value * 1e3).round() / 1e3;
    json!({
        "run": of_subject,
        "version": version,
        "input": run.job.input.uri,
        "output": run.job.output.uri,
        "actions_models": actions,
        "persons_models": persons,
        "random_models": random,
        "classes": run.job.persons.as_ref().map(|persons| &persons.classes),
        "track_colours": palette::COLOURS.map(|fill| [fill, palette::ink(fill)].map(palette::css)),
        "lost_parts": contents.lost_parts,
        "totals": totals,
        "labels": contents.labels.all(),
        "top": TOP,
        "group": contents.group,
        "thumbnails": contents.pictures,
        "videos": {
            "id": videos.iter().map(|video| &video.id).collect::<Vec<_>>(),
            "uri": videos.iter().map(|video| &video.uri).collect::<Vec<_>>(),
            "status": videos.iter().map(|video| video.status.as_str()).collect::<Vec<_>>(),
            "error_kind": videos.iter().map(|video| &video.error_kind).collect::<Vec<_>>(),
            "error_message": videos.iter().map(|video| &video.error_message).collect::<Vec<_>>(),
            "codec": videos.iter().map(|video| &video.codec).collect::<Vec<_>>(),
            "width": videos.iter().map(|video| video.width).collect::<Vec<_>>(),
            "height": videos.iter().map(|video| video.height).collect::<Vec<_>>(),
            "fps": videos.iter().map(|video| seconds(video.frames_per_second)).collect::<Vec<_>>(),
            "seconds": videos.iter().map(|video| seconds(video.seconds)).collect::<Vec<_>>(),
            "segment_rows": videos.iter().map(|video| video.segment_rows).collect::<Vec<_>>(),
            "box_rows": videos.iter().map(|video| video.box_rows).collect::<Vec<_>>(),
            "segments": videos.iter().map(|video| video.segments.len()).collect::<Vec<_>>(),
            "bins": videos.iter().map(|video| video.crowd.len()).collect::<Vec<_>>(),
            "bin_seconds": videos.iter().map(|video| seconds(video.bin_seconds)).collect::<Vec<_>>(),
            "pictures": videos.iter().map(|video| video.pictures.len()).collect::<Vec<_>>(),
        },
        "columns": columns,
    })
}

/// The many small numbers. Times are stored as differences from the previous time, which compress well.
fn columns(contents: &Contents) -> Columns {
    let mut columns = Columns::default();
    let segments = || contents.videos.iter().flat_map(|video| &video.segments);
    columns.push_u32("segment_start", contents.videos.iter().flat_map(|video| steps(&video.segments)));
    columns.push_u32("segment_length", segments().map(|segment| segment.end_ms.saturating_sub(segment.start_ms)));
    columns.push_u32("picture_time", pictures(contents).map(|picture| picture.time_ms));
    columns.push_u32("picture_letters", pictures(contents).map(|picture| picture.jpeg.len().div_ceil(3) as u32 * 4));
    columns.push_u32("box_track", pictures(contents).flat_map(|picture| &picture.boxes).map(|found| found.track));
    // Store one rank after another, because similar values compress better together.
    let rank = |rank: usize| segments().map(move |segment| segment.top.get(rank).copied().unwrap_or((Names::NONE, 0)));
    columns.push_u16("segment_label", (0..TOP).flat_map(rank).map(|(label, _)| label));
    columns.push_u16("segment_score", (0..TOP).flat_map(rank).map(|(_, score)| score));
    columns.push_u16("picture_width", pictures(contents).map(|picture| picture.width));
    columns.push_u16("picture_height", pictures(contents).map(|picture| picture.height));
    let boxes = || pictures(contents).flat_map(|picture| &picture.boxes);
    let action = |found: &PersonBox| -> Scored { found.action.unwrap_or((Names::NONE, 0)) };
    columns.push_u16("box_corners", boxes().flat_map(|found| found.corners));
    columns.push_u16("box_label", boxes().map(|found| found.label.0));
    columns.push_u16("box_score", boxes().map(|found| found.label.1));
    columns.push_u16("box_action", boxes().map(|found| action(found).0));
    columns.push_u16("box_action_score", boxes().map(|found| action(found).1));
    columns.push_u8("picture_boxes", pictures(contents).map(|picture| picture.boxes.len() as u8));
    columns.push_u8("crowd", contents.videos.iter().flat_map(|video: &Video| video.crowd.iter().copied()));
    columns
}

fn pictures(contents: &Contents) -> impl Iterator<Item = &Picture> + Clone {
    contents.videos.iter().flat_map(|video| &video.pictures)
}

fn steps(segments: &[Segment]) -> impl Iterator<Item = u32> {
    let mut last = 0;
    segments.iter().map(move |segment| segment.start_ms.saturating_sub(std::mem::replace(&mut last, segment.start_ms)))
}
