//! Compares labels of videos or segments.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::metrics::{Answer, average_precision, by_class, mean_class_accuracy, most_confused};
use super::report::{ActionsReport, ClassReport, Confused, Measures};
use super::truth::{self, TruthFormat, VideoTruth};
use super::{Eval, Views};
use crate::error::{Error, Result};
use crate::query;

/// A segment is compared if one action fills this share of it.
const FILLED_MIN: f64 = 2.0 / 3.0;
/// Number of confused pairs that are reported.
const CONFUSED: usize = 10;
/// Top-5 needs so many labels of an item.
const RANKED: usize = 5;

/// A label of a segment or video, the best first. A segment without labels has one entry without a label.
#[derive(Debug, Deserialize)]
struct Entry {
    uri: String,
    model: String,
    label: Option<String>,
    label_id: Option<usize>,
    score: Option<f64>,
    #[serde(default)]
    start_seconds: f64,
    #[serde(default)]
    end_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Label {
    label: String,
    label_id: usize,
}

impl Eval<'_> {
    pub(super) async fn actions(&self) -> Result<ActionsReport> {
        let (entries, labels) = self.labels().await?;
        let models: BTreeSet<&str> = entries.iter().map(|entry| &entry.model[..]).collect();
        let model = match models.iter().copied().collect::<Vec<_>>()[..] {
            [model] => model.to_owned(),
            [] => return Err(Error::failed("these videos have no segments")),
            [first, second, ..] => {
                return Err(Error::failed(format!("these videos were scored by several models: {first}, {second}"))
                    .with_hint("index all of them with one model"));
            }
        };
        let items = self.items(entries);
        if items.is_empty() {
            return Err(Error::failed("the truth has no labels for these videos"));
        }
        let known: BTreeSet<String> = labels.iter().map(|label| self.key(&label.label, label.label_id)).collect();
        let wanted: BTreeSet<&String> = items.iter().flat_map(|item| &item.labels).collect();
        let unknown = wanted.into_iter().filter(|label| !known.contains(*label)).cloned().collect();
        let items_are = if self.by_segment() { "segments" } else { "videos" };
        Ok(match self.format {
            TruthFormat::Charades => several(model, &items, unknown),
            _ => one(model, &items, items_are, unknown),
        })
    }

    fn by_segment(&self) -> bool {
        self.format == TruthFormat::Scenes
    }

    /// The name under which labels are compared. Data sets write them in different ways, and Charades as numbers (`c092`).
    fn key(&self, label: &str, label_id: usize) -> String {
        if self.format == TruthFormat::Charades { format!("c{label_id:03}") } else { plain(label) }
    }

    /// The best labels of each segment, or of each video: by the mean of its segments' scores, or by the largest one if a video
    /// has several labels. And all labels.
    async fn labels(&self) -> Result<(Vec<Entry>, Vec<Label>)> {
        let (columns, score) = match (self.by_segment(), self.format) {
            (true, _) => (", start_seconds, end_seconds", "max(entry.score)"),
            (false, TruthFormat::Charades) => ("", "max(entry.score)"),
            (false, _) => ("", "sum(entry.score) / any_value(segments)"),
        };
        let most = if self.format == TruthFormat::Charades { usize::MAX >> 1 } else { RANKED };
        let segments = self.segments();
        // A segment may have no labels.
        let scored = format!(
            "WITH scored AS (
    SELECT uri, model, start_seconds, end_seconds, segments, unnest(if(len(top) > 0, top, [NULL])) AS entry
    FROM (
        SELECT uri, model, start_seconds, end_seconds, top, count(*) OVER (PARTITION BY uri) AS segments
        FROM {segments}
    )
)"
        );
        let best = format!(
            "{scored}
SELECT uri, model{columns}, entry.label AS label, entry.label_id AS label_id, {score} AS score
FROM scored
GROUP BY uri, model{columns}, entry.label, entry.label_id
QUALIFY row_number() OVER (PARTITION BY uri, model{columns} ORDER BY {score} DESC NULLS LAST, label_id) <= {most}
ORDER BY uri, model{columns}, score DESC NULLS LAST, label_id"
        );
        let labels = format!(
            "{scored}
SELECT DISTINCT entry.label AS label, entry.label_id AS label_id FROM scored WHERE entry IS NOT NULL"
        );
        Ok((query::rows(self.index, &best, self.duckdb).await?, query::rows(self.index, &labels, self.duckdb).await?))
    }

    /// SQL for the segments that count. Clips of a test with views are spread evenly from the first to the last whole segment.
    fn segments(&self) -> String {
        let rows = format!("SELECT * FROM current_actions WHERE {}", self.condition());
        let Some(Views { clips, .. }) = self.views else { return format!("({rows})") };
        let steps = (clips - 1).max(1);
        format!(
            "(
    WITH rows AS ({rows}),
    longest AS (SELECT uri, model, max(end_seconds - start_seconds) AS seconds FROM rows GROUP BY ALL),
    whole AS (
        SELECT uri, model, max(start_seconds) AS last FROM rows JOIN longest USING (uri, model)
        WHERE end_seconds - start_seconds >= seconds - 0.001 GROUP BY ALL
    ),
    clips AS (SELECT uri, model, clip, last * clip / {steps} AS wanted FROM whole, range({clips}) AS clips(clip)),
    nearest AS (
        SELECT uri, model, clip, arg_min(segment, abs(start_seconds - wanted)) AS segment
        FROM clips JOIN rows USING (uri, model) GROUP BY ALL
    )
    SELECT rows.* FROM nearest JOIN rows USING (uri, model, segment)
)"
        )
    }

    /// The labelled videos, or the segments that one action fills.
    fn items(&self, entries: Vec<Entry>) -> Vec<Item> {
        let mut by_video = HashMap::<String, Vec<Entry>>::new();
        entries.into_iter().for_each(|entry| by_video.entry(entry.uri.clone()).or_default().push(entry));
        let mut items = Vec::new();
        for (uri, video) in self.videos {
            let entries = by_video.remove(*uri).unwrap_or_default();
            let ranked = |entries: &[Entry]| -> Vec<Ranked> {
                let scored =
                    entries.iter().filter_map(|entry| Some((entry.label.clone()?, entry.label_id?, entry.score?)));
                scored.map(|(label, id, score)| Ranked { key: self.key(&label, id), label, score }).collect()
            };
            if self.by_segment() {
                for segment in entries.chunk_by(|a, b| a.start_seconds == b.start_seconds) {
                    let label = filling(video, segment[0].start_seconds, segment[0].end_seconds);
                    items.extend(label.map(|label| Item { labels: vec![plain(label)], ranked: ranked(segment) }));
                }
            } else if !video.labels.is_empty() {
                let is_number = self.format == TruthFormat::Charades;
                let labels = video.labels.iter().map(|label| if is_number { label.clone() } else { plain(label) });
                // A video without segments is not found.
                items.push(Item { labels: labels.collect(), ranked: ranked(&entries) });
            }
        }
        items
    }
}

