//! The ground truth of data sets, in the formats in which they are published.

use std::path::Path;

use clap::ValueEnum;
use serde::Deserialize;

use super::metrics::Xyxy;
use crate::error::{Error, Result};

/// The format of a file with ground truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TruthFormat {
    /// CSV with the columns label, youtube_id, time_start, time_end. Videos are named ID_SSSSSS_EEEEEE or ID.
    Kinetics,
    /// Lines CLASS/VIDEO.avi, with a number after them or not (testlist01.txt).
    Ucf101,
    /// CSV with the columns video and label.
    Csv,
    /// CSV with the columns id and actions ("c092 11.90 21.20;c147 0.00 12.60"). A video has several labels.
    Charades,
    /// The truth.json of the program that draws clips: actions with their times, and boxes of persons.
    Scenes,
}

/// What is true of a video.
#[derive(Debug, Default)]
pub(super) struct VideoTruth {
    /// Paths that the video may have, as [`plain_path`] makes them. The archive may have fewer or more folders.
    pub(super) paths: Vec<String>,
    /// Labels of the whole video.
    pub(super) labels: Vec<String>,
    /// Labels of parts of it.
    pub(super) acts: Vec<Act>,
    /// Boxes of persons.
    pub(super) frames: Vec<FrameTruth>,
}

/// A label during `[start_seconds, end_seconds)`.
#[derive(Debug, Deserialize)]
pub(super) struct Act {
    pub(super) label: String,
    pub(super) start_seconds: f64,
    pub(super) end_seconds: f64,
}

/// The persons in a frame.
#[derive(Debug, Deserialize)]
pub(super) struct FrameTruth {
    pub(super) time_seconds: f64,
    /// Persons who should be found.
    pub(super) persons: Vec<Xyxy>,
    /// Persons who may be found.
    pub(super) hidden: Vec<Xyxy>,
}

/// A path without its extension, in lower case.
pub(super) fn plain_path(path: &str) -> String {
    let file = path.rfind('/').map_or(0, |slash| slash + 1);
    path[..path[file..].rfind('.').map_or(path.len(), |dot| file + dot)].to_lowercase()
}

/// Reads a file.
///
/// # Errors
/// A usage error that names the file and the line, or what is missing in it.
pub(super) fn read(path: &Path, format: TruthFormat) -> Result<Vec<VideoTruth>> {
    let wrong = |problem: String| Error::usage(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let truth = match format {
        TruthFormat::Kinetics => kinetics(&text),
        TruthFormat::Ucf101 => ucf101(&text),
        TruthFormat::Csv => {
            of_columns(&text, ["video", "label"], |video, label| VideoTruth::of([plain_path(video)], [label]))
        }
        TruthFormat::Charades => of_columns(&text, ["id", "actions"], charades),
        TruthFormat::Scenes => scenes(&text),
    }
    .map_err(wrong)?;
    if truth.is_empty() {
        return Err(wrong("it names no video".to_owned()));
    }
    Ok(truth)
}

type Parsed = Result<Vec<VideoTruth>, String>;

impl VideoTruth {
    fn of<'a>(paths: impl IntoIterator<Item = String>, labels: impl IntoIterator<Item = &'a str>) -> Self {
        let labels = labels.into_iter().map(str::to_owned).collect();
        Self { paths: paths.into_iter().collect(), labels, ..Self::default() }
    }
}

/// The rows of a CSV file, with the values of these columns.
fn columns<const N: usize>(text: &str, names: [&str; N]) -> Result<Vec<[String; N]>, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    let mut positions = [0; N];
    for (position, name) in positions.iter_mut().zip(names) {
        let found = header.iter().position(|column| column.trim() == name);
        *position = found.ok_or_else(|| format!("the first line names no column `{name}`"))?;
    }
    let row = |record: csv::Result<csv::StringRecord>| {
        let record = record.map_err(|error| error.to_string())?;
        if let Some((_, name)) = positions.iter().zip(names).find(|(position, _)| record.get(**position).is_none()) {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(format!("line {line} has no value for `{name}`"));
        }
        Ok(positions.map(|position| record[position].trim().to_owned()))
    };
    reader.records().map(row).collect()
}

fn of_columns(text: &str, names: [&str; 2], video: impl Fn(&str, &str) -> VideoTruth) -> Parsed {
    Ok(columns(text, names)?.iter().map(|[name, labels]| video(name, labels)).collect())
}

