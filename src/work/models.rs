//! The models of a job. Their files are read and checked before anything is listed. They are opened when there is a shard
//! to process.

mod bare;
mod remote;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use half::f16;
use sha2::{Digest, Sha256};

pub use bare::BareModel;

use super::batch::{Batcher, Lanes, Opened};
use crate::decode::{Clip, ClipSpec, Image, ImageSpec, View};
use crate::device::{Device, Precision};
use crate::error::{Error, Result};
use crate::hash::hex;
use crate::infer::boxes::{Detection, Thresholds};
use crate::infer::detector::{Detector, ImageBatch};
use crate::infer::person_actions::{PersonActions, PersonClip};
use crate::infer::session::{Runtime, Timed};
use crate::infer::slowfast::{ClipBatch, ClipOptions, ClipScores, ClipView, SlowFast, embedding_output};
use crate::job::{self, ActionView, Job};
use crate::nearest::nearest;
use crate::run::{ModelRef, PlanModels};
use crate::telemetry::{self, UsageCounter};
use crate::track::{Tracker, WEAK_MIN};
use crate::zoo::deploy::Deployment;
use crate::zoo::descriptor::{self, Descriptor, Origin};
use crate::zoo::inspect::ModelInfo;

/// Number of classes that an error lists.
const CLASSES_SHOWN: usize = 100;

/// The model files of a job.
#[derive(Debug, Clone)]
pub struct JobModels {
    /// The model of `[actions]`.
    pub actions: Option<ActionModel>,
    /// The model of `[persons]`.
    pub persons: Option<PersonModel>,
}

/// The action model's file, and the clips that it takes.
#[derive(Debug, Clone)]
pub struct ActionModel {
    info: ModelInfo,
    descriptor: descriptor::SlowFastDescriptor,
    /// The clips that the decoder makes.
    pub clips: ClipSpec,
    /// The job's `[actions]`.
    pub settings: job::Actions,
}

/// The person model's file, and the images that it takes.
#[derive(Debug, Clone)]
pub struct PersonModel {
    info: ModelInfo,
    descriptor: descriptor::DetectorDescriptor,
    /// The images that the decoder makes.
    pub images: ImageSpec,
    thresholds: Thresholds,
    person_classes: Vec<usize>,
    track: bool,
    random: bool,
}

impl JobModels {
    /// Reads the model files. Those in buckets are fetched first.
    ///
    /// # Errors
    /// If a bucket cannot be read. A usage error if a file is missing, is not ONNX, or does not have the inputs and outputs that its section needs, and
    /// if the action model scores persons but the job has no detector.
    pub async fn read(job: &Job) -> Result<Self> {
        let mut actions = None;
        if let Some(settings) = &job.actions {
            let model = remote::local(&settings.model, &job.store).await?;
            actions = Some(ActionModel::read(&job::Actions { model, ..settings.clone() })?);
        }
        if let Some(actions) = actions.as_ref().filter(|actions| actions.descriptor.persons && job.persons.is_none()) {
            let model = actions.info.path.display();
            return Err(Error::usage(format!("{model} scores the actions of persons, but the job has no [persons]"))
                .with_hint("add the detector that finds them, for example:\n    [persons]\n    model = \"models/yolov5s.onnx\""));
        }
        let mut persons = None;
        if let Some(settings) = &job.persons {
            let model = remote::local(&settings.model, &job.store).await?;
            persons = Some(PersonModel::read(&job::Persons { model, ..settings.clone() })?);
        }
        Ok(Self { actions, persons })
    }

    /// The files with random weights.
    pub fn random(&self) -> impl Iterator<Item = &Path> {
        let actions = self.actions.iter().filter(|model| model.descriptor.weights == Origin::Random);
        let persons = self.persons.iter().filter(|model| model.random);
        actions.map(|model| &model.info).chain(persons.map(|model| &model.info)).map(|info| info.path.as_path())
    }

    /// Warns about each file with random weights, because its rows are meaningless.
    pub fn warn_of_random(&self) {
        for model in self.random() {
            tracing::warn!(model = %model.display(), "{}", descriptor::RANDOM);
        }
    }

