//! The job: what to index, with which models, and where to write the tables. It is read from a TOML file and checked
//! completely, and becomes a plain value that the run's record contains.

pub mod engine;
mod keys;
mod max_failed;
mod partition;
mod paths;
mod prices;
mod reader;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::device::{DeviceChoice, Precision};
use crate::error::{Error, Result};
use crate::hash::hex;
use crate::store::{Encryption, StoreConfig};
use engine::Engines;
pub use keys::SECTIONS;
pub use max_failed::MaxFailed;
pub use partition::{NULL_PARTITION, Partition};
pub use prices::Prices;
use reader::{Document, Entry, Section};

/// The default of `input.include`: the common extensions of video files.
pub const DEFAULT_INCLUDE: &str = "**/*.{mp4,m4v,mkv,mov,webm,avi,ts,m2ts,mts,mpg,mpeg,flv,wmv,3gp,ogv,mxf}";

/// The default `frames_per_second` of a job that tracks. Boxes of a person are matched if they overlap: at 1.4 m/s, a person of
/// 0.5 m width overlaps its box of a fifth of a second before, but not that of a whole one.
const TRACKED_FRAMES_PER_SECOND: f64 = 5.0;

/// Increased with every change of the text that [`Job::fingerprint`] hashes.
const FINGERPRINT_VERSION: u32 = 1;

/// A job file with all defaults filled in and all values checked. At least one of `actions` and `persons` is present.
/// Local paths are relative to the working directory; [`Job::load`] resolves those of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Where the videos are, and which of them to index.
    pub input: Input,
    /// Where the tables are written.
    pub output: Output,
    /// Settings of the action model. Without them, the model does not run.
    pub actions: Option<Actions>,
    /// Settings of the person detector. Without them, the model does not run.
    pub persons: Option<Persons>,
    /// How the job runs. Only `precision` changes results.
    pub run: Run,
    /// What is written for `vidindex report`.
    #[serde(default)]
    pub report: Report,
    /// What a run costs, for `vidindex plan --estimate`.
    #[serde(default)]
    pub prices: Option<Prices>,
    /// How to connect to S3 or a compatible store: [`Job::input_store`] and [`Job::output_store`] add what differs.
    pub store: StoreConfig,
    /// The job's `[input.store]`.
    #[serde(default)]
    pub input_differs: StoreConfig,
    /// The job's `[output.store]`.
    #[serde(default)]
    pub output_differs: StoreConfig,
    /// Settings of the engines.
    #[serde(default)]
    pub engine: Engines,
}

/// The job's `[input]`.
///
/// Globs are matched against the key relative to `uri` and ignore letter case. `*` and `?` do not match `/`; `**` does.
/// As in ripgrep, a glob without a `/` matches file names at any depth, a glob that begins with `/` starts at `uri`, and
/// a glob that ends with `/` matches everything below that folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// `s3://bucket/prefix/` or a directory. A job file may name a local file, too.
    pub uri: String,
    /// The `manifest.json` of an S3 Inventory report, which is read instead of listing the bucket.
    #[serde(default)]
    pub inventory: Option<String>,
    /// An object is indexed if one of these globs matches it,
    pub include: Vec<String>,
    /// and none of these does. A folder in which one of these matches everything is not listed.
    pub exclude: Vec<String>,
    /// Whether to index files whose path has a name that begins with a dot, or a name that systems use, such as
    /// `lost+found` and `@eaDir`.
    #[serde(default)]
    pub hidden: bool,
    /// Whether the version that a plan lists is indexed, even if there is a newer one when a worker reads it.
    #[serde(default)]
    pub versions: bool,
    /// Turns parts of the key into partition columns.
    pub partition: Option<Partition>,
    /// The share of the indexed videos, 0 to 1, that a plan may mark as deleted without confirmation.
    #[serde(default = "default_deleted_max")]
    pub deleted_max: f64,
}

fn default_save_seconds() -> u64 {
    120
}

fn default_deleted_max() -> f64 {
    0.2
}

/// The job's `[output]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// `s3://bucket/prefix/` or a directory.
    pub uri: String,
}

/// The job's `[actions]`: which action happens in which segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Actions {
    /// The ONNX file: a path, or its address in a bucket. Its TOML file is in the same folder.
    pub model: PathBuf,
    /// Length of a segment in seconds. The default is the length of the model's clip.
    pub clip_seconds: Option<f64>,
    /// Seconds from the start of one segment to the start of the next. The default is the segment's length.
    pub stride_seconds: Option<f64>,
    /// Which scores of a segment are written. Scores of persons are not affected.
    pub scores: Scores,
    /// How many labels each segment's `top` contains; at least 1.
    pub top_k: usize,
    /// Whether each segment's pooled features are written.
    pub embedding: bool,
    /// The part of a frame that the model sees. A model that scores persons sees whole frames.
    #[serde(default)]
    pub view: ActionView,
}

/// The part of a frame that a model that scores clips sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionView {
    /// The square in the centre: 56 % of a frame of 16:9.
    #[default]
    Center,
    /// Three squares along the long side, whose scores are averaged.
    ThreeCrops,
    /// All of it at once.
    Whole,
}

impl ActionView {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Center => "center",
            Self::ThreeCrops => "three-crops",
            Self::Whole => "whole",
        }
    }
}

