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
    /// A folder of CLASS_test_split1.txt with lines "VIDEO.avi 2", where 2 means that the video is tested.
    Hmdb51,
    /// Lines "VIDEO CLASS ..." or CLASS/VIDEO; videos of Testing_Normal_Videos_Anomaly are normal.
    UcfCrime,
    /// CSV without a header: video, second, box as shares of the frame, action, person.
    Ava,
    /// The JSON of object detection: images, annotations, categories. An image is a video of one frame.
    Coco,
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
    /// Actions of persons.
    pub(super) key_frames: Vec<KeyFrame>,
}

/// The persons in a key frame of AVA: their actions, numbered from 1, and corners as shares of the frame.
#[derive(Debug)]
pub(super) struct KeyFrame {
    /// The second of the movie.
    pub(super) second: i64,
    pub(super) boxes: Vec<(usize, Xyxy)>,
}

/// A label during `[start_seconds, end_seconds)`.
#[derive(Debug, Deserialize)]
pub(super) struct Act {
    pub(super) label: String,
    pub(super) start_seconds: f64,
    pub(super) end_seconds: f64,
}

/// The persons in a frame.
#[derive(Debug, Default, Deserialize)]
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
    let truth = parsed(path, format).map_err(wrong)?;
    if truth.is_empty() {
        return Err(wrong("it names no video".to_owned()));
    }
    Ok(truth)
}

type Parsed = Result<Vec<VideoTruth>, String>;

fn parsed(path: &Path, format: TruthFormat) -> Parsed {
    let text = || std::fs::read_to_string(path).map_err(|error| error.to_string());
    match format {
        TruthFormat::Kinetics => kinetics(&text()?),
        TruthFormat::Ucf101 => ucf101(&text()?),
        TruthFormat::Hmdb51 => hmdb51(path),
        TruthFormat::UcfCrime => ucf_crime(&text()?),
        TruthFormat::Csv => {
            of_columns(&text()?, ["video", "label"], |video, label| VideoTruth::of([plain_path(video)], [label]))
        }
        TruthFormat::Charades => of_columns(&text()?, ["id", "actions"], charades),
        TruthFormat::Ava => ava(&text()?),
        TruthFormat::Coco => coco(&text()?),
        TruthFormat::Scenes => scenes(&text()?),
    }
}

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

/// The files of split 1, whose figures are published most often.
fn hmdb51(folder: &Path) -> Parsed {
    const SUFFIX: &str = "_test_split1.txt";
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut videos = Vec::new();
    for file in entries.flatten().map(|entry| entry.path()) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(class) = name.strip_suffix(SUFFIX) else { continue };
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{name}: {error}"))?;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(video), Some("2")) = (words.next(), words.next()) {
                let path = plain_path(video);
                videos.push(VideoTruth::of([format!("{class}/{path}"), path], [class]));
            }
        }
    }
    if videos.is_empty() {
        return Err(format!("no file CLASS{SUFFIX} in this folder names a video to test"));
    }
    Ok(videos)
}

fn ucf_crime(text: &str) -> Parsed {
    const NORMAL: &str = "Normal";
    let class = |name: &str| if name.to_lowercase().contains("normal") { NORMAL.to_owned() } else { name.to_owned() };
    let video = |(number, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let path = words.next().unwrap_or_default();
        let (folder, own) = (path.split_once('/').map(|(folder, _)| folder), words.next());
        let label = own.or(folder).ok_or_else(|| format!("line {number} is neither VIDEO CLASS nor CLASS/VIDEO"))?;
        Ok(VideoTruth::of([plain_path(path)], [class(label).as_str()]))
    };
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).map(video).collect()
}

fn ava(text: &str) -> Parsed {
    let video = |(video, key_frames)| VideoTruth { paths: vec![video], key_frames, ..VideoTruth::default() };
    Ok(super::ava::key_frames(text)?.into_iter().map(video).collect())
}

/// AVA's key frames that do not count: lines VIDEO,SECOND.
pub(super) fn excluded(path: &Path) -> Result<super::ava::Excluded> {
    let wrong = |problem: String| Error::usage(format!("{}: {problem}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let frames = super::ava::key_frames(&text).map_err(wrong)?.into_iter();
    Ok(frames.flat_map(|(video, frames)| frames.into_iter().map(move |frame| (video.clone(), frame.second))).collect())
}

fn coco(text: &str) -> Parsed {
    #[derive(Deserialize)]
    struct Coco {
        images: Vec<Image>,
        annotations: Vec<Annotation>,
        categories: Vec<Category>,
    }
    #[derive(Deserialize)]
    struct Image {
        id: i64,
        file_name: String,
    }
    #[derive(Deserialize)]
    struct Annotation {
        image_id: i64,
        category_id: i64,
        /// Left, top, width, height.
        bbox: [f64; 4],
        #[serde(default)]
        iscrowd: u8,
    }
    #[derive(Deserialize)]
    struct Category {
        id: i64,
        name: String,
    }
    let Coco { images, annotations, categories } = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let person = categories.iter().find(|category| category.name == "person").map(|category| category.id);
    let person = person.ok_or("it has no category `person`")?;
    let mut frames: std::collections::HashMap<i64, FrameTruth> = std::collections::HashMap::new();
    for Annotation { image_id, category_id, bbox: [left, top, width, height], iscrowd } in annotations {
        let frame = frames.entry(image_id).or_default();
        if category_id == person {
            let list = if iscrowd == 0 { &mut frame.persons } else { &mut frame.hidden };
            list.push([left, top, left + width, top + height]);
        }
    }
    let video = |Image { id, file_name }: Image| VideoTruth {
        paths: vec![plain_path(&file_name)],
        frames: vec![frames.remove(&id).unwrap_or_default()],
        ..VideoTruth::default()
    };
    Ok(images.into_iter().map(video).collect())
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
        acts: actions,
        frames,
        ..VideoTruth::default()
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
        let crime = "Abuse028_x264.mp4  Abuse  165  240  -1  -1\nTesting_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\nArson/Arson007.mp4\n";
        assert_eq!(
            described(&ucf_crime(crime).unwrap()),
            [
                "abuse028_x264: Abuse",
                "testing_normal_videos_anomaly/normal_videos_003_x264: Normal",
                "arson/arson007: Arson"
            ]
        );
        let coco = super::coco(
            r#"{"images": [{"id": 7, "file_name": "000000000139.jpg"}, {"id": 8, "file_name": "a.jpg"}],
                "annotations": [{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0},
                    {"image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
                    {"image_id": 7, "category_id": 2, "bbox": [5, 5, 1, 1], "iscrowd": 0}],
                "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]}"#,
        )
        .unwrap();
        assert_eq!(described(&coco), ["000000000139: ", "a: "]);
        assert_eq!(coco[0].frames[0].persons, [[1.0, 2.0, 4.0, 6.0]]);
        assert_eq!((coco[0].frames[0].hidden.len(), coco[1].frames.len()), (1, 1));
        let splits = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(splits.path().join(name), text).unwrap();
        write("brush_hair_test_split1.txt", "April_09.avi 1\nAtheism_2.avi 2\nunused.avi 0\n");
        write("brush_hair_test_split2.txt", "April_09.avi 2\n");
        assert_eq!(described(&hmdb51(splits.path()).unwrap()), ["brush_hair/atheism_2 atheism_2: brush_hair"]);
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