    /// The models as recorded in a run. The origin of the weights does not change any row, so it is not part of the hash.
    pub fn refs(&self) -> PlanModels {
        let reference = |info: &ModelInfo, descriptor: &Descriptor| {
            let mut hash = Sha256::new();
            hash.update(&info.sha256);
            hash.update(descriptor.to_toml());
            let random = self.random().any(|path| path == info.path);
            ModelRef { id: info.model_id(), sha256: hex(&hash.finalize()), random }
        };
        PlanModels {
            actions: self.actions.as_ref().map(|m| {
                let described = descriptor::SlowFastDescriptor { weights: Origin::Trained, ..m.descriptor.clone() };
                reference(&m.info, &Descriptor::SlowFast(described))
            }),
            persons: self.persons.as_ref().map(|m| {
                // The names of a built-in set are included, so that a change of the set changes the fingerprint.
                let names = m.descriptor.labels.names().into_iter().map(str::to_owned).collect();
                let labels = descriptor::Labels::List(names);
                let described =
                    descriptor::DetectorDescriptor { labels, weights: Origin::Trained, ..m.descriptor.clone() };
                reference(&m.info, &Descriptor::Detector(described))
            }),
        }
    }

    /// Starts to open both models, each on a thread of its own. They take inputs at once.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn open(&self, runtime: &Arc<Runtime>) -> Result<(OpenModels, Opening)> {
        let started = Instant::now();
        let is_alone = self.actions.is_none() || self.persons.is_none();
        let lanes = match runtime.device().is_cpu() {
            true => runtime.streams(),
            // Two models already fill each other's gaps on a GPU.
            false => 1 + usize::from(is_alone),
        };
        let (actions, actions_opened) =
            self.actions.as_ref().map(|model| model.open(runtime, lanes)).transpose()?.unzip();
        let (persons, persons_opened) =
            self.persons.as_ref().map(|model| model.open(runtime, lanes)).transpose()?.unzip();
        let opened = actions_opened.into_iter().chain(persons_opened).collect();
        let models = OpenModels { device: runtime.device(), precision: runtime.precision(), actions, persons };
        Ok((models, Opening { started, opened }))
    }
}

/// Models that are being opened.
#[derive(Debug)]
pub struct Opening {
    started: Instant,
    opened: Vec<Opened>,
}

impl Opening {
    /// Waits until all of `models` are open or have failed. Returns the seconds that it took.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub async fn wait(self, models: &OpenModels) -> Result<f64> {
        let mut last = self.started;
        // All of them: a process must not end while a library is opening a model.
        for opened in futures::future::join_all(self.opened).await {
            last = last.max(opened.unwrap_or_else(|_| Err(Error::failed("opening a model panicked")))?);
        }
        let took = last - self.started;
        let (device, precision, seconds) = (models.device, models.precision.as_str(), telemetry::rounded(took));
        tracing::info!(%device, precision, seconds, "models opened");
        Ok(took.as_secs_f64())
    }
}

