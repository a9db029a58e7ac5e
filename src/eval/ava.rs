//! Compares the actions of persons as AVA's evaluation does: the mean over the classes of the average precision at an overlap of
//! 0.5, on key frames, one for each second.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::Eval;
use super::boxes::OVERLAP;
use super::metrics::{BoxImage, Xyxy, area_precision};
use super::report::{ActionsReport, ClassReport, Measures};
use super::truth::KeyFrame;
use crate::error::{Error, Result};
use crate::query;
use crate::zoo::labels::{LabelSet, Labels};

/// Key frames that do not count: the name of the video in lower case, and the second.
pub(super) type Excluded = BTreeSet<(String, i64)>;

/// AVA's clips begin so many seconds after their movies.
const CLIP_START: f64 = 900.0;

/// A person is at a key frame if it was scored at most this long before or after it.
const NEAR_SECONDS: f64 = 0.5;

/// An action of a scored person.
#[derive(Debug, Deserialize)]
struct Scored {
    uri: String,
    model: String,
    time_seconds: f64,
    /// Corners as shares of the frame.
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    label: String,
    score: f64,
    duration_seconds: f64,
}

impl Eval<'_> {
    /// Compares the actions of the persons at the key frames.
    pub(super) async fn ava(&self, excluded: &Excluded) -> Result<ActionsReport> {
        let sql = format!(
            "SELECT p.uri AS uri, a.model AS model, time_seconds, x1 / width AS x1, y1 / height AS y1, x2 / width AS x2, y2 / height AS y2,
    entry.label AS label, entry.score AS score, v.duration_seconds AS duration_seconds
FROM (
    SELECT uri, video_id, run_id, segment, time_seconds, x1, y1, x2, y2, unnest(actions) AS entry
    FROM current_persons WHERE {}
) AS p
JOIN current_videos AS v ON v.video_id = p.video_id
JOIN current_actions AS a ON a.video_id = p.video_id AND a.run_id = p.run_id AND a.segment = p.segment
ORDER BY uri, time_seconds",
            self.condition()
        );
        let rows: Vec<Scored> = query::rows(self.index, &sql, self.duckdb).await?;
        let Some(model) = rows.first().map(|row| row.model.clone()) else {
            return Err(Error::failed("these videos have no persons with actions")
                .with_hint("index them with a SlowFast for detection (AVA)"));
        };
        let mut by_video = HashMap::<&str, Vec<&Scored>>::new();
        rows.iter().for_each(|row| by_video.entry(&row.uri).or_default().push(row));
        let [all, evaluated] = [LabelSet::Ava80, LabelSet::Ava60].map(Labels::Set);
        let (all, evaluated) = (all.names(), evaluated.names());
        // AVA's numbers begin with 1.
        let number = |label: &str| all.iter().position(|own| *own == label).map(|at| at + 1);
        let evaluated: Vec<(usize, &str)> =
            evaluated.into_iter().filter_map(|label| Some((number(label)?, label))).collect();
        let mut frames: Vec<(&KeyFrame, Vec<&Scored>)> = Vec::new();
        for (uri, video) in self.videos {
            let found = by_video.remove(uri).unwrap_or_default();
            let start = clip_start(&video.key_frames, found.first().map_or(f64::INFINITY, |row| row.duration_seconds));
            for frame in &video.key_frames {
                if video.paths.iter().any(|path| excluded.contains(&(path.clone(), frame.second))) {
                    continue;
                }
                let at = frame.second as f64 - start;
                let near = |row: &&&Scored| (row.time_seconds - at).abs() <= NEAR_SECONDS;
                let here: Vec<&Scored> = found.iter().filter(near).copied().collect();
                // Two frames may be as near.
                let distance = |row: &&Scored| (row.time_seconds - at).abs();
                let nearest = here.iter().map(distance).fold(f64::INFINITY, f64::min);
                frames.push((frame, here.into_iter().filter(|row| distance(row) == nearest).collect()));
            }
        }
        let mut classes = Vec::new();
        for (number, label) in evaluated {
            let image = |(frame, found): &(&KeyFrame, Vec<&Scored>)| BoxImage {
                truth: frame.boxes.iter().filter(|(class, _)| *class == number).map(|(_, corners)| *corners).collect(),
                ignored: Vec::new(),
                found: found.iter().filter(|row| row.label == label).map(|row| (row.corners(), row.score)).collect(),
            };
            let images: Vec<BoxImage> = frames.iter().map(image).collect();
            let items = images.iter().map(|image| image.truth.len()).sum();
            if let Some(value) = area_precision(&images, OVERLAP) {
                classes.push(ClassReport { label: label.to_owned(), items, value });
            }
        }
        if classes.is_empty() {
            return Err(Error::failed("the truth has no boxes for these videos"));
        }
        let mean_average_precision = classes.iter().map(|class| class.value).sum::<f64>() / classes.len() as f64;
        Ok(ActionsReport {
            model,
            items_are: "boxes",
            items: classes.iter().map(|class| class.items).sum(),
            measures: Measures::Several { mean_average_precision },
            classes,
            most_confused: Vec::new(),
            unknown_labels: Vec::new(),
            differences: None,
        })
    }
}

