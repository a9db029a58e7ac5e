//! The lowering of convolutions.

use super::{Form, Pass, Shape};
use crate::zoo::graph::{attribute, int, ints};
use crate::zoo::lower::Lowering;
use crate::zoo::lower::filters::{Filters, TwoD};
use crate::zoo::lower::window::{Window3d, spatial};
use crate::zoo::onnx::{AttributeProto, NodeProto, TensorProto};

/// Convolutions with more channels fill the vectors without packing.
const PACKED_CHANNELS_MAX: usize = 8;

impl Pass {
    /// Lowers a convolution, or returns `None` and writes nothing.
    pub(super) fn conv(&mut self, node: &NodeProto) -> Option<()> {
        let (window, to) = self.conv_shape(node)?;
        let conv = Conv {
            input: node.input.first()?.clone(),
            output: node.output.first()?.clone(),
            weight: node.input.get(1)?.clone(),
            bias: node.input.get(2).filter(|bias| !bias.is_empty()).cloned(),
            from: self.first_shape(node)?,
            to,
            window,
            has_groups: attribute(node, "group").is_some_and(|group| group.i != Some(1)),
            attributes: spatial(node),
        };
        let is_known = |bias: &String| self.weight(bias).and_then(TensorProto::floats).is_some();
        let packs = conv.packs(self.pack) && conv.bias.as_ref().is_none_or(is_known);
        let filters = || self.weight(&conv.weight).and_then(Filters::of);
        if self.lowering == Lowering::Packed {
            let filters = packs.then(filters)??.packed(self.pack);
            self.packed(node, &conv, &filters);
        } else if conv.window.is_spatial() {
            let filters = filters()?.at(0);
            self.spatial(conv, &filters);
        } else if conv.has_groups {
            return None;
        } else if packs {
            let filters = filters()?.packed(self.pack).over_channels();
            self.side_by_side(&conv, self.pack, &filters);
        } else if conv.shifts() {
            let filters = filters()?;
            self.shift(&conv, &filters);
        } else {
            let filters = filters()?.over_channels();
            self.side_by_side(&conv, 1, &filters);
        }
        Some(())
    }

    /// Packed 3-D convolution: the filters advance by a group of frames.
    fn packed(&mut self, node: &NodeProto, conv: &Conv, filters: &Filters) {
        let mut attributes = node.attribute.clone();
        attributes.retain(|attribute| !matches!(attribute.name.as_str(), "kernel_shape" | "strides"));
        let [_, height, width] = conv.window.stride;
        attributes.push(ints("kernel_shape", &filters.shape[2..]));
        attributes.push(ints("strides", &[self.pack, height, width]));
        let input = self.form(&conv.input, Form::Plain);
        let weight = self.floats(Form::Packed.name(&conv.weight), &filters.shape, &filters.values);
        let bias = self.bias(conv, self.pack);
        let inputs: Vec<&str> = [&input, &weight].into_iter().chain(&bias).map(String::as_str).collect();
        self.emit("Conv", &inputs, Form::Packed.name(&conv.output), attributes);
    }

    /// Computes each frame separately.
    fn spatial(&mut self, mut conv: Conv, filters: &TwoD) {
        let mut input = self.form(&conv.input, Form::Folded);
        let [_, height, width] = conv.window.stride;
        if conv.window.is_pixel() && (height, width) != (1, 1) {
            // The fast kernel for 1x1 convolutions does not support strides, but a pool of one pixel does.
            let picked = format!("{}.picked", conv.output);
            let pool = vec![ints("kernel_shape", &[1, 1]), ints("strides", &[height, width])];
            self.emit("MaxPool", &[&input], picked.clone(), pool);
            conv.attributes.retain(|attribute| attribute.name != "strides");
            input = picked;
        }
        let weight = self.floats(Form::Folded.name(&conv.weight), &filters.shape, &filters.values);
        let inputs: Vec<&str> = [&input, &weight].into_iter().chain(&conv.bias).map(String::as_str).collect();
        self.emit("Conv", &inputs, Form::Folded.name(&conv.output), conv.attributes);
    }