impl ActionModel {
    /// What the file says of itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::SlowFast(self.descriptor.clone())
    }

    /// Side of the squares that a model that scores clips takes.
    pub fn crop(&self) -> usize {
        self.descriptor.crop
    }

    /// Opens a version of a model that scores clips, for one clip at a time.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_version(&self, runtime: &Runtime, version: Deployment) -> Result<SlowFast> {
        let options = ClipOptions { batch: Some(1), ..ClipOptions::default() };
        SlowFast::open_version(runtime, version, &self.info, &self.descriptor, options)
    }

    /// Opens a version of a model that scores persons.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_persons_version(&self, runtime: &Runtime, version: Deployment) -> Result<PersonActions> {
        PersonActions::open_version(runtime, version, &self.info, &self.descriptor)
    }

    /// Whether the model scores persons instead of clips.
    pub fn scores_persons(&self) -> bool {
        self.descriptor.persons
    }

    /// Reads the model file.
    ///
    /// # Errors
    /// A usage error if it is not a SlowFast, or does not suit the settings.
    pub fn read(settings: &job::Actions) -> Result<Self> {
        let info = ModelInfo::read(&settings.model)?;
        let Descriptor::SlowFast(descriptor) = Descriptor::for_model(&info)? else {
            return Err(wrong_kind(&info, "[actions]", "a SlowFast"));
        };
        if descriptor.persons && settings.view != ActionView::Center {
            return Err(Error::usage(format!("{}: `view` in [actions] has no effect", info.path.display()))
                .with_hint("remove it: the model scores persons, and sees whole frames"));
        }
        let view = match settings.view {
            _ if descriptor.persons => View::Whole,
            ActionView::Center => View::Centre(descriptor.crop),
            // Three squares side by side are as long. They see all of a longer frame if it has bars.
            ActionView::ThreeCrops => View::Within(3),
            ActionView::Whole => View::Within(2),
        };
        let clip_seconds = settings.clip_seconds.unwrap_or_else(|| descriptor.clip_seconds());
        let clips = ClipSpec {
            frames: descriptor.frames,
            side: descriptor.side,
            view,
            mean: descriptor.mean,
            std: descriptor.std,
            clip_seconds,
            stride_seconds: settings.stride_seconds.unwrap_or(clip_seconds),
        };
        if settings.embedding {
            embedding_output(&info)?;
        }
        Ok(Self { info, descriptor, clips, settings: settings.clone() })
    }

    /// `lanes` is the number of batches that run at the same time, each in a session of its own.
    fn open(&self, runtime: &Arc<Runtime>, lanes: usize) -> Result<(OpenActions, Opened)> {
        let (model, runtime) = (self.clone(), runtime.clone());
        let (batcher, opened) = match self.descriptor.persons {
            true => Batcher::start("actions", move || model.score_persons(&runtime, lanes)),
            false => Batcher::start("actions", move || model.score_clips(&runtime, lanes)),
        }?;
        let labels = self.descriptor.labels.names().into_iter().map(Arc::from).collect();
        let open = OpenActions { batcher, labels, clips: self.clips.clone(), settings: self.settings.clone() };
        Ok((open, opened))
    }

    fn score_clips(self, runtime: &Runtime, lanes: usize) -> Result<Lanes<ActionInput, Vec<ClipBatch>, ActionScores>> {
        let opened = open_lanes(lanes, || self.open_clips(runtime, None))?;
        let (tensors, rows, views) = (opened[0].tensors(), opened[0].batch(), self.views());
        let model = self;
        let fill = move |inputs: Vec<ActionInput>| {
            let clips = inputs.iter().map(|ActionInput { clip, .. }| (clip.slot.halves(), (clip.width, clip.height)));
            let views: Vec<ClipView<'_>> = clips.flat_map(|(clip, size)| model.views_of(clip, size)).collect();
            // Whole frames of different sizes do not fit into one tensor.
            let fits =
                |a: &ClipView<'_>, b: &ClipView<'_>| model.settings.view != ActionView::Whole || a.size == b.size;
            let batches = views.chunk_by(fits).flat_map(|views| views.chunks(rows));
            batches.map(|views| tensors.batch(views)).collect::<Result<Vec<ClipBatch>>>()
        };
        let run = |mut model: SlowFast| {
            move |batches: Vec<ClipBatch>| {
                let mut all = Timed { output: Vec::new(), seconds: 0.0 };
                for batch in batches {
                    let scored = model.run(&batch)?;
                    all.output.extend(scored.output);
                    all.seconds += scored.seconds;
                }
                Ok(all.map(|scored| scored.chunks(views).map(averaged).collect()))
            }
        };
        // Several views of each fill several batches.
        Ok(Lanes::new(rows, fill, opened.into_iter().map(run)))
    }

    fn open_clips(&self, runtime: &Runtime, batch: Option<usize>) -> Result<SlowFast> {
        let whole = self.settings.view == ActionView::Whole;
        let options = ClipOptions { embedding: self.settings.embedding, whole, batch };
        SlowFast::open(runtime, &self.info, &self.descriptor, options)
    }

    /// How many times the model runs for a clip.
    fn views(&self) -> usize {
        if self.settings.view == ActionView::ThreeCrops { 3 } else { 1 }
    }

    /// What the model sees of a clip whose frames have this size (width, height).
    fn views_of<'a>(&self, clip: &'a [f16], size: (usize, usize)) -> Vec<ClipView<'a>> {
        match self.settings.view {
            ActionView::ThreeCrops => ClipView::three_crops(clip, size, self.descriptor.crop).to_vec(),
            ActionView::Center | ActionView::Whole => vec![ClipView::all(clip, size)],
        }
    }

    fn score_persons(
        self,
        runtime: &Runtime,
        lanes: usize,
    ) -> Result<Lanes<ActionInput, Vec<PersonClip>, ActionScores>> {
        let opened = open_lanes(lanes, || PersonActions::open(runtime, &self.info, &self.descriptor))?;
        let tensors = opened[0].tensors();
        let fill = move |inputs: Vec<ActionInput>| {
            let clips = inputs.iter();
            let clips = clips
                .map(|ActionInput { clip, boxes }| tensors.clip(clip.slot.halves(), (clip.width, clip.height), boxes));
            clips.collect::<Result<Vec<PersonClip>>>()
        };
        let run = |mut model: PersonActions| {
            move |clips: Vec<PersonClip>| {
                let mut all = Timed { output: Vec::new(), seconds: 0.0 };
                for clip in clips {
                    let scores = model.run(&clip)?;
                    all.output.push(ActionScores { scores: scores.output, embedding: None });
                    all.seconds += scores.seconds;
                }
                Ok(all)
            }
        };
        Ok(Lanes::new(1, fill, opened.into_iter().map(run)))
    }
}

