//! The descriptor of a SlowFast: its keys, and how they are inferred from the graph.

use super::{LabelSet, Labels, Origin, is_pictures, line, unlike};
use crate::error::{Error, Result};
use crate::zoo::exporter::Exported;
use crate::zoo::inspect::{ModelInfo, TensorInfo};
use crate::zoo::slowfast;

/// The keys of `kind = "slowfast"`.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlowFastDescriptor {
    /// Names of the classes, in the order of the scores.
    pub labels: Labels,
    /// Number of frames in a clip, as the Fast pathway or the only pathway sees it.
    pub frames: usize,
    /// Distance between two of those frames, in frames of a 30 fps video. Together with `frames` it determines the
    /// clip's length.
    pub sampling_rate: usize,
    /// Fast frames per Slow frame; 0 if there is only one pathway.
    pub alpha: usize,
    /// Which of the Fast pathway's frames the Slow pathway sees.
    pub slow_sampling: SlowSampling,
    /// The short side that frames are scaled to, pixels.
    pub side: usize,
    /// Side of the square that is cut from the centre of the scaled frame, pixels. Unused and equal to `side` with
    /// `persons`.
    pub crop: usize,
    /// Whether the model scores each person (the AVA variant): it takes their boxes, and scaled frames without a crop.
    pub persons: bool,
    /// The function that turns the network's output into scores.
    pub activation: Activation,
    /// Subtracted from red, green and blue in 0..1.
    pub mean: [f32; 3],
    /// Divisor of red, green and blue, after the subtraction.
    pub std: [f32; 3],
    /// Where the weights come from.
    pub weights: Origin,
}

/// Which of the Fast pathway's frames the Slow pathway sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlowSampling {
    /// Evenly from the first to the last, as in PyTorchVideo and PySlowFast.
    #[default]
    Linspace,
    /// The first and every alpha-th after it, as in mmaction2.
    Stride,
}

/// The function that turns a SlowFast's output into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// One action at a time (Kinetics): the scores sum to one.
    Softmax,
    /// Any number of actions at a time (Charades, AVA): each score is independent.
    Sigmoid,
    /// The network already outputs scores.
    None,
}

impl Default for SlowFastDescriptor {
    /// The default is 8x8 at 256 pixels with the labels of Kinetics-400.
    fn default() -> Self {
        Self {
            labels: Labels::Set(LabelSet::Kinetics400),
            frames: 32,
            sampling_rate: 2,
            alpha: 4,
            slow_sampling: SlowSampling::Linspace,
            side: 256,
            crop: 256,
            persons: false,
            activation: Activation::Softmax,
            mean: [0.45; 3],
            std: [0.225; 3],
            weights: Origin::Trained,
        }
    }
}