/// Which scores of a segment are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scores {
    /// Only those in `top`.
    TopK,
    /// `top`, and the score of every label in label order.
    Full,
}

/// The job's `[persons]`: where people, or other classes of the detector, are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Persons {
    /// The ONNX file: a path, or its address in a bucket. Its TOML file is in the same folder.
    pub model: PathBuf,
    /// Frames to detect in per second of video; above 0.
    pub frames_per_second: f64,
    /// The score that a box must exceed; at least 0, below 1.
    pub confidence: f32,
    /// The overlap (intersection over union, 0 to 1) above which only the best of two boxes of a class is kept.
    pub iou: f32,
    /// Names of the classes to keep; at least one.
    pub classes: Vec<String>,
    /// Whether boxes of one object get one number.
    #[serde(default)]
    pub track: bool,
}

/// The job's `[run]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The device that runs the models.
    pub device: DeviceChoice,
    /// The models' arithmetic.
    pub precision: Precision,
    /// The approximate size of a shard, in bytes of video; above 0.
    pub shard_bytes: u64,
    /// The most seconds that decoding a video may take, without the time it waits for inference; at least 1.
    pub video_timeout_seconds: u64,
    /// How many videos may fail, or be indexed only in part, before the exit code says so.
    #[serde(default)]
    pub max_failed: MaxFailed,
    /// How often a worker saves the finished videos of a shard, in seconds; at least 1.
    #[serde(default = "default_save_seconds")]
    pub save_seconds: u64,
    /// Which layers of the decoders' sandbox a run insists on.
    #[serde(default)]
    pub sandbox: Sandbox,
}

/// The layers of the decoders' sandbox that must work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// The filter of system calls and the limits. The other layers are used where the machine allows them.
    #[default]
    Auto,
    /// All of them.
    Require,
}

/// The job's `[report]`. It is not part of the fingerprint, because it does not change the other tables: an archive is not
/// indexed again just to add pictures. `plan --reindex` adds them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether to write pictures of a few moments of each video.
    pub thumbnails: bool,
}