impl Scored {
    fn corners(&self) -> Xyxy {
        [self.x1, self.y1, self.x2, self.y2]
    }
}

/// The second of the movie at which the file begins: it may be the whole movie, or the 15 minutes that are annotated.
fn clip_start(frames: &[KeyFrame], duration_seconds: f64) -> f64 {
    let last = frames.iter().map(|frame| frame.second).max().unwrap_or(0);
    if (last as f64) > duration_seconds { CLIP_START } else { 0.0 }
}

/// The key frames of each video, from the lines `video, second, x1, y1, x2, y2, action, person`. Lines without a box say that the
/// key frame has none.
pub(super) fn key_frames(text: &str) -> Result<BTreeMap<String, Vec<KeyFrame>>, String> {
    let mut videos = BTreeMap::<String, BTreeMap<i64, Vec<(usize, Xyxy)>>>::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        let wrong = || format!("line {number} is not VIDEO,SECOND,X1,Y1,X2,Y2,ACTION,PERSON");
        let second = cells.get(1).and_then(|cell| cell.parse::<f64>().ok()).ok_or_else(wrong)?.round() as i64;
        let boxes = videos.entry(cells[0].to_lowercase()).or_default().entry(second).or_default();
        if cells.len() >= 7 && !cells[2].is_empty() {
            let corner = |at: usize| cells[at].parse::<f64>().map_err(|_| wrong());
            let corners = [corner(2)?, corner(3)?, corner(4)?, corner(5)?];
            boxes.push((cells[6].parse().map_err(|_| wrong())?, corners));
        }
    }
    let frames =
        |frames: BTreeMap<i64, _>| frames.into_iter().map(|(second, boxes)| KeyFrame { second, boxes }).collect();
    Ok(videos.into_iter().map(|(video, of)| (video, frames(of))).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn key_frames_are_grouped_by_second_and_may_be_empty() {
        let text = "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1\n-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,9,1\n\
                    -5KQ66BBWC4,0903\n1j20qq1JyX4,1798,0.1,0.2,0.3,0.4,12,7\n";
        let videos = key_frames(text).unwrap();
        let seconds =
            |video: &str| videos[video].iter().map(|frame| (frame.second, frame.boxes.len())).collect::<Vec<_>>();
        assert_eq!((seconds("-5kq66bbwc4"), seconds("1j20qq1jyx4")), (vec![(902, 2), (903, 0)], vec![(1798, 1)]));
        assert!(key_frames("a,b\n").unwrap_err().contains("line 1"));
        assert!(key_frames("a,1,2,3,4,x,5\n").is_err());
    }

    #[test]
    fn a_file_is_the_movie_or_the_annotated_part_of_it() {
        let frames = [KeyFrame { second: 902, boxes: vec![] }, KeyFrame { second: 1798, boxes: vec![] }];
        assert_eq!((clip_start(&frames, 901.2), clip_start(&frames, 7000.0)), (900.0, 0.0));
    }
}