/// What is compared: the true labels and the predicted ones, the best first.
pub(super) struct Item {
    pub(super) labels: Vec<String>,
    pub(super) ranked: Vec<Ranked>,
}

pub(super) struct Ranked {
    pub(super) key: String,
    pub(super) label: String,
    pub(super) score: f64,
}

impl Item {
    fn score(&self, label: &str) -> f64 {
        self.ranked.iter().find(|ranked| ranked.key == label).map_or(0.0, |ranked| ranked.score)
    }

    /// The position of its label among the predictions.
    fn rank(&self) -> Option<usize> {
        self.ranked.iter().position(|ranked| Some(&ranked.key) == self.labels.first())
    }
}

/// A label without regard to case, spaces and punctuation.
pub(super) fn plain(label: &str) -> String {
    label.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The label of the action that fills a segment.
fn filling(video: &VideoTruth, start: f64, end: f64) -> Option<&str> {
    let filled =
        |act: &&truth::Act| act.end_seconds.min(end) - act.start_seconds.max(start) >= FILLED_MIN * (end - start);
    video.acts.iter().find(filled).map(|act| act.label.as_str())
}

/// Measures of items with one label.
pub(super) fn one(
    model: String,
    items: &[Item],
    items_are: &'static str,
    unknown_labels: Vec<String>,
) -> ActionsReport {
    let within = |k: usize| {
        let found = items.iter().filter(|item| item.rank().is_some_and(|rank| rank < k)).count();
        found as f64 / items.len() as f64
    };
    // Labels as the index writes them, if it has them.
    let spelled: HashMap<&str, &str> =
        items.iter().flat_map(|item| &item.ranked).map(|ranked| (&ranked.key[..], &ranked.label[..])).collect();
    let shown = |key: &'_ str| spelled.get(key).copied().unwrap_or(key).to_owned();
    let answer = |item: &Item| {
        (shown(&item.labels[0]), item.ranked.first().map_or("nothing".to_owned(), |ranked| ranked.label.clone()))
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
        model,
        items_are,
        items: items.len(),
        measures: Measures::One {
            top1: within(1),
            top5: within(5),
            mean_class_accuracy: mean_class_accuracy(&answers),
        },
        classes: by_class(&answers).into_iter().map(class).collect(),
        most_confused: most_confused(&answers, CONFUSED).into_iter().map(confused).collect(),
        unknown_labels,
        differences: None,
    }
}

/// Measures of videos with several labels.
fn several(model: String, items: &[Item], unknown_labels: Vec<String>) -> ActionsReport {
    let mut counts = BTreeMap::<&String, usize>::new();
    items.iter().flat_map(|item| &item.labels).for_each(|label| *counts.entry(label).or_default() += 1);
    let class = |(label, count): (&String, usize)| {
        let scored = items.iter().map(|item| (item.score(label), item.labels.contains(label)));
        Some(ClassReport { label: label.clone(), items: count, value: average_precision(scored.collect())? })
    };
    let classes: Vec<ClassReport> = counts.into_iter().filter_map(class).collect();
    let mean_average_precision = classes.iter().map(|class| class.value).sum::<f64>() / classes.len() as f64;
    ActionsReport {
        model,
        items_are: "videos",
        items: items.len(),
        measures: Measures::Several { mean_average_precision },
        classes,
        most_confused: Vec::new(),
        unknown_labels,
        differences: None,
    }
}