    /// Stacks all input frames of one output frame (or of a group of them) as channels of one frame.
    fn side_by_side(&mut self, conv: &Conv, pack: usize, filters: &TwoD) {
        let Conv { from, window, .. } = conv;
        let seen = filters.shape[1] / from.channels;
        let mut wanted = Vec::new();
        for group in 0..conv.to.frames / pack {
            let first = (group * pack * window.stride[0]) as i64;
            wanted.extend((0..seen).map(|k| first + conv.offset(k)));
        }
        let mut frames = self.form(&conv.input, Form::Frames);
        let zero = from.frames as i64;
        let is_there = |frame: i64| (0..zero).contains(&frame);
        if !wanted.iter().all(|&frame| is_there(frame)) {
            let padded = format!("{}.padded", conv.input);
            if !self.made.contains(&padded) {
                let pads = self.integers(&[10], &[0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
                self.emit("Pad", &[&frames, &pads], padded.clone(), vec![]);
            }
            frames = padded;
            wanted.iter_mut().filter(|frame| !is_there(**frame)).for_each(|frame| *frame = zero);
        }
        let wanted = self.integers(&[conv.to.frames / pack, seen], &wanted);
        let gathered = format!("{}.gathered", conv.output);
        self.emit("Gather", &[&frames, &wanted], gathered.clone(), vec![int("axis", 1)]);
        let channels = format!("{}.side_by_side", conv.output);
        self.reshape(&gathered, channels.clone(), &[-1, filters.shape[1] as i64], from.area);
        let form = if pack == 1 { Form::Folded } else { Form::Packed };
        let weight = self.floats(form.name(&conv.weight), &filters.shape, &filters.values);
        let bias = self.bias(conv, pack);
        let inputs: Vec<&str> = [&channels, &weight].into_iter().chain(&bias).map(String::as_str).collect();
        self.emit("Conv", &inputs, form.name(&conv.output), conv.attributes.clone());
    }

    /// Applies every temporal filter to each frame, shifts the results to their output frame and adds them.
    fn shift(&mut self, conv: &Conv, filters: &Filters) {
        let input = self.form(&conv.input, Form::Folded);
        let view = [-1, conv.to.frames as i64, conv.to.channels as i64];
        // Frames further away than the clip is long contribute only zeros.
        let near = |&k: &usize| conv.offset(k).unsigned_abs() < conv.to.frames as u64;
        let mut taps: Vec<usize> = (0..conv.window.kernel[0]).filter(near).collect();
        taps.sort_by_key(|&k| conv.offset(k).abs());
        let mut sum: Option<String> = None;
        for k in taps {
            let (offset, filters) = (conv.offset(k), filters.at(k));
            let weight = self.floats(format!("{}.tap{k}", conv.weight), &filters.shape, &filters.values);
            // The unshifted frame comes first and carries the bias.
            let bias = conv.bias.iter().filter(|_| sum.is_none());
            let inputs: Vec<&str> = [&input, &weight].into_iter().chain(bias).map(String::as_str).collect();
            let seen = format!("{}.tap{k}", conv.output);
            self.emit("Conv", &inputs, seen.clone(), conv.attributes.clone());
            let mut frames = Form::Frames.name(&seen);
            self.reshape(&seen, frames.clone(), &view, conv.to.area);
            if offset != 0 {
                let pads = self.integers(&[10], &[0, -offset, 0, 0, 0, 0, offset, 0, 0, 0]);
                let shifted = format!("{seen}.shifted");
                self.emit("Pad", &[&frames, &pads], shifted.clone(), vec![]);
                frames = shifted;
            }
            sum = Some(match sum {
                None => frames,
                Some(sum) => {
                    let added = format!("{seen}.added");
                    self.emit("Add", &[&sum, &frames], added.clone(), vec![]);
                    added
                }
            });
        }
        if let Some(sum) = sum {
            self.reshape(&sum, Form::Folded.name(&conv.output), &[-1, view[2]], conv.to.area);
        }
    }

    /// A convolution's bias, repeated for each of the frames that are computed at once.
    fn bias(&mut self, conv: &Conv, pack: usize) -> Option<String> {
        let name = conv.bias.as_ref()?;
        if pack == 1 {
            return Some(name.clone());
        }
        let values = self.weight(name).and_then(TensorProto::floats)?.repeat(pack);
        Some(self.floats(Form::Packed.name(name), &[values.len()], &values))
    }
}

/// A convolution that can be lowered.
struct Conv {
    input: String,
    output: String,
    weight: String,
    bias: Option<String>,
    from: Shape,
    to: Shape,
    window: Window3d,
    has_groups: bool,
    /// Attributes of the 2-D convolution.
    attributes: Vec<AttributeProto>,
}

impl Conv {
    /// Whether computing several frames at once is faster: few channels, and large sums for each.
    fn packs(&self, pack: usize) -> bool {
        let window = &self.window;
        window.kernel[0] > 1
            && !window.is_pixel()
            && (window.stride[0], window.dilation[0]) == (1, 1)
            && self.to.channels <= PACKED_CHANNELS_MAX
            && self.to.frames.is_multiple_of(pack)
            && !self.has_groups
    }

    /// Offset of the k-th input frame from the output frame, in frames.
    fn offset(&self, k: usize) -> i64 {
        (k * self.window.dilation[0]) as i64 - self.window.begin[0] as i64
    }

    /// Whether shifting results moves less data than stacking inputs.
    fn shifts(&self) -> bool {
        self.window.stride[0] == 1
            && self.from.frames == self.to.frames
            && self.to.channels <= self.from.channels
            && (0..self.window.kernel[0]).any(|k| self.offset(k) == 0)
    }
}