fn charades(id: &str, actions: &str) -> VideoTruth {
    let mut classes: Vec<&str> = actions.split(';').filter_map(|action| action.split_whitespace().next()).collect();
    classes.sort_unstable();
    classes.dedup();
    VideoTruth::of([id.to_lowercase()], classes)
}

fn kinetics(text: &str) -> Parsed {
    let rows = columns(text, ["label", "youtube_id", "time_start", "time_end"])?;
    let video = |[label, id, start, end]: &[String; 4]| {
        let id = id.to_lowercase();
        let times = start.parse::<f64>().ok().zip(end.parse::<f64>().ok());
        let long = times.map(|(start, end)| format!("{id}_{start:06.0}_{end:06.0}"));
        VideoTruth::of([id].into_iter().chain(long), [label.as_str()])
    };
    Ok(rows.iter().map(video).collect())
}

fn ucf101(text: &str) -> Parsed {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let video = |(number, line): (usize, &str)| {
        let path = line.split_whitespace().next().unwrap_or_default();
        let (class, _) = path.split_once('/').filter(|(_, video)| !video.contains('/')).ok_or_else(|| {
            let shown: String = line.chars().take(60).collect();
            format!("line {number} is not CLASS/VIDEO: {shown}")
        })?;
        Ok(VideoTruth::of([plain_path(path)], [class]))
    };
    lines.map(video).collect()
}

fn scenes(text: &str) -> Parsed {
    #[derive(Deserialize)]
    struct Scenes {
        videos: Vec<Scene>,
    }
    #[derive(Deserialize)]
    struct Scene {
        path: String,
        actions: Vec<Act>,
        frames: Vec<FrameTruth>,
    }
    let scenes: Scenes = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let truth = |Scene { path, actions, frames }| VideoTruth {
        paths: vec![plain_path(&path)],
        labels: Vec::new(),
        acts: actions,
        frames,
    };
    Ok(scenes.videos.into_iter().map(truth).collect())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn described(videos: &[VideoTruth]) -> Vec<String> {
        videos.iter().map(|video| format!("{}: {}", video.paths.join(" "), video.labels.join(" "))).collect()
    }

    #[test]
    fn data_sets_are_read_in_their_own_formats() {
        let kinetics = "label,youtube_id,time_start,time_end,split\n\"tying, knots\",0347ZoDXyP0,95,105,val\n";
        assert_eq!(
            described(&super::kinetics(kinetics).unwrap()),
            ["0347zodxyp0 0347zodxyp0_000095_000105: tying, knots"]
        );
        let ucf101 = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n\nArchery/v_Archery_g01_c01.avi\n";
        assert_eq!(
            described(&super::ucf101(ucf101).unwrap()),
            ["applyeyemakeup/v_applyeyemakeup_g01_c01: ApplyEyeMakeup", "archery/v_archery_g01_c01: Archery"]
        );
        let charades = "id,subject,actions\n46GP8,HR43,c147 0.00 12.60;c092 11.90 21.20;c147 13 14\nN11GT,0KZ7,\n";
        let charades = of_columns(charades, ["id", "actions"], super::charades).unwrap();
        assert_eq!(described(&charades), ["46gp8: c092 c147", "n11gt: "]);
        let scenes = super::scenes(
            r#"{"videos": [{"path": "cam-1/clip-001.mp4", "actions": [{"label": "wave", "start_seconds": 0, "end_seconds": 2.5}],
                "frames": [{"time_seconds": 0.04, "persons": [[1, 2, 3, 4]], "hidden": []}]}]}"#,
        )
        .unwrap();
        assert_eq!(described(&scenes), ["cam-1/clip-001: "]);
        assert_eq!(scenes[0].acts[0].end_seconds, 2.5);
        assert_eq!(scenes[0].frames[0].persons, [[1.0, 2.0, 3.0, 4.0]]);
    }

    #[test]
    fn a_file_in_another_format_is_an_error_that_says_what_is_missing() {
        let error = kinetics("a,b\n1,2\n").map(drop).unwrap_err();
        assert!(error.contains("`label`"), "{error}");
        let error = of_columns("video,label\na,b\nc\n", ["video", "label"], super::charades).map(drop).unwrap_err();
        assert_eq!(error, "line 3 has no value for `label`");
        assert!(ucf101("one\n").map(drop).unwrap_err().contains("line 1"));
        assert!(scenes("[]").is_err());
    }
}
