//! The models of a job. Their files are read and checked before anything is listed. They are opened when there is a shard
//! to process.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::batch::Batcher;
use crate::decode::{Clip, ClipSpec, Image, ImageSpec, View};
use crate::error::{Error, Result};
use crate::hash::hex;
use crate::infer::boxes::{Detection, Thresholds};
use crate::infer::detector::{Detector, ImageBatch};
use crate::infer::person_actions::{PersonActions, PersonClip};
use crate::infer::session::Runtime;
use crate::infer::slowfast::{ClipBatch, ClipScores, ClipShape, SlowFast, embedding_output};
use crate::job::{self, Job};
use crate::nearest::nearest;
use crate::run::{ModelRef, PlanModels};
use crate::telemetry;
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
    random: bool,
}

impl JobModels {
    /// Reads the model files.
    ///
    /// # Errors
    /// A usage error if a file is missing, is not ONNX, or does not have the inputs and outputs that its section needs, and
    /// if the action model scores persons but the job has no detector.
    pub fn read(job: &Job) -> Result<Self> {
        let actions = job.actions.as_ref().map(ActionModel::read).transpose()?;
        if let Some(actions) = actions.as_ref().filter(|actions| actions.descriptor.persons && job.persons.is_none()) {
            let model = actions.info.path.display();
            return Err(Error::usage(format!("{model} scores the actions of persons, but the job has no [persons]"))
                .with_hint("add the detector that finds them, for example:\n    [persons]\n    model = \"models/yolov5s.onnx\""));
        }
        let persons = job.persons.as_ref().map(PersonModel::read).transpose()?;
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

    /// Opens both models at the same time, each on a thread.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open(&self, runtime: &Runtime) -> Result<OpenModels> {
        let started = Instant::now();
        let (actions, persons) = std::thread::scope(|scope| {
            let actions = self.actions.as_ref().map(|model| scope.spawn(|| model.open(runtime)));
            let persons = self.persons.as_ref().map(|model| model.open(runtime)).transpose();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<OpenActions>>| {
                thread.join().unwrap_or_else(|_| Err(Error::failed("opening the action model panicked")))
            };
            (actions.map(join).transpose(), persons)
        });
        let open = OpenModels { actions: actions?, persons: persons? };
        let seconds = telemetry::rounded(started.elapsed());
        tracing::info!(device = %runtime.device(), seconds, "models opened");
        Ok(open)
    }
}

impl ActionModel {
    fn read(settings: &job::Actions) -> Result<Self> {
        let info = ModelInfo::read(&settings.model)?;
        let Descriptor::SlowFast(descriptor) = Descriptor::for_model(&info)? else {
            return Err(wrong_kind(&info, "[actions]", "a SlowFast"));
        };
        let clip_seconds = settings.clip_seconds.unwrap_or_else(|| descriptor.clip_seconds());
        let clips = ClipSpec {
            frames: descriptor.frames,
            side: descriptor.side,
            view: if descriptor.persons { View::Whole } else { View::Centre(descriptor.crop) },
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

    fn open(&self, runtime: &Runtime) -> Result<OpenActions> {
        let batcher = if self.descriptor.persons { self.score_persons(runtime)? } else { self.score_clips(runtime)? };
        let labels = self.descriptor.labels.names().into_iter().map(Arc::from).collect();
        Ok(OpenActions { batcher, labels, clips: self.clips.clone(), settings: self.settings.clone() })
    }
}

type ActionBatcher = Batcher<ActionInput, ActionScores>;

impl ActionModel {
    fn score_clips(&self, runtime: &Runtime) -> Result<ActionBatcher> {
        let mut model = SlowFast::open(runtime, &self.info, &self.descriptor, self.settings.embedding)?;
        let (shape, batch_max) = (ClipShape::new(&self.descriptor), model.batch_max());
        let fill = move |batch: &mut ClipBatch, inputs: Vec<ActionInput>| {
            batch.clear();
            inputs.into_iter().for_each(|input| batch.push(&shape, input.clip.slot.halves()));
        };
        let run = move |batch: &mut ClipBatch| {
            let scored = |ClipScores { scores, embedding }| ActionScores { scores: vec![scores], embedding };
            Ok(model.run(batch)?.map(|clips| clips.into_iter().map(scored).collect()))
        };
        Batcher::start("actions", batch_max, fill, run)
    }

    fn score_persons(&self, runtime: &Runtime) -> Result<ActionBatcher> {
        let mut model = PersonActions::open(runtime, &self.info, &self.descriptor)?;
        let slow = model.slow_frames().to_vec();
        let fill = move |filled: &mut PersonClip, inputs: Vec<ActionInput>| {
            for ActionInput { clip, boxes } in inputs {
                filled.fill(&slow, clip.slot.halves(), (clip.width, clip.height), &boxes);
            }
        };
        let run = move |clip: &mut PersonClip| {
            Ok(model.run(clip)?.map(|scores| vec![ActionScores { scores, embedding: None }]))
        };
        Batcher::start("actions", 1, fill, run)
    }
}

impl PersonModel {
    fn read(settings: &job::Persons) -> Result<Self> {
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
        Ok(Self { info, descriptor, images, thresholds, person_classes, random })
    }

    fn open(&self, runtime: &Runtime) -> Result<OpenPersons> {
        let mut model = Detector::open(runtime, &self.info, &self.descriptor, self.thresholds.clone())?;
        let batch_max = model.batch_max();
        let fill = |batch: &mut ImageBatch, images: Vec<Image>| {
            batch.clear();
            images.into_iter().for_each(|image| batch.push(image.slot.bytes(), image.width, image.height));
        };
        let run = move |batch: &mut ImageBatch| model.run(batch);
        let batcher = Batcher::start("persons", batch_max, fill, run)?;
        Ok(OpenPersons {
            batcher,
            labels: self.descriptor.labels.names().into_iter().map(Arc::from).collect(),
            images: self.images.clone(),
            person_classes: self.person_classes.as_slice().into(),
        })
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
    /// The model of `[actions]`.
    pub actions: Option<OpenActions>,
    /// The model of `[persons]`.
    pub persons: Option<OpenPersons>,
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
}