/// The mean of the views of a clip.
fn averaged(views: &[ClipScores]) -> ActionScores {
    let mean = |values: Vec<&[f32]>| -> Vec<f32> {
        let sums =
            (0..values.first().map_or(0, |first| first.len())).map(|i| values.iter().map(|of| of[i]).sum::<f32>());
        sums.map(|sum| sum / values.len() as f32).collect()
    };
    let features: Option<Vec<&[f32]>> = views.iter().map(|view| view.embedding.as_deref()).collect();
    ActionScores {
        scores: vec![mean(views.iter().map(|view| &view.scores[..]).collect())],
        embedding: features.map(mean),
    }
}

/// Opens a model once for each lane.
fn open_lanes<M>(lanes: usize, open: impl Fn() -> Result<M>) -> Result<Vec<M>> {
    (0..lanes).map(|_| open()).collect()
}

impl PersonModel {
    /// What the file says of itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Its descriptor.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::Detector(self.descriptor.clone())
    }

    /// The job's confidence.
    pub fn confidence(&self) -> f32 {
        self.thresholds.confidence
    }

    /// Opens a version of the model, for one image at a time. It outputs boxes down to this share of the job's confidence.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_version(&self, runtime: &Runtime, version: Deployment, share: f32) -> Result<Detector> {
        let thresholds = Thresholds { confidence: share * self.thresholds.confidence, ..self.thresholds.clone() };
        Detector::open_version(runtime, version, &self.info, &self.descriptor, thresholds, Some(1))
    }

    /// Reads the model file.
    ///
    /// # Errors
    /// A usage error if it is not a detector, or does not have the job's classes.
    pub fn read(settings: &job::Persons) -> Result<Self> {
        let info = ModelInfo::read(&settings.model)?;
        let Descriptor::Detector(descriptor) = Descriptor::for_model(&info)? else {
            return Err(wrong_kind(&info, "[persons]", "a detector"));
        };
        let labels = descriptor.labels.names();
        let mut classes = Vec::new();
        for class in &settings.classes {
            // A data set may have two classes with the same name.
            let named = classes.len();
            classes.extend(labels.iter().enumerate().filter(|(_, label)| *label == class).map(|(number, _)| number));
            if classes.len() == named {
                return Err(unknown_class(&info, class, &labels));
            }
        }
        // A job may name other classes besides `person`, and a detector may have another name for persons.
        let is_person = |class: &usize| labels[*class] == "person";
        let mut person_classes: Vec<usize> = classes.iter().copied().filter(is_person).collect();
        if person_classes.is_empty() {
            person_classes.clone_from(&classes);
        }
        let thresholds = Thresholds { confidence: settings.confidence, iou: settings.iou, classes };
        let descriptor::Size { height, width } = descriptor.size;
        let images = ImageSpec { width, height, frames_per_second: settings.frames_per_second };
        let random = descriptor.weights == Origin::Random;
        Ok(Self { info, descriptor, images, thresholds, person_classes, track: settings.track, random })
    }

    fn open(&self, runtime: &Arc<Runtime>, lanes: usize) -> Result<(OpenPersons, Opened)> {
        let mut thresholds = self.thresholds.clone();
        if self.track {
            // Weak boxes continue tracks. They suppress no stronger ones.
            thresholds.confidence = thresholds.confidence.min(WEAK_MIN);
        }
        let (model, runtime) = (self.clone(), runtime.clone());
        let (batcher, opened) = Batcher::start("persons", move || {
            let open = || Detector::open(&runtime, &model.info, &model.descriptor, thresholds.clone(), None);
            let opened = open_lanes(lanes, open)?;
            let (tensors, batch) = (opened[0].tensors(), opened[0].batch());
            let fill = move |images: Vec<Image>| {
                let images: Vec<_> =
                    images.iter().map(|image| (image.slot.bytes(), (image.width, image.height))).collect();
                tensors.batch(&images)
            };
            let run = |mut model: Detector| move |batch: ImageBatch| model.run(&batch);
            Ok(Lanes::new(batch, fill, opened.into_iter().map(run)))
        })?;
        let open = OpenPersons {
            batcher,
            labels: self.descriptor.labels.names().into_iter().map(Arc::from).collect(),
            images: self.images.clone(),
            person_classes: self.person_classes.as_slice().into(),
            confidence: self.thresholds.confidence,
            track: self.track,
        };
        Ok((open, opened))
    }
}

