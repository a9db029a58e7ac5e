//! `vidindex eval`: compares the current rows of an index with the ground truth of a data set, as papers do.

mod metrics;
mod truth;

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use truth::TruthFormat;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::query::{self, Index};
use metrics::{
    Answer, BoxImage, average_precision, box_average_precision, by_class, mean_class_accuracy, most_confused,
};
use truth::VideoTruth;

/// A segment is compared if one action fills this share of it.
const FILLED_MIN: f64 = 2.0 / 3.0;
/// Times of frames that differ less are equal.
const NEAR_SECONDS: f64 = 1e-3;
/// Number of confused pairs that are reported.
const CONFUSED: usize = 10;
/// The overlap at which a box is found.
const OVERLAP: f64 = 0.5;

/// How well an index agrees with the truth.
#[derive(Debug, Serialize)]
pub(crate) struct EvalReport {
    /// Number of videos that the truth names.
    videos: usize,
    /// Number of them that are in the index.
    indexed: usize,
    /// Labels of the truth that no row has.
    unknown_labels: Vec<String>,
    actions: Option<ActionsReport>,
    persons: Option<PersonsReport>,
}

/// Measures of actions.
#[derive(Debug, Serialize)]
struct ActionsReport {
    /// `videos` or `segments`.
    items_are: &'static str,
    items: usize,
    #[serde(flatten)]
    measures: Measures,
    classes: Vec<ClassReport>,
    most_confused: Vec<Confused>,
}

/// Measures of items with one label, or with several.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Measures {
    One { top1: f64, top5: f64, mean_class_accuracy: f64 },
    Several { mean_average_precision: f64 },
}

#[derive(Debug, Serialize)]
struct ClassReport {
    label: String,
    items: usize,
    /// The share of its items whose top label it is, or its average precision.
    value: f64,
}

#[derive(Debug, Serialize)]
struct Confused {
    truth: String,
    predicted: String,
    items: usize,
}

/// Measures of persons.
#[derive(Debug, Serialize)]
struct PersonsReport {
    frames: usize,
    boxes: usize,
    /// Average precision at an overlap of 0.5.
    ap50: Option<f64>,
}

/// The predictions for a video or a segment: labels, best first.
type Ranked = Vec<Entry>;

#[derive(Debug, Deserialize)]
struct Entry {
    uri: String,
    label: String,
    label_id: usize,
    score: f64,
    #[serde(default)]
    start_seconds: f64,
    #[serde(default)]
    end_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Found {
    uri: String,
    time_seconds: f64,
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    confidence: f64,
}

/// Compares the job's index with a file of ground truth.
///
/// # Errors
/// If the file cannot be read, the index cannot be queried, or none of the videos is in the index.
pub(crate) async fn run(job: &Job, path: &Path, format: TruthFormat, duckdb: Option<&Path>) -> Result<EvalReport> {
    let truth = truth::read(path, format)?;
    let index = Index::of(job);
    let uris: Vec<Uri> = query::rows(&index, "SELECT DISTINCT uri FROM current_videos", duckdb).await?;
    let by_name: HashMap<String, &str> = uris.iter().map(|row| (truth::video_name(&row.uri), &row.uri[..])).collect();
    let videos: Vec<(&str, &VideoTruth)> = truth
        .iter()
        .filter_map(|video| Some((*video.names.iter().find_map(|name| by_name.get(name))?, video)))
        .collect();
    if videos.is_empty() {
        let (named, indexed) = (&truth[0].names, uris.first().map_or("none", |row| &row.uri));
        return Err(Error::failed(format!("none of the {} videos of {} is in the index", truth.len(), path.display()))
            .with_hint(format!(
                "files are matched by name: the truth has {}, the index {indexed}",
                named.join(" or ")
            )));
    }
    let mut report = EvalReport {
        videos: truth.len(),
        indexed: videos.len(),
        unknown_labels: Vec::new(),
        actions: None,
        persons: None,
    };
    if job.actions.is_some() {
        let by_segment = format == TruthFormat::Scenes;
        let ranked = ranked(&index, by_segment, format, duckdb).await?;
        let items = items(&videos, ranked, by_segment);
        if items.is_empty() {
            return Err(Error::failed(format!("no segment of these videos can be compared with {}", path.display()))
                .with_hint(
                    "the truth has no labels for them, or the action model scores persons instead of segments",
                ));
        }
        report.unknown_labels = unknown_labels(&items);
        report.actions = Some(match format {
            TruthFormat::Charades => several(&items),
            _ => one(&items, if by_segment { "segments" } else { "videos" }),
        });
    }
    if let Some(persons) = job.persons.as_ref().filter(|_| format == TruthFormat::Scenes) {
        let sql = "SELECT uri, time_seconds, x1, y1, x2, y2, confidence FROM current_persons";
        let found: Vec<Found> = query::rows(&index, sql, duckdb).await?;
        report.persons = Some(compare_boxes(&videos, found, persons.frames_per_second));
    }
    Ok(report)
}

#[derive(Debug, Deserialize)]
struct Uri {
    uri: String,
}

/// The labels of each segment, or of each video: by the mean of its segments' scores, or by the largest one if a video has
/// several labels.
async fn ranked(index: &Index, by_segment: bool, format: TruthFormat, duckdb: Option<&Path>) -> Result<Vec<Ranked>> {
    let (columns, score) = match (by_segment, format) {
        (true, _) => (", start_seconds, end_seconds", "max(entry.score)"),
        (false, TruthFormat::Charades) => ("", "max(entry.score)"),
        (false, _) => ("", "sum(entry.score) / any_value(segments)"),
    };
    let sql = format!(
        "WITH counted AS (
    SELECT uri, start_seconds, end_seconds, top, count(*) OVER (PARTITION BY uri) AS segments FROM current_actions
), scored AS (
    SELECT uri, start_seconds, end_seconds, segments, unnest(top) AS entry FROM counted
)
SELECT uri{columns}, entry.label AS label, entry.label_id AS label_id, {score} AS score
FROM scored
GROUP BY uri{columns}, entry.label, entry.label_id
ORDER BY uri{columns}, score DESC, label_id"
    );
    let mut all: Vec<Ranked> = Vec::new();
    for entry in query::rows::<Entry>(index, &sql, duckdb).await? {
        match all
            .last_mut()
            .filter(|ranked| ranked[0].uri == entry.uri && ranked[0].start_seconds == entry.start_seconds)
        {
            Some(ranked) => ranked.push(entry),
            None => all.push(vec![entry]),
        }
    }
    Ok(all)
}

