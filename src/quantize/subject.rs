//! The model to quantise: runs it on samples, whichever kind it is.

use std::path::Path;

use super::judge::{self, Agreement};
use super::samples::Sample;
use crate::error::{Error, Result};
use crate::infer::boxes::Detection;
use crate::infer::person_actions::{PersonActions, PersonClip};
use crate::infer::session::{Runtime, See, Timed};
use crate::infer::slowfast::{ClipBatch, ClipView, SlowFast};
use crate::job::Job;
use crate::work::models::{ActionModel, PersonModel};
use crate::zoo::deploy::Deployment;
use crate::zoo::descriptor::Descriptor;

/// Boxes are compared down to this share of the job's confidence.
const CONFIDENCE_SHARE: f32 = 0.2;

/// The model to quantise.
pub(super) enum Subject {
    Actions(ActionModel),
    /// A model that scores the actions of persons.
    PersonActions(ActionModel),
    Persons(PersonModel),
}

/// What a model answers for each sample.
pub(super) enum Answers {
    Scores(Vec<Vec<f32>>),
    Boxes(Vec<Vec<Detection>>),
}

impl Subject {
    /// Reads the model of a job that has one.
    pub(super) fn read(job: &Job) -> Result<Self> {
        match (&job.actions, &job.persons) {
            (Some(actions), None) => {
                let model = ActionModel::read(actions)?;
                Ok(if model.scores_persons() { Self::PersonActions(model) } else { Self::Actions(model) })
            }
            (None, Some(persons)) => Ok(Self::Persons(PersonModel::read(persons)?)),
            _ => Err(Error::failed("there must be one model")),
        }
    }

    pub(super) fn is_detector(&self) -> bool {
        matches!(self, Self::Persons(_))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Actions(model) | Self::PersonActions(model) => &model.info().path,
            Self::Persons(model) => &model.info().path,
        }
    }

    pub(super) fn id(&self) -> String {
        match self {
            Self::Actions(model) | Self::PersonActions(model) => model.info().model_id(),
            Self::Persons(model) => model.info().model_id(),
        }
    }

    pub(super) fn descriptor(&self) -> Descriptor {
        match self {
            Self::Actions(model) | Self::PersonActions(model) => model.descriptor(),
            Self::Persons(model) => model.descriptor(),
        }
    }

    /// Runs a version of the model on the samples. The time is the median of one.
    pub(super) fn answers(&self, runtime: &Runtime, model: Deployment, samples: &[&Sample]) -> Result<Timed<Answers>> {
        match self {
            Self::Actions(actions) => {
                let mut model = actions.open_version(runtime, model)?;
                let scores = one_by_one(samples, |sample| {
                    let scored = model.run(&clip(&model, sample, actions)?)?;
                    Ok(scored.map(|clips| clips.into_iter().flat_map(|clip| clip.scores).collect()))
                });
                Ok(scores?.map(Answers::Scores))
            }
            Self::PersonActions(actions) => {
                let mut model = actions.open_persons_version(runtime, model)?;
                let scores = one_by_one(samples, |sample| model.run(&person_clip(&model, sample)?))?;
                Ok(scores.map(|clips| Answers::Scores(clips.into_iter().flatten().collect())))
            }
            Self::Persons(persons) => {
                let mut model = persons.open_version(runtime, model, CONFIDENCE_SHARE)?;
                let boxes = one_by_one(samples, |sample| {
                    let found = model.run(&model.tensors().batch(&[(&sample.read()?, sample.frame)])?)?;
                    Ok(found.map(|images| images.into_iter().flatten().collect()))
                });
                Ok(boxes?.map(Answers::Boxes))
            }
        }
    }

    /// Runs a version of the model that outputs these values, too, and passes each to `see`.
    pub(super) fn observe(
        &self,
        runtime: &Runtime,
        model: Deployment,
        names: &[String],
        samples: &[&Sample],
        see: &mut See<'_>,
    ) -> Result<()> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match self {
            Self::Actions(actions) => {
                let mut model = actions.open_version(runtime, model)?;
                samples.iter().try_for_each(|sample| {
                    let batch = clip(&model, sample, actions)?;
                    model.observe(&batch, &names, see)
                })
            }
            Self::PersonActions(actions) => {
                let mut model = actions.open_persons_version(runtime, model)?;
                samples.iter().try_for_each(|sample| {
                    let clip = person_clip(&model, sample)?;
                    model.observe(&clip, &names, see)
                })
            }
            Self::Persons(persons) => {
                let mut model = persons.open_version(runtime, model, CONFIDENCE_SHARE)?;
                samples.iter().try_for_each(|sample| {
                    let batch = model.tensors().batch(&[(&sample.read()?, sample.frame)])?;
                    model.observe(&batch, &names, see)
                })
            }
        }
    }

    /// Compares the answers of the exact model with those of a quantised one.
    pub(super) fn compare(&self, exact: &Answers, quantised: &Answers) -> Result<Agreement> {
        match (self, exact, quantised) {
            (Self::Actions(_) | Self::PersonActions(_), Answers::Scores(exact), Answers::Scores(quantised)) => {
                Ok(Agreement::Actions(judge::actions(exact, quantised)))
            }
            (Self::Persons(model), Answers::Boxes(exact), Answers::Boxes(quantised)) => {
                Ok(Agreement::Persons(judge::persons(exact, quantised, model.confidence())?))
            }
            _ => Err(Error::failed("the answers are those of another model")),
        }
    }
}

/// Runs the samples in turn. The time is the median of one.
fn one_by_one<T>(samples: &[&Sample], mut run: impl FnMut(&Sample) -> Result<Timed<T>>) -> Result<Timed<Vec<T>>> {
    let mut output = Vec::with_capacity(samples.len());
    let mut seconds = Vec::with_capacity(samples.len());
    for sample in samples {
        let answer = run(sample)?;
        output.push(answer.output);
        seconds.push(answer.seconds);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(Timed { output, seconds: seconds.get(seconds.len() / 2).copied().unwrap_or_default() })
}

fn clip(model: &SlowFast, sample: &Sample, actions: &ActionModel) -> Result<ClipBatch> {
    let side = actions.crop();
    model.tensors().batch(&[ClipView::all(&sample.halves()?, (side, side))])
}

/// A clip with boxes at fixed places, because there is no detector: the whole frame and its upright thirds.
fn person_clip(model: &PersonActions, sample: &Sample) -> Result<PersonClip> {
    let size = (sample.frame.0 as usize, sample.frame.1 as usize);
    let (width, height) = (size.0 as f32, size.1 as f32);
    let part = |from: f32, to: f32| [from * width, 0.0, to * width, height];
    let boxes = [part(0.0, 1.0), part(0.0, 1.0 / 3.0), part(1.0 / 3.0, 2.0 / 3.0), part(2.0 / 3.0, 1.0)];
    model.tensors().clip(&sample.halves()?, size, &boxes)
}