fn unknown_class(info: &ModelInfo, class: &str, labels: &[&str]) -> Error {
    let shown: Vec<String> = labels.iter().take(CLASSES_SHOWN).map(|label| format!("`{label}`")).collect();
    let more = match labels.len().saturating_sub(CLASSES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more, which `vidindex models inspect` lists"),
    };
    let what = format!("{} has no class `{class}`: its classes are {}{more}", info.path.display(), shown.join(", "));
    let suggestion = nearest(class, labels).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    Error::usage(what).with_hint(format!(
        "{suggestion}`labels` in {} names classes that the model's own file does not",
        Descriptor::path(&info.path).display()
    ))
}

fn wrong_kind(info: &ModelInfo, section: &str, wanted: &str) -> Error {
    Error::usage(format!("{section} model {} is not {wanted}", info.path.display()))
        .with_hint("`vidindex models inspect FILE` shows what a model takes and gives")
}

/// The open models.
#[derive(Debug, Clone)]
pub struct OpenModels {
    /// What they run on.
    pub device: Device,
    /// The number format in which they compute.
    pub precision: Precision,
    /// The model of `[actions]`.
    pub actions: Option<OpenActions>,
    /// The model of `[persons]`.
    pub persons: Option<OpenPersons>,
}

impl OpenModels {
    /// The name of each model, and what counts its use.
    pub fn counters(&self) -> Vec<(&'static str, UsageCounter)> {
        let actions = self.actions.as_ref().map(|model| ("actions", model.batcher.counter()));
        let persons = self.persons.as_ref().map(|model| ("persons", model.batcher.counter()));
        actions.into_iter().chain(persons).collect()
    }
}

/// One input of the action model.
#[derive(Debug)]
pub struct ActionInput {
    /// The clip.
    pub clip: Clip,
    /// Boxes of the persons in pixels of the clip: left, top, right, bottom. At least one for a model that scores persons;
    /// empty for a model that scores clips.
    pub boxes: Vec<[f32; 4]>,
}

/// The action model's output for one input.
#[derive(Debug, Default)]
pub struct ActionScores {
    /// Scores in label order: those of the clip, or those of each box.
    pub scores: Vec<Vec<f32>>,
    /// The clip's pooled features, if the job asks for them.
    pub embedding: Option<Vec<f32>>,
}

/// The open action model.
#[derive(Debug, Clone)]
pub struct OpenActions {
    /// Runs the model.
    pub batcher: Batcher<ActionInput, ActionScores>,
    /// Names of the classes.
    pub labels: Arc<[Arc<str>]>,
    /// The clips that the decoder makes.
    pub clips: ClipSpec,
    /// The job's `[actions]`.
    pub settings: job::Actions,
}

impl OpenActions {
    /// Whether the model scores persons instead of clips.
    pub fn scores_persons(&self) -> bool {
        self.clips.view == View::Whole
    }
}

/// The open person model.
#[derive(Debug, Clone)]
pub struct OpenPersons {
    /// The classes whose boxes an action model scores: `person` if the job names it, otherwise all classes that it names.
    pub person_classes: Arc<[usize]>,
    /// Runs the model. The output is the boxes of an image.
    pub batcher: Batcher<Image, Vec<Detection>>,
    /// Names of the classes.
    pub labels: Arc<[Arc<str>]>,
    /// The images that the decoder makes.
    pub images: ImageSpec,
    /// Rows are written of boxes that score above this. A model that tracks outputs weaker ones, too.
    pub confidence: f32,
    track: bool,
}

impl OpenPersons {
    /// Follows the boxes of a video, if the job tracks.
    pub fn tracker(&self) -> Option<Tracker> {
        self.track.then(|| Tracker::new(self.images.frames_per_second, self.confidence))
    }
}