/// What is compared: the true labels and the predictions.
struct Item<'a> {
    labels: Vec<&'a str>,
    ranked: Ranked,
}

impl Item<'_> {
    fn score(&self, label: &str) -> Option<f64> {
        self.ranked.iter().find(|entry| entry.is(label)).map(|entry| entry.score)
    }

    /// The position of its label among the predictions.
    fn rank(&self) -> Option<usize> {
        self.ranked.iter().position(|entry| entry.is(self.labels[0]))
    }
}

impl Entry {
    /// Whether this is the label. Data sets write labels in different ways, and Charades as numbers (`c092`).
    fn is(&self, label: &str) -> bool {
        plain(&self.label) == plain(label) || format!("c{:03}", self.label_id) == label
    }
}

fn plain(label: &str) -> String {
    label.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn items<'a>(videos: &[(&str, &'a VideoTruth)], ranked: Vec<Ranked>, by_segment: bool) -> Vec<Item<'a>> {
    let videos: HashMap<&str, &VideoTruth> = videos.iter().copied().collect();
    let item = |ranked: Ranked| {
        let video = *videos.get(ranked[0].uri.as_str())?;
        let labels = match by_segment {
            true => vec![filling(video, ranked[0].start_seconds, ranked[0].end_seconds)?],
            false => video.labels.iter().map(String::as_str).collect(),
        };
        Some(Item { labels, ranked })
    };
    ranked.into_iter().filter_map(item).collect()
}

/// The label of the action that fills a segment.
fn filling(video: &VideoTruth, start: f64, end: f64) -> Option<&str> {
    let filled =
        |act: &&truth::Act| act.end_seconds.min(end) - act.start_seconds.max(start) >= FILLED_MIN * (end - start);
    video.acts.iter().find(filled).map(|act| act.label.as_str())
}