impl Job {
    /// Reads a job file, whose paths are relative to the file, applies `overrides` (`section.key=value`; the value is TOML or else a bare string), fills in the
    /// defaults and checks every value.
    ///
    /// # Errors
    /// [`Error::Usage`] names the file, the line and the key, and suggests a known key for an unknown one.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::usage(format!("cannot read the job file {name}: {error}"))
                .with_hint("a job file is a TOML file; its path is relative to the working directory")
        })?;
        Self::read(&name, path.parent(), &text, overrides)
    }

    /// Like [`Job::load`], for a text that is no file: its paths are relative to the working directory. Errors call it `name`.
    ///
    /// # Errors
    /// As [`Job::load`].
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        Self::read(name, None, text, overrides)
    }

    fn read(name: &str, folder: Option<&Path>, text: &str, overrides: &[String]) -> Result<Self> {
        let document = Document::read(name, folder, text, overrides)?;
        let mut job = Self {
            input: Input::read(document.required("input", r#"uri = "s3://archive/2026/""#)?)?,
            output: Output { uri: uri(document.required("output", r#"uri = "s3://index/""#)?, "s3://index/")? },
            actions: document.section("actions").map(Actions::read).transpose()?,
            persons: document.section("persons").map(Persons::read).transpose()?,
            run: Run::read(document.section("run"))?,
            report: document.section("report").map(Report::read).transpose()?.unwrap_or_default(),
            prices: document.section("prices").map(Prices::read).transpose()?,
            store: store_settings(&document, "store")?,
            input_differs: store_settings(&document, "input.store")?,
            output_differs: store_settings(&document, "output.store")?,
            engine: Engines::read(&document)?,
        };
        job.input.take_file();
        if job.actions.is_none() && job.persons.is_none() {
            return Err(Error::usage(format!(
                "{name}: neither [actions] nor [persons] is present, so there is nothing to index"
            ))
            .with_hint("add one, for example:\n    [persons]\n    model = \"models/yolov5s.onnx\""));
        }
        Ok(job)
    }

    /// The values that are paths on this machine, by their keys.
    pub(crate) fn local_paths(&self) -> Vec<(&'static str, String)> {
        let model = |path: &Path| path.to_string_lossy().into_owned();
        let values = [
            ("input.uri", Some(self.input.uri.clone())),
            ("input.inventory", self.input.inventory.clone()),
            ("output.uri", Some(self.output.uri.clone())),
            ("actions.model", self.actions.as_ref().map(|actions| model(&actions.model))),
            ("persons.model", self.persons.as_ref().map(|persons| model(&persons.model))),
        ];
        let local = |(key, value): (_, Option<String>)| Some((key, value.filter(|value| !value.contains("://"))?));
        values.into_iter().filter_map(local).collect()
    }

    /// How to connect to the store of the videos.
    pub fn input_store(&self) -> StoreConfig {
        StoreConfig { versions: self.input.versions, ..self.input_differs.clone().or(&self.store) }
    }

    /// How to connect to the store of the index.
    pub fn output_store(&self) -> StoreConfig {
        self.output_differs.clone().or(&self.store)
    }

    /// Hashes everything that changes the rows of an unchanged video: the models, as (role, SHA-256) pairs in any order,
    /// and the settings that rows depend on. Devices and locations are not part of it. Returns 16 hexadecimal digits.
    pub fn fingerprint(&self, models: &[(&str, &str)]) -> String {
        let mut lines: Vec<String> =
            models.iter().map(|(role, sha256)| format!("model {role} {}", sha256.to_lowercase())).collect();
        lines.sort_unstable();
        lines.insert(0, format!("vidindex fingerprint {FINGERPRINT_VERSION}"));
        lines.extend(self.settings().into_iter().map(|(key, value)| format!("{key} {value}")));
        hex(&Sha256::digest(lines.join("\n"))[..8])
    }

    /// The settings that rows depend on, as keys and values.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![("run.precision", self.run.precision.as_str().to_owned())];
        if let Some(actions) = &self.actions {
            let seconds = |value: Option<f64>| value.map_or("default".to_owned(), |seconds| format!("{seconds:?}"));
            let scores = match actions.scores {
                Scores::TopK => "top-k",
                Scores::Full => "full",
            };
            settings.push(("actions.clip_seconds", seconds(actions.clip_seconds)));
            settings.push(("actions.stride_seconds", seconds(actions.stride_seconds)));
            settings.push(("actions.scores", scores.to_owned()));
            settings.push(("actions.top_k", actions.top_k.to_string()));
            settings.push(("actions.embedding", actions.embedding.to_string()));
            // Indexes from before the key existed stay valid.
            if actions.view != ActionView::Center {
                settings.push(("actions.view", actions.view.as_str().to_owned()));
            }
        }
        if let Some(persons) = &self.persons {
            let mut classes = persons.classes.clone();
            classes.sort_unstable();
            classes.dedup();
            settings.push(("persons.frames_per_second", format!("{:?}", persons.frames_per_second)));
            settings.push(("persons.confidence", format!("{:?}", persons.confidence)));
            settings.push(("persons.iou", format!("{:?}", persons.iou)));
            settings.push(("persons.classes", format!("{classes:?}")));
            // Indexes from before the key existed stay valid.
            if persons.track {
                settings.push(("persons.track", "true".to_owned()));
            }
        }
        settings
    }
}

/// Compiles the job's globs; [`Input`] has their rules. Errors name the glob.
pub(crate) fn glob_set(globs: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        set.add(glob(text).map_err(|problem| Error::usage(format!("the glob {text:?} {problem}")))?);
    }
    set.build().map_err(|error| Error::usage(format!("the globs {globs:?} cannot be combined: {error}")))
}

/// Compiles globs for the folders in which one of the job's globs matches everything. They match a folder's key without
/// its last `/`. Only globs that end with `/`, `/**` or `/**/*` are considered.
pub(crate) fn folder_glob_set(globs: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for text in globs {
        let whole = whole_glob(text);
        let folder = whole.strip_suffix("/**/*").or_else(|| whole.strip_suffix("/**"));
        // `**/` alone would match any folder, and `**//` only matches files after two slashes.
        let folder = folder.filter(|folder| !folder.ends_with('/'));
        // Without an escaped slash, the rest is not a valid glob.
        if let Some(glob) = folder.and_then(|folder| build_glob(folder).ok()) {
            set.add(glob);
        }
    }
    set.build().map_err(|error| Error::usage(format!("the globs {globs:?} cannot be combined: {error}")))
}

fn glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    build_glob(&whole_glob(text))
}

/// The equivalent glob for a whole key.
fn whole_glob(text: &str) -> String {
    let below = if text.ends_with('/') { "**" } else { "" };
    match text.strip_prefix('/') {
        Some(anchored) => format!("{anchored}{below}"),
        None if text.contains('/') => format!("{text}{below}"),
        None => format!("**/{text}"),
    }
}

fn build_glob(whole: &str) -> Result<Glob, String> {
    GlobBuilder::new(whole)
        .case_insensitive(true)
        .literal_separator(true)
        .build()
        .map_err(|error| format!("is not a glob: {}", error.kind()))
}

impl Input {
    /// The partition columns of an object as (name, value). The key is relative to `uri`.
    pub fn partition_of(&self, key: &str) -> Vec<(String, String)> {
        self.partition.as_ref().map(|partition| partition.columns(key)).unwrap_or_default()
    }

    /// A message that says why an object with this key cannot be indexed, if its partition values cannot be folder names.
    pub fn partition_problem(&self, key: &str) -> Option<String> {
        self.partition.as_ref()?.problem(key)
    }

    fn read(section: &Section) -> Result<Self> {
        let inventory = section.get("inventory", "the address of a `manifest.json`", |entry| {
            section.path(entry).filter(|uri| uri.ends_with(".json"))
        })?;
        let bucket = inventory.as_deref().and_then(inventoried_bucket).filter(|_| !section.has("uri"));
        let checked = |text: &str| glob(text).map(|_| ()).map_err(|problem| format!("has {text:?}, which {problem}"));
        let include = section.strings("include", checked)?.unwrap_or_else(|| vec![DEFAULT_INCLUDE.to_owned()]);
        if include.is_empty() {
            return Err(section
                .complain("include", "is empty, so no video would match")
                .with_hint("remove it to match the common video extensions"));
        }
        let pattern = section.get("partition", "a regular expression as a string", Entry::text)?;
        let partition = pattern.map(|text| Partition::new(&text)).transpose();
        let deleted_max = section.get("deleted_max", "a share from 0 to 1", share)?;
        Ok(Self {
            uri: bucket.map_or_else(|| uri(section, "s3://archive/2026/"), Ok)?,
            inventory,
            include,
            exclude: section.strings("exclude", checked)?.unwrap_or_default(),
            hidden: section.get("hidden", "true or false", Entry::boolean)?.unwrap_or(false),
            versions: section.get("versions", "true or false", Entry::boolean)?.unwrap_or(false),
            partition: partition.map_err(|problem| section.complain("partition", problem))?,
            deleted_max: deleted_max.unwrap_or_else(default_deleted_max),
        })
    }
}

impl Input {
    /// If the input is a file, its folder becomes the input, of which only the file is included.
    fn take_file(&mut self) {
        let path = Path::new(&self.uri);
        let parts = path.parent().and_then(Path::to_str).zip(path.file_name().and_then(OsStr::to_str));
        let Some((folder, name)) = parts.filter(|_| path.is_file()) else { return };
        self.hidden |= name.starts_with('.');
        self.include = vec![format!("/{}", globset::escape(name))];
        self.uri = if folder.is_empty() { ".".to_owned() } else { folder.to_owned() };
    }
}

/// The bucket that an inventory report describes, from the path that S3 writes it to:
/// `.../BUCKET/CONFIGURATION/TIME/manifest.json`.
fn inventoried_bucket(inventory: &str) -> Option<String> {
    let bucket = inventory.rsplit('/').nth(3).filter(|part| !part.is_empty() && !part.ends_with(':'))?;
    Some(format!("s3://{bucket}/"))
}

impl Actions {
    fn read(section: &Section) -> Result<Self> {
        let seconds = |key| section.get(key, "a number of seconds above 0", above_zero);
        let scores = section.get("scores", r#""top-k" or "full""#, |entry| match entry.text()?.as_str() {
            "top-k" => Some(Scores::TopK),
            "full" => Some(Scores::Full),
            _ => None,
        })?;
        let view = section.get("view", r#""center", "three-crops" or "whole""#, |entry| {
            let text = entry.text()?;
            [ActionView::Center, ActionView::ThreeCrops, ActionView::Whole]
                .into_iter()
                .find(|view| view.as_str() == text)
        })?;
        Ok(Self {
            model: model(section, "models/slowfast-r50-8x8.onnx")?,
            clip_seconds: seconds("clip_seconds")?,
            stride_seconds: seconds("stride_seconds")?,
            scores: scores.unwrap_or(Scores::TopK),
            top_k: section
                .get("top_k", "a whole number of at least 1", |entry| {
                    usize::try_from(entry.count()?).ok().filter(|count| *count >= 1)
                })?
                .unwrap_or(10),
            embedding: section.get("embedding", "true or false", Entry::boolean)?.unwrap_or(false),
            view: view.unwrap_or_default(),
        })
    }
}