impl SlowFastDescriptor {
    pub(super) fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::usage(what));
        let Self { frames, alpha, side, crop, .. } = *self;
        if frames == 0 || self.sampling_rate == 0 {
            return fail("`frames` and `sampling_rate` must be at least 1".into());
        }
        if alpha != 0 && !frames.is_multiple_of(alpha) {
            return fail(format!("`frames` = {frames} must be a multiple of `alpha` = {alpha}"));
        }
        if side == 0 {
            return fail("`side` must be at least 1".into());
        }
        if !self.persons && (crop == 0 || crop > side) {
            return fail(format!("`crop` = {crop} must be between 1 and `side` = {side}"));
        }
        if !self.std.iter().all(|&std| std > 0.0) || !self.mean.iter().all(|mean| mean.is_finite()) {
            return fail("`mean` must be numbers and `std` above 0".into());
        }
        Ok(())
    }

    /// Replaces the labels by those of [`Labels::settle`] and returns its warning. `has_labels` tells whether the
    /// labels of `self` come from the descriptor rather than the defaults.
    pub(super) fn settled(self, model: &ModelInfo, has_labels: bool) -> Result<(Self, Option<String>)> {
        let in_file = match Exported::of(model).names {
            Some(Err(why)) if !has_labels => {
                return Err(Error::usage(format!("failed to read its metadata `names`: {why}")));
            }
            Some(Ok(names)) => Some(Labels::of_names(&names)),
            _ => None,
        };
        let classes = slowfast_tensors(model)?.scores.fixed(1);
        let usual = if self.persons { LabelSet::Ava80 } else { LabelSet::Kinetics400 };
        let written = has_labels.then(|| self.labels.clone());
        let (labels, warning) = Labels::settle(in_file, written, classes, usual)?;
        Ok((Self { labels, ..self }, warning))
    }

    /// Checks every length that the graph fixes against the descriptor.
    pub(super) fn check_against(&self, model: &ModelInfo) -> Result<()> {
        let tensors = slowfast_tensors(model)?;
        let takes_boxes = tensors.boxes.is_some();
        if self.persons != takes_boxes {
            let boxes = if takes_boxes { "takes boxes" } else { "takes no boxes" };
            return Err(Error::usage(format!("`persons` must be {takes_boxes}: the model {boxes}")));
        }
        match (tensors.slow, self.alpha) {
            (None, 1..) => return Err(Error::usage("`alpha` must be 0: the model has one pathway")),
            (Some(_), 0) => return Err(Error::usage("`alpha` must be at least 1: the model has two pathways")),
            _ => {}
        }
        let mut lengths = vec![
            (tensors.fast.fixed(2), "frames", self.frames),
            (tensors.slow.and_then(|slow| slow.fixed(2)), "frames / alpha", self.slow_frames()),
        ];
        if !self.persons {
            lengths.push((tensors.fast.fixed(3), "crop", self.crop));
            lengths.push((tensors.fast.fixed(4), "crop", self.crop));
        }
        for (in_graph, key, own) in lengths {
            if let Some(length) = in_graph.filter(|length| *length != own) {
                return Err(Error::usage(format!("`{key}` is {own}, but the model was built for {length}")));
            }
        }
        Ok(())
    }

    /// The duration of a clip as a fraction: (frames x sampling rate, 30) seconds.
    pub fn clip_fraction(&self) -> (u64, u64) {
        ((self.frames * self.sampling_rate) as u64, 30)
    }

    /// The duration of a clip, seconds.
    pub fn clip_seconds(&self) -> f64 {
        let (over, under) = self.clip_fraction();
        over as f64 / under as f64
    }

    /// Number of frames that the Slow pathway sees beside the Fast one; 0 if there is only one pathway.
    pub fn slow_frames(&self) -> usize {
        self.frames.checked_div(self.alpha).unwrap_or(0)
    }

    pub(super) fn to_toml(&self) -> String {
        let activation = match self.activation {
            Activation::Softmax => "softmax",
            Activation::Sigmoid => "sigmoid",
            Activation::None => "none",
        };
        let shown = match self.persons {
            true => line("persons", true, "scores each person: takes boxes, and frames that are not cropped"),
            false => line("crop", self.crop, "square cut from the middle"),
        };
        [
            line("kind", "\"slowfast\"", ""),
            line("labels", self.labels.to_toml(), "in the order of the scores: a built-in set or a list"),
            line("frames", self.frames, "frames of a clip that the Fast pathway sees, or the only one"),
            line("sampling_rate", self.sampling_rate, "frames of a 30 fps video from one of those to the next"),
            line("alpha", self.alpha, "Fast frames to each Slow one, or 0"),
            match self.slow_sampling {
                SlowSampling::Linspace => String::new(),
                SlowSampling::Stride => {
                    line("slow_sampling", "\"stride\"", "each alpha-th of Fast's frames, not linspace over all")
                }
            },
            line("side", self.side, "short side that frames are scaled to"),
            shown,
            line("activation", format!("\"{activation}\""), "softmax, sigmoid, or none where the network has it"),
            line("mean", format!("{:?}", self.mean), "taken from red, green, blue in 0..1"),
            line("std", format!("{:?}", self.std), "what they are divided by after that"),
            self.weights.to_toml(),
        ]
        .concat()
    }
}

/// The inputs and the output of a SlowFast.
#[derive(Debug, Clone, Copy)]
pub struct SlowFastTensors<'a> {
    /// The input of the Slow pathway, with fewer frames. `None` for a Slow-only or Fast-only network.
    pub slow: Option<&'a TensorInfo>,
    /// The input with all frames.
    pub fast: &'a TensorInfo,
    /// The persons' positions, `[boxes, 5]`: index of the clip in the batch, then left, top, right and bottom in pixels
    /// of the scaled frame. Only for a model that scores persons.
    pub boxes: Option<&'a TensorInfo>,
    /// The scores or logits, `[n, classes]`; `[boxes, classes]` of a model that scores persons.
    pub scores: &'a TensorInfo,
}

pub(super) const SLOWFAST_SHAPES: &str =
    "a SlowFast's two clips [n, 3, frames / alpha, H, W] and [n, 3, frames, H, W], or only the second -> [n, classes]";
const PERSONS_SHAPES: &str = "a SlowFast's two clips [n, 3, frames / alpha, H, W] and [n, 3, frames, H, W], or only the \
    second, with H and W free, and boxes [boxes, 5] -> [boxes, classes]";