fn unknown_labels(items: &[Item<'_>]) -> Vec<String> {
    let mut known = BTreeMap::new();
    for label in items.iter().flat_map(|item| &item.labels) {
        known.entry(*label).or_insert_with(|| items.iter().any(|item| item.score(label).is_some()));
    }
    known.into_iter().filter(|(_, is_known)| !is_known).map(|(label, _)| label.to_owned()).collect()
}

/// Measures of items with one label.
fn one(items: &[Item<'_>], items_are: &'static str) -> ActionsReport {
    let items: Vec<&Item<'_>> = items.iter().filter(|item| item.labels.len() == 1).collect();
    let within = |k: usize| {
        let found = items.iter().filter(|item| item.rank().is_some_and(|rank| rank < k)).count();
        found as f64 / items.len() as f64
    };
    let answer = |item: &&'_ Item<'_>| match item.rank() {
        Some(0) => (item.labels[0].to_owned(), item.labels[0].to_owned()),
        _ => (item.labels[0].to_owned(), item.ranked[0].label.clone()),
    };
    let answers: Vec<(String, String)> = items.iter().map(answer).collect();
    let answers: Vec<Answer<'_>> = answers.iter().map(|(truth, predicted)| (&truth[..], &predicted[..])).collect();
    let class = |(label, (correct, items)): (&str, (usize, usize))| ClassReport {
        label: label.to_owned(),
        items,
        value: correct as f64 / items as f64,
    };
    let confused = |(truth, predicted, items): (&str, &str, usize)| Confused {
        truth: truth.to_owned(),
        predicted: predicted.to_owned(),
        items,
    };
    ActionsReport {
        items_are,
        items: items.len(),
        measures: Measures::One {
            top1: within(1),
            top5: within(5),
            mean_class_accuracy: mean_class_accuracy(&answers),
        },
        classes: by_class(&answers).into_iter().map(class).collect(),
        most_confused: most_confused(&answers, CONFUSED).into_iter().map(confused).collect(),
    }
}

/// Measures of items with several labels.
fn several(items: &[Item<'_>]) -> ActionsReport {
    let mut counts = BTreeMap::<&str, usize>::new();
    items.iter().flat_map(|item| &item.labels).for_each(|label| *counts.entry(label).or_default() += 1);
    let class = |(label, count): (&str, usize)| {
        let scored = items.iter().map(|item| (item.score(label).unwrap_or(0.0), item.labels.contains(&label)));
        Some(ClassReport { label: label.to_owned(), items: count, value: average_precision(scored.collect())? })
    };
    let classes: Vec<ClassReport> = counts.into_iter().filter_map(class).collect();
    let mean_average_precision = classes.iter().map(|class| class.value).sum::<f64>() / classes.len() as f64;
    ActionsReport {
        items_are: "videos",
        items: items.len(),
        measures: Measures::Several { mean_average_precision },
        classes,
        most_confused: Vec::new(),
    }
}

/// Compares the boxes of the frames that the job examined.
fn compare_boxes(videos: &[(&str, &VideoTruth)], found: Vec<Found>, frames_per_second: f64) -> PersonsReport {
    let mut by_video = HashMap::<String, Vec<Found>>::new();
    found.into_iter().for_each(|row| by_video.entry(row.uri.clone()).or_default().push(row));
    let mut images = Vec::new();
    for (uri, video) in videos {
        let found = by_video.remove(*uri).unwrap_or_default();
        let mut due = 0.0;
        for frame in &video.frames {
            let interval = frame.time_seconds * frames_per_second;
            if interval < due - NEAR_SECONDS {
                continue;
            }
            due = (interval + NEAR_SECONDS).floor() + 1.0;
            let here = found.iter().filter(|row| (row.time_seconds - frame.time_seconds).abs() < NEAR_SECONDS);
            let found = here.map(|row| ([row.x1, row.y1, row.x2, row.y2], row.confidence)).collect();
            images.push(BoxImage { truth: frame.persons.clone(), ignored: frame.hidden.clone(), found });
        }
    }
    PersonsReport {
        frames: images.len(),
        boxes: images.iter().map(|image| image.truth.len()).sum(),
        ap50: box_average_precision(&images, OVERLAP),
    }
}

impl Display for EvalReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "videos                {} of {} are in the index", self.indexed, self.videos)?;
        if !self.unknown_labels.is_empty() {
            writeln!(f, "labels without rows   {}", self.unknown_labels.join(", "))?;
        }
        if let Some(actions) = &self.actions {
            let (name, value) = match actions.measures {
                Measures::One { top1, top5, mean_class_accuracy } => {
                    writeln!(f, "{:<21} {}", actions.items_are, actions.items)?;
                    writeln!(f, "top-1                 {top1:.4}")?;
                    writeln!(f, "top-5                 {top5:.4}")?;
                    ("mean class accuracy", mean_class_accuracy)
                }
                Measures::Several { mean_average_precision } => ("mAP", mean_average_precision),
            };
            writeln!(f, "{name:<21} {value:.4}")?;
            writeln!(f, "\n{:<40} {:>8} {:>8}", "class", actions.items_are, "value")?;
            for ClassReport { label, items, value } in &actions.classes {
                writeln!(f, "{label:<40} {items:>8} {value:>8.4}")?;
            }
            if !actions.most_confused.is_empty() {
                writeln!(f, "\n{:<40} {:>8}", "most confused", actions.items_are)?;
            }
            for Confused { truth, predicted, items } in &actions.most_confused {
                writeln!(f, "{:<40} {items:>8}", format!("{truth} as {predicted}"))?;
            }
        }
        if let Some(PersonsReport { frames, boxes, ap50 }) = &self.persons {
            let ap50 = ap50.map_or("no box in the truth".to_owned(), |ap50| format!("{ap50:.4}"));
            writeln!(f, "\npersons               {boxes} boxes in {frames} frames\nAP at IoU 0.5         {ap50}")?;
        }
        Ok(())
    }
}