impl Persons {
    fn read(section: &Section) -> Result<Self> {
        let confidence = section.get("confidence", "a number of at least 0 and below 1", |entry| {
            share(entry).map(|number| number as f32).filter(|number| *number < 1.0)
        })?;
        let iou = section.get("iou", "a number from 0 to 1", |entry| share(entry).map(|number| number as f32))?;
        let classes = section.strings("classes", |name| match name.trim().is_empty() {
            true => Err("contains an empty name".to_owned()),
            false => Ok(()),
        })?;
        if classes.as_ref().is_some_and(Vec::is_empty) {
            return Err(section
                .complain("classes", "is empty, so no box would match")
                .with_hint(r#"remove it for ["person"], or remove [persons] to run without the model"#));
        }
        let track = section.get("track", "true or false", Entry::boolean)?.unwrap_or(false);
        let frames_per_second = section.get("frames_per_second", "a number above 0", above_zero)?;
        Ok(Self {
            model: model(section, "models/yolov5s.onnx")?,
            frames_per_second: frames_per_second.unwrap_or(if track { TRACKED_FRAMES_PER_SECOND } else { 1.0 }),
            confidence: confidence.unwrap_or(0.25),
            iou: iou.unwrap_or(0.45),
            classes: classes.unwrap_or_else(|| vec!["person".to_owned()]),
            track,
        })
    }
}

impl Run {
    fn read(section: Option<&Section>) -> Result<Self> {
        let mut run = Self {
            device: DeviceChoice::Auto,
            precision: Precision::Auto,
            shard_bytes: 4 << 30,
            video_timeout_seconds: 3600,
            max_failed: MaxFailed::default(),
            save_seconds: default_save_seconds(),
            sandbox: Sandbox::Auto,
        };
        let Some(section) = section else { return Ok(run) };
        if let Some(device) = section.get("device", "a string", Entry::text)? {
            run.device = device.parse().map_err(|error: Error| {
                let complaint = section.complain("device", format!("is {device:?}, which is not a device"));
                complaint.with_hint(error.hint().unwrap_or_default())
            })?;
        }
        let precision = section.get("precision", "auto, fp32, bf16 or fp16", |entry| {
            let name = entry.text()?;
            Precision::ALL.into_iter().find(|precision| precision.as_str() == name)
        })?;
        run.precision = precision.unwrap_or(run.precision);
        run.shard_bytes = section.get("shard_bytes", SIZE, size)?.unwrap_or(run.shard_bytes);
        let wanted_seconds = "a whole number of seconds of at least 1";
        let seconds = |entry: &Entry| entry.count().filter(|seconds| *seconds >= 1);
        let timeout = section.get("video_timeout_seconds", wanted_seconds, seconds)?;
        run.video_timeout_seconds = timeout.unwrap_or(run.video_timeout_seconds);
        let wanted = "a number of videos, or a share such as \"1%\", also by kind: \"1%, corrupt=5%\"";
        let max_failed = section.get("max_failed", wanted, |entry| {
            entry.count().map(MaxFailed::videos).or_else(|| entry.text()?.parse().ok())
        })?;
        run.max_failed = max_failed.unwrap_or_default();
        let save_seconds = section.get("save_seconds", wanted_seconds, seconds)?;
        run.save_seconds = save_seconds.unwrap_or(run.save_seconds);
        let sandbox = section.get("sandbox", r#""auto" or "require""#, |entry| match entry.text()?.as_str() {
            "auto" => Some(Sandbox::Auto),
            "require" => Some(Sandbox::Require),
            _ => None,
        })?;
        run.sandbox = sandbox.unwrap_or_default();
        Ok(run)
    }
}

impl Report {
    fn read(section: &Section) -> Result<Self> {
        Ok(Self { thumbnails: section.get("thumbnails", "true or false", Entry::boolean)?.unwrap_or(false) })
    }
}

fn store_settings(document: &Document, name: &str) -> Result<StoreConfig> {
    let Some(section) = document.section(name) else { return Ok(StoreConfig::default()) };
    let flag = |key| section.get(key, "true or false", Entry::boolean);
    let at_least_one = |entry: &Entry| entry.count().filter(|count| *count >= 1);
    let encryption = section.get("encryption", r#""AES256" or "aws:kms""#, |entry| {
        let text = entry.text()?;
        [Encryption::Aes256, Encryption::Kms].into_iter().find(|encryption| encryption.as_str() == text)
    })?;
    Ok(StoreConfig {
        endpoint: section.get("endpoint", "a URL that begins with http:// or https://", |entry| {
            entry.text().filter(|url| url.starts_with("http://") || url.starts_with("https://"))
        })?,
        region: section.get("region", "a region's name", Entry::filled_text)?,
        path_style: flag("path_style")?,
        retry_seconds: section.get("retry_seconds", "a whole number of seconds", Entry::count)?,
        profile: section.get("profile", "the name of a profile", Entry::filled_text)?,
        anonymous: flag("anonymous")?,
        requester_pays: flag("requester_pays")?,
        encryption,
        kms_key: section.get("kms_key", "the id or alias of a key", Entry::filled_text)?,
        requests_per_second: section.get("requests_per_second", "a whole number of at least 1", at_least_one)?,
        bytes_per_second: section.get("bytes_per_second", SIZE, size)?,
        // A key of [input].
        versions: false,
    })
}