/// Finds a SlowFast's inputs (by the names `slow` and `fast`, otherwise by their number of frames), the boxes if it
/// scores persons, and its output.
///
/// # Errors
/// If the model has no such inputs or output.
pub fn slowfast_tensors(model: &ModelInfo) -> Result<SlowFastTensors<'_>> {
    let (clips, others): (Vec<_>, Vec<_>) = model.inputs.iter().partition(|input| is_pictures(input, 5));
    let unlike = || unlike(model, if others.is_empty() { SLOWFAST_SHAPES } else { PERSONS_SHAPES });
    let (1..=2, [] | [_]) = (clips.len(), others.as_slice()) else { return Err(unlike()) };
    let boxes = others.first().copied();
    if let Some(boxes) = boxes {
        let is_boxes =
            boxes.element.is_float() && boxes.shape.len() == 2 && boxes.fixed(1).is_none_or(|fields| fields == 5);
        // A clip of which height and width are free.
        let is_free = |clip: &&TensorInfo| {
            clip.fixed(0).is_none_or(|n| n == 1) && clip.fixed(3).is_none() && clip.fixed(4).is_none()
        };
        if !is_boxes || boxes.fixed(0).is_some() || !clips.iter().all(is_free) {
            return Err(unlike());
        }
    }
    let (slow, fast) = match clips[..] {
        [clip] => (None, clip),
        [a, b] => {
            let a_is_slow = is_slow(a, b).ok_or_else(unlike)?;
            if a_is_slow { (Some(a), b) } else { (Some(b), a) }
        }
        _ => return Err(unlike()),
    };
    let is_scores = |output: &&TensorInfo| output.element.is_float() && output.shape.len() == 2;
    let named = model.outputs.iter().find(|output| output.name == slowfast::LOGITS);
    let scores = named.or_else(|| model.outputs.iter().find(is_scores)).filter(is_scores).ok_or_else(unlike)?;
    Ok(SlowFastTensors { slow, fast, boxes, scores })
}

/// Whether `a` is the Slow pathway's clip and `b` the Fast pathway's. `None` if they cannot be distinguished.
fn is_slow(a: &TensorInfo, b: &TensorInfo) -> Option<bool> {
    match (a.name.as_str(), b.name.as_str()) {
        (slowfast::SLOW_INPUT, _) | (_, slowfast::FAST_INPUT) => Some(true),
        (slowfast::FAST_INPUT, _) | (_, slowfast::SLOW_INPUT) => Some(false),
        _ => match (a.fixed(2)?, b.fixed(2)?) {
            (a, b) if a != b => Some(a < b),
            _ => None,
        },
    }
}

pub(super) fn infer_slowfast(model: &ModelInfo) -> Result<SlowFastDescriptor> {
    let SlowFastTensors { slow, fast, boxes, scores } = slowfast_tensors(model)?;
    let default = SlowFastDescriptor::default();
    let persons = boxes.is_some();
    // Use the official size if the graph does not fix it.
    let side = |dimension| if persons { Some(default.side) } else { fast.fixed(dimension) };
    // A single pathway has no Slow frames. A clip of the official networks covers 64 frames.
    let slow_frames = slow.map_or(Some(0), |slow| slow.fixed(2).filter(|&frames| frames > 0));
    let lengths = (slow_frames, fast.fixed(2), side(3), side(4), scores.fixed(1));
    let (Some(slow_frames), Some(frames), Some(height), Some(width), Some(_)) = lengths else {
        let fixed = if persons {
            format!("{PERSONS_SHAPES}, frames and classes")
        } else {
            format!("{SLOWFAST_SHAPES}, all but n")
        };
        return Err(unlike(model, &format!("{fixed} fixed")));
    };
    if height != width || slow_frames > 0 && !frames.is_multiple_of(slow_frames) {
        return Err(unlike(model, &format!("{SLOWFAST_SHAPES}, H = W and alpha a whole number")));
    }
    Ok(SlowFastDescriptor {
        frames,
        sampling_rate: if slow.is_some() { default.sampling_rate } else { (64 / frames.max(1)).max(1) },
        alpha: frames.checked_div(slow_frames).unwrap_or(0),
        side: height,
        crop: height,
        persons,
        activation: match scores.operator.as_deref() {
            Some("Softmax" | "Sigmoid") => Activation::None,
            _ if persons => Activation::Sigmoid,
            _ => Activation::Softmax,
        },
        ..default
    })
}