/// What [`size`] reads.
const SIZE: &str = "a size above 0 such as \"4 GiB\", or a number of bytes";

fn size(entry: &Entry) -> Option<u64> {
    let bytes = entry.count().or_else(|| Some(entry.text()?.parse::<bytesize::ByteSize>().ok()?.as_u64()))?;
    Some(bytes).filter(|bytes| *bytes > 0)
}

fn share(entry: &Entry) -> Option<f64> {
    entry.number().filter(|number| (0.0..=1.0).contains(number))
}

fn above_zero(entry: &Entry) -> Option<f64> {
    entry.number().filter(|number| *number > 0.0)
}

fn model(section: &Section, example: &str) -> Result<PathBuf> {
    let example = format!("model = \"{example}\"");
    section.required("model", "the path of an ONNX file", &example, |entry| section.path(entry).map(PathBuf::from))
}

fn uri(section: &Section, example: &str) -> Result<String> {
    let example = format!("uri = \"{example}\"");
    section.required("uri", "s3://bucket/prefix/ or a directory", &example, |entry| {
        let uri = section.path(entry)?;
        match uri.split_once("://") {
            Some(("s3", rest)) if !rest.is_empty() && !rest.starts_with('/') => Some(uri),
            Some(_) => None,
            None => Some(uri),
        }
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::Device;
    use proptest::prelude::*;

    const SMALLEST: &str = "\
[input]
uri = \"s3://archive/2026/\"

[output]
uri = \"index\"

[persons]
model = \"models/yolov5s.onnx\"
";

    const WHOLE: &str = r#"
        [input]
        uri = "s3://archive/2026/"
        include = ["**/*.{mp4,mkv}"]
        exclude = ["raw/"]
        partition = '(?<camera>cam-[^/]+)/'
        deleted_max = 0.5
        [output]
        uri = "s3://index/"
        [actions]
        model = "models/slowfast-r50-8x8.onnx"
        clip_seconds = 2.1333333333333333
        stride_seconds = 1
        scores = "full"
        top_k = 5
        embedding = false
        [persons]
        model = "models/yolov5s.onnx"
        frames_per_second = 2
        confidence = 0.3
        iou = 0.5
        classes = ["person", "dog"]
        [run]
        device = "cuda:0"
        precision = "bf16"
        shard_bytes = "512 MiB"
        video_timeout_seconds = 60
        max_failed = "1%"
        save_seconds = 30
        sandbox = "require"
        [report]
        thumbnails = true
        [store]
        endpoint = "http://localhost:9000"
        region = "eu-central-1"
        path_style = true
        retry_seconds = 600
        profile = "archive"
        anonymous = false
        requester_pays = true
        encryption = "aws:kms"
        kms_key = "alias/index"
        requests_per_second = 200
        bytes_per_second = "100 MiB"
    "#;

    fn parse(text: &str, overrides: &[&str]) -> Result<Job> {
        let overrides: Vec<_> = overrides.iter().map(|text| (*text).to_owned()).collect();
        Job::parse("jobs/demo.toml", text, &overrides)
    }

    /// The error and hint of the smallest job with these lines added to its last section, `[persons]`.
    fn refused(lines: &str) -> String {
        refused_text(&format!("{SMALLEST}{lines}\n"), &[])
    }

    fn refused_text(text: &str, overrides: &[&str]) -> String {
        let error = parse(text, overrides).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        format!("{error}\nhint: {}", error.hint().unwrap_or("none"))
    }

    #[test]
    fn the_stores_of_input_and_output_differ_from_the_common_one_by_their_own_keys() {
        let text = r#"
            [input]
            uri = "s3://a/"
            [input.store]
            anonymous = true
            region = "eu-west-1"
            [output]
            uri = "s3://b/"
            store = { endpoint = "http://localhost:9000" }
            [store]
            region = "eu-central-1"
            retry_seconds = 7
            [persons]
            model = "m.onnx"
        "#;
        let job = parse(text, &["output.store.region=us-west-2"]).unwrap();
        let (input, output) = (job.input_store(), job.output_store());
        assert_eq!(
            (input.anonymous, input.region.as_deref(), input.retry_seconds),
            (Some(true), Some("eu-west-1"), Some(7))
        );
        assert_eq!(input.endpoint, None);
        assert_eq!(
            (output.anonymous, output.region.as_deref(), output.retry_seconds),
            (None, Some("us-west-2"), Some(7))
        );
        assert_eq!(output.endpoint.as_deref(), Some("http://localhost:9000"));
        let wrong = refused_text(&text.replace("anonymous", "anonymus"), &[]);
        assert!(
            wrong.contains("unknown key `anonymus` in [input.store]") && wrong.contains("did you mean `anonymous`"),
            "{wrong}"
        );
    }

    #[test]
    fn the_smallest_job_gets_every_default() {
        let job = parse(SMALLEST, &[]).unwrap();
        assert_eq!(job.input.include, [DEFAULT_INCLUDE]);
        assert_eq!(job.input.deleted_max, 0.2);
        assert!(job.input.exclude.is_empty() && job.input.partition.is_none() && job.actions.is_none());
        let persons = job.persons.unwrap();
        assert_eq!((persons.frames_per_second, persons.confidence, persons.iou), (1.0, 0.25, 0.45));
        assert_eq!(persons.classes, ["person"]);
        assert!(!persons.track);
        let tracked = |overrides: &[&str]| parse(SMALLEST, overrides).unwrap().persons.unwrap().frames_per_second;
        assert_eq!(tracked(&["persons.track=true"]), 5.0);
        assert_eq!(tracked(&["persons.track=true", "persons.frames_per_second=2"]), 2.0);
        let run = Run {
            device: DeviceChoice::Auto,
            precision: Precision::Auto,
            shard_bytes: 4 * 1024 * 1024 * 1024,
            video_timeout_seconds: 3600,
            max_failed: MaxFailed::default(),
            save_seconds: 120,
            sandbox: Sandbox::Auto,
        };
        assert_eq!(job.run, run);
        assert_eq!(job.store, StoreConfig::default());
        let actions = parse(SMALLEST, &["actions.model=a.onnx"]).unwrap().actions.unwrap();
        assert_eq!((actions.scores, actions.top_k, actions.clip_seconds), (Scores::TopK, 10, None));
    }

    #[test]
    fn a_job_with_every_key_is_read_as_written_and_survives_json() {
        let job = parse(WHOLE, &[]).unwrap();
        assert_eq!(job.actions.as_ref().unwrap().stride_seconds, Some(1.0));
        assert_eq!(job.run.shard_bytes, 512 << 20);
        let again: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
        assert_eq!(again, job);
        assert_eq!(again.fingerprint(&[]), job.fingerprint(&[]));
    }

    #[test]
    fn errors_about_an_unknown_key_name_the_line_and_the_nearest_key() {
        assert_eq!(
            refused("confidense = 0.3"),
            "jobs/demo.toml:9: unknown key `confidense` in [persons]\n  9 | confidense = 0.3\n\
             hint: did you mean `confidence`? (keys: classes, confidence, frames_per_second, iou, model, track)"
        );
        assert!(
            refused("colour = 1").ends_with("hint: keys: classes, confidence, frames_per_second, iou, model, track")
        );
        assert!(refused("shard_bytes = 1").contains("hint: `shard_bytes` belongs in [run]"));
    }

    #[test]
    fn errors_name_unknown_sections_and_the_section_of_a_misplaced_key() {
        let text = refused("[person]\nmodel = 'x'");
        assert!(text.contains("jobs/demo.toml:9: unknown section [person]\n  9 | [person]"), "{text}");
        assert!(text.contains("did you mean `persons`?"), "{text}");
        let text = refused_text(&format!("model = 'x'\n{SMALLEST}"), &[]);
        assert!(text.contains("demo.toml:1: the key `model` is outside of every section"), "{text}");
        assert!(text.contains("move it to [actions] or [persons]"), "{text}");
        assert!(refused("[[actions]]\nmodel = 'x'").contains("write it once, as [actions]"));
    }

    #[test]
    fn wrong_types_and_ranges_say_what_the_value_must_be_and_quote_the_line() {
        for (line, problem) in [
            (
                "confidence = 'high'",
                "`confidence` in [persons] must be a number of at least 0 and below 1, not the string \"high\"",
            ),
            ("confidence = 1.0", "below 1, not 1.0"),
            ("confidence = -0.1", "not -0.1"),
            ("iou = 2", "must be a number from 0 to 1, not 2"),
            ("frames_per_second = 0", "must be a number above 0, not 0"),
            ("frames_per_second = inf", "must be a number above 0, not inf"),
            ("classes = ['person', 3]", "must contain only strings, not 3"),
            ("classes = 'person'", "must be a list of strings, not the string"),
            ("classes = []", "is empty, so no box would match"),
        ] {
            let text = refused(line);
            assert!(text.starts_with("jobs/demo.toml:9: `"), "{text}");
            assert!(text.contains(problem) && text.contains(&format!("9 | {line}")), "{text}");
        }
        for (line, problem) in [
            ("run.shard_bytes = 0", "a size above 0 such as \"4 GiB\""),
            ("run.shard_bytes = '4 parsecs'", "not the string \"4 parsecs\""),
            ("run.shard_bytes = -1", "not -1"),
            ("run.video_timeout_seconds = 1.5", "a whole number of seconds"),
            ("run.max_failed = '200%'", "a share such as \"1%\""),
            ("run.precision = 'fp64'", "auto, fp32, bf16 or fp16"),
            ("run.device = 'cude:0'", "did you mean `cuda`?"),
            ("run.device = 'cpu:1'", "which is not a device"),
            ("store.endpoint = 'localhost:9000'", "begins with http://"),
            ("store.path_style = 'yes'", "must be true or false"),
            ("actions.top_k = 0", "at least 1"),
            ("actions.clip_seconds = 0.0", "a number of seconds above 0"),
            ("actions.scores = 'all'", r#""top-k" or "full""#),
        ] {
            let text = refused_text(&format!("{line}\nactions.model = 'a.onnx'\n{SMALLEST}"), &[]);
            assert!(text.starts_with("jobs/demo.toml:1: ") && text.contains(problem), "{text}");
        }
    }

    #[test]
    fn errors_about_missing_sections_and_keys_show_an_example() {
        let text = refused_text("[output]\nuri = 'x'\n", &[]);
        assert_eq!(
            text,
            "jobs/demo.toml: the section [input] is missing\n\
             hint: add it, for example:\n    [input]\n    uri = \"s3://archive/2026/\""
        );
        let text = refused_text(&SMALLEST.replace("model = ", "#"), &[]);
        assert!(
            text.starts_with("jobs/demo.toml:7: the key `model` is missing in [persons]\n  7 | [persons]"),
            "{text}"
        );
        assert!(text.contains("model = \"models/yolov5s.onnx\""), "{text}");
        let text = refused_text("[input]\nuri = 'a'\n[output]\nuri = 'b'\n", &[]);
        assert!(text.contains("neither [actions] nor [persons]"), "{text}");
    }

    #[test]
    fn syntax_errors_have_line_and_column() {
        let text = refused("iou = = 1");
        assert!(text.starts_with("jobs/demo.toml:9:7: "), "{text}");
        assert!(text.contains("\n  9 | iou = = 1"), "{text}");
        let text = refused("[persons]");
        assert!(text.starts_with("jobs/demo.toml:9:2: duplicate key"), "{text}");
    }

    #[test]
    fn overrides_take_toml_values_and_bare_strings() {
        let set = ["persons.confidence=0.5", "run.device=cpu", "input.include=*.mov", "persons.classes=[\"dog\"]"];
        let job = parse(SMALLEST, &set).unwrap();
        assert_eq!(job.persons.as_ref().unwrap().confidence, 0.5);
        assert_eq!(job.persons.as_ref().unwrap().classes, ["dog"]);
        assert_eq!((job.run.device, job.input.include), (DeviceChoice::Named(Device::Cpu), vec!["*.mov".to_owned()]));
        assert_eq!(parse(SMALLEST, &["output.uri=2026"]).unwrap().output.uri, "2026");
        assert_eq!(parse(SMALLEST, &["run.shard_bytes=1 GB"]).unwrap().run.shard_bytes, 1_000_000_000);
        assert_eq!(parse(SMALLEST, &["persons.iou=0.1", "persons.iou=0.2"]).unwrap().persons.unwrap().iou, 0.2);
    }

    #[test]
    fn errors_quote_a_wrong_override() {
        let text = refused_text(SMALLEST, &["persons.confidense=0.5"]);
        assert!(text.starts_with("--set persons.confidense=0.5: unknown key `confidense` in [persons]"), "{text}");
        assert!(text.contains("did you mean `confidence`?"), "{text}");
        let text = refused_text(SMALLEST, &["persons.confidence=5"]);
        assert!(text.starts_with("--set persons.confidence=5: `confidence` in [persons] must be"), "{text}");
        assert!(refused_text(SMALLEST, &["confidence=5"]).contains("not of the form section.key=value"));
        assert!(refused_text(SMALLEST, &["personas.iou=0.5"]).contains("did you mean `persons`?"));
    }

    #[test]
    fn the_path_of_an_inventory_names_its_bucket_if_s3_chose_the_path() {
        let with = |inventory: &str, overrides: &[&str]| {
            let text = SMALLEST.replace("uri = \"s3://archive/2026/\"", &format!("inventory = {inventory:?}"));
            parse(&text, overrides).map(|job| job.input.uri)
        };
        let uri = "s3://reports/a/archive/daily/2026-11-02T01-00Z/manifest.json";
        assert_eq!(with(uri, &[]).unwrap(), "s3://archive/");
        assert_eq!(with(uri, &["input.uri=s3://archive/2026/"]).unwrap(), "s3://archive/2026/");
        for elsewhere in ["s3://i/manifest.json", "s3://i/j/manifest.json"] {
            assert!(with(elsewhere, &[]).unwrap_err().to_string().contains("`uri` is missing"));
        }
        assert!(
            with("s3://reports/", &[]).unwrap_err().to_string().contains("must be the address of a `manifest.json`")
        );
    }

    #[test]
    fn errors_about_globs_patterns_and_uris_quote_the_line() {
        let input = |lines: &str| refused_text(&SMALLEST.replace("\n\n[output]", &format!("\n{lines}\n[output]")), &[]);
        let text = input("include = [\n  '*.mp4',\n  '[a',\n]");
        assert!(text.starts_with("jobs/demo.toml:5: `include` in [input] has \"[a\", which is not a glob"), "{text}");
        assert!(input("deleted_max = '20%'").contains("must be a share from 0 to 1, not the string \"20%\""));
        assert!(input("deleted_max = 20").contains("must be a share from 0 to 1, not 20"));
        assert!(input("include = []").contains("no video would match"));
        assert!(input("partition = '('").contains("is not a regular expression"));
        assert!(input("partition = 'cam-(.*)'").contains("has no named group"));
        assert!(input("partition = '(?<Model>x)'").contains("which is a column of the tables"));
        assert!(input("partition = '(?<a>x)(?<A>x)'").contains("which are the same column"));
        for uri in ["gs://bucket/", "s3://", "s3:///key", "", "file:///tmp"] {
            let text = refused_text(&SMALLEST.replace("index", uri), &[]);
            assert!(text.contains("must be s3://bucket/prefix/ or a directory"), "{text}");
        }
    }

    #[test]
    fn a_missing_job_file_is_a_usage_error_that_names_its_path() {
        let error = Job::load(Path::new("jobs/none.toml"), &[]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read the job file jobs/none.toml: "), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_fingerprint_changes_with_settings_that_change_rows_and_no_others() {
        let of =
            |overrides: &[&str]| parse(WHOLE, overrides).unwrap().fingerprint(&[("persons", "AB"), ("actions", "cd")]);
        let base = of(&[]);
        assert_eq!(base.len(), 16);
        for same in [
            "run.device=cpu",
            "run.shard_bytes=1",
            "run.video_timeout_seconds=1",
            "run.max_failed=7",
            "run.save_seconds=1",
            "run.sandbox=auto",
            "report.thumbnails=false",
            "input.uri=elsewhere",
            "input.deleted_max=0.1",
            "output.uri=elsewhere",
            "store.region=x",
            "persons.model=renamed.onnx",
            "persons.classes=[\"dog\", \"person\"]",
            "persons.track=false",
            "actions.stride_seconds=1.0",
        ] {
            assert_eq!(of(&[same]), base, "{same}");
        }
        for other in [
            "run.precision=fp32",
            "actions.clip_seconds=2",
            "actions.stride_seconds=2",
            "actions.scores=top-k",
            "actions.top_k=6",
            "persons.frames_per_second=1",
            "persons.confidence=0.31",
            "persons.iou=0.4",
            "persons.classes=[\"dog\"]",
            "persons.track=true",
        ] {
            assert_ne!(of(&[other]), base, "{other}");
        }
        let job = parse(WHOLE, &[]).unwrap();
        assert_eq!(job.fingerprint(&[("actions", "cd"), ("persons", "ab")]), base);
        assert_ne!(job.fingerprint(&[("actions", "ab"), ("persons", "cd")]), base);
    }

    #[test]
    fn the_fingerprint_of_a_known_job_does_not_change() {
        // With another value, every archive is indexed again: increase FINGERPRINT_VERSION and say so in the changelog.
        assert_eq!(parse(WHOLE, &[]).unwrap().fingerprint(&[("persons", "ab")]), "236d9ce5ff978012");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}", set in "\\PC{0,40}") {
            let _ = Job::parse("x", &text, &[]);
            let _ = Job::parse("x", SMALLEST, &[set.clone(), format!("input.{set}"), format!("persons.classes={set}")]);
        }
    }
}
