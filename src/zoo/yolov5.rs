//! YOLOv5 networks of both generations and both pyramids, with the official parameter names. The output is either
//! decoded boxes, as its `export.py` writes them, or the raw heads.
//!
//! The network has a CSP backbone, a neck that goes up and down the feature pyramid (PAN), and a head. For each of
//! three anchors in every cell of three or four grids, the head predicts position, size, objectness and class.
//! Reference: `models/yolov5*.yaml` and `models/hub/yolov5*6.yaml` in the releases of github.com/ultralytics/yolov5.

pub(crate) mod parameters;

use crate::error::{Error, Result};
use crate::zoo::graph::{BatchNorm, GraphBuilder, Value, Window};
use crate::zoo::onnx::ModelProto;
use crate::zoo::weights::Weights;
use parameters::{DETECT, FOCUS, STRIDES};

/// Name of the input, `[batch, 3, height, width]`, RGB in 0..1.
pub const INPUT: &str = "images";
/// Name of the decoded output, `[batch, boxes, 5 + classes]`: centre, width and height in pixels of the input,
/// objectness, and a score for each class.
pub const OUTPUT: &str = "output0";
/// Prefix of the names of the raw outputs. `raw0` belongs to the finest grid.
pub const RAW_OUTPUT: &str = "raw";

/// Added to the variance by YOLOv5's batch norms.
const EPSILON: f32 = 1e-3;

/// Settings of a YOLOv5 network.
#[derive(Debug, Clone, PartialEq)]
pub struct YoloConfig {
    /// The release whose layers it has.
    pub generation: Generation,
    /// Whether its parameters have the batch norms folded into the convolutions, as the official `fuse()` does.
    pub is_fused: bool,
    /// Number of grids: 3, or 4 with an additional one at 64 pixels per cell (a P6).
    pub grids: usize,
    /// Number of block repetitions, relative to the large model.
    pub depth_multiple: f64,
    /// Number of channels, relative to the large model.
    pub width_multiple: f64,
    /// Number of classes.
    pub classes: usize,
    /// Number of anchors per cell. Their sizes are a parameter, `model.24.anchors` (`model.33.anchors` for a P6).
    pub anchors_per_cell: usize,
    /// Height of the input, pixels. Must be a multiple of the coarsest grid's cell size.
    pub height: usize,
    /// Width of the input, pixels. Must be a multiple of the coarsest grid's cell size.
    pub width: usize,
    /// What the network outputs.
    pub head: HeadOutput,
}

/// The layers that differ between releases. Both generations use SiLU; releases before 4.0 are not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Releases 4.0 and 5.0: Focus stem, SPP before the backbone's last C3.
    V5,
    /// Releases 6.0 to 7.0: 6x6 stem, SPPF after the backbone's last C3.
    V6,
}

/// What a YOLOv5 outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOutput {
    /// [`OUTPUT`]: the boxes of all grids, one grid after another.
    Decoded,
    /// `raw0`, `raw1` and so on: one output `[batch, anchors, rows, columns, 5 + classes]` per grid, before the
    /// sigmoid.
    Raw,
}

/// Description of the suffixes of a name, for messages.
pub const OPTIONS: &str =
    "6 (fourth grid: yolov5s6), -v5 (as of releases 4.0 and 5.0), -raw (heads before the sigmoid)";

/// The network of this name: `yolov5`, a letter, and options. Returns `None` for any other name.
pub fn named(name: &str) -> Option<YoloConfig> {
    let mut parts = name.strip_prefix("yolov5")?.split('-');
    let size = parts.next()?;
    let mut letters = size.trim_end_matches('6').chars();
    let mut config = YoloConfig::of_size(letters.next()?)?;
    match (letters.next(), size.len()) {
        (None, 1) => {}
        (None, 2) => config = config.p6(),
        _ => return None,
    }
    for part in parts {
        match part {
            "v5" => config.generation = Generation::V5,
            "raw" => config.head = HeadOutput::Raw,
            _ => return None,
        }
    }
    Some(config)
}

impl YoloConfig {
    /// The official network of this size (`n`, `s`, `m`, `l`, `x`) for COCO at 640x640, latest generation.
    pub fn of_size(letter: char) -> Option<Self> {
        let (depth_multiple, width_multiple) = match letter {
            'n' => (0.33, 0.25),
            's' => (0.33, 0.50),
            'm' => (0.67, 0.75),
            'l' => (1.00, 1.00),
            'x' => (1.33, 1.25),
            _ => return None,
        };
        Some(Self {
            generation: Generation::V6,
            is_fused: false,
            grids: 3,
            depth_multiple,
            width_multiple,
            classes: 80,
            anchors_per_cell: 3,
            height: 640,
            width: 640,
            head: HeadOutput::Decoded,
        })
    }

    /// The same network with a fourth grid, at 1280x1280.
    pub fn p6(self) -> Self {
        Self { grids: 4, height: 1280, width: 1280, ..self }
    }

    /// Scales the large model's number of channels, rounded up to a multiple of 8.
    fn channels(&self, of_large: usize) -> usize {
        (of_large as f64 * self.width_multiple / 8.0).ceil() as usize * 8
    }

    /// Scales the large model's number of repetitions; at least one.
    pub(crate) fn repeats(&self, of_large: usize) -> usize {
        ((of_large as f64 * self.depth_multiple).round_ties_even() as usize).max(1)
    }

    fn check(&self) -> Result<()> {
        if !(3..=4).contains(&self.grids) {
            return Err(Error::usage(format!("a YOLOv5 has 3 or 4 grids, not {}", self.grids)));
        }
        let largest = STRIDES[self.grids - 1];
        let fits = |side: usize| side > 0 && side.is_multiple_of(largest);
        if !fits(self.height) || !fits(self.width) {
            let (height, width) = (self.height, self.width);
            return Err(Error::usage(format!(
                "this YOLOv5 does not support {height}x{width} pixels: both must be multiples of {largest}"
            )));
        }
        if self.classes == 0 || self.anchors_per_cell == 0 {
            return Err(Error::usage("a YOLOv5 needs at least one class and one anchor"));
        }
        Ok(())
    }
}

/// Builds the network. Layer numbers are those of the official `yolov5*.yaml`. Upsampling and concatenation have
/// numbers as well, but no parameters.
///
/// # Errors
/// If the settings are invalid, or the weights belong to another network.
pub fn build(config: &YoloConfig, weights: &mut dyn Weights) -> Result<ModelProto> {
    config.check()?;
    let mut unfocused = Unfocused(weights);
    let mut builder = GraphBuilder::new("yolov5", &mut unfocused);
    let images = builder.input(INPUT, &[3, config.height, config.width]);
    let mut net = Net { graph: &mut builder, config, layer: 0 };
    let backbone = net.backbone(&images)?;
    let pyramid = net.neck(&backbone)?;
    let heads = net.heads(&pyramid)?;
    match config.head {
        HeadOutput::Decoded => {
            let boxes = net.decode(&heads)?;
            builder.output(&boxes, OUTPUT);
        }
        HeadOutput::Raw => {
            // Request the anchors although they are not used, because the weights contain them.
            net.anchors()?;
            for (grid, head) in heads.iter().enumerate() {
                builder.output(head, &format!("{RAW_OUTPUT}{grid}"));
            }
        }
    }
    builder.finish()
}

/// Reads the Focus stem's weights, `[n, 12, 3, 3]`, as those of the equivalent 6x6 convolution with stride 2. Focus
/// stacks the four pixels of each 2x2 square (top left, bottom left, top right, bottom right) as channels and applies a
/// 3x3 convolution to the squares.
struct Unfocused<'w>(&'w mut dyn Weights);

impl Weights for Unfocused<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        if name != FOCUS {
            return self.0.tensor(name, shape);
        }
        let stacked = self.0.tensor(name, &[shape[0], 12, 3, 3])?;
        let position = |index: usize| {
            let (column, row, colour, filter) = (index % 6, index / 6 % 6, index / 36 % 3, index / 108);
            let pixel = column % 2 * 2 + row % 2;
            ((filter * 12 + pixel * 3 + colour) * 3 + row / 2) * 3 + column / 2
        };
        Ok((0..stacked.len()).map(|index| stacked[position(index)]).collect())
    }

    fn finish(&mut self) -> Result<()> {
        self.0.finish()
    }
}

struct Net<'g, 'w> {
    graph: &'g mut GraphBuilder<'w>,
    config: &'g YoloConfig,
    /// Number of the next layer.
    layer: usize,
}

impl Net<'_, '_> {
    /// Channels of the pyramid's levels in the large model, finest level first.
    fn widths(&self) -> &'static [usize] {
        if self.config.grids == 4 { &[256, 512, 768, 1024] } else { &[256, 512, 1024] }
    }

    /// The features at each of the grids, finest first.
    fn backbone(&mut self, images: &Value) -> Result<Vec<Value>> {
        let generation = self.config.generation;
        let x = self.stem(images, 64)?;
        let x = self.halve(&x, 128)?;
        let mut x = self.c3(&x, 128, 3, true)?;
        let [widths @ .., last] = self.widths() else { return Ok(vec![]) };
        let mut levels = Vec::new();
        for &width in widths {
            let repeats = match (width, generation) {
                (256, Generation::V6) => 6,
                (256 | 512, _) => 9,
                _ => 3,
            };
            x = self.halve(&x, width)?;
            x = self.c3(&x, width, repeats, true)?;
            levels.push(x.clone());
        }
        x = self.halve(&x, *last)?;
        x = match generation {
            Generation::V5 => {
                // SPP's windows are 5, 9 and 13, or 3, 5 and 7 for a P6.
                let pooled = self.spatial_pyramid(&x, *last, if self.config.grids == 4 { 3 } else { 5 })?;
                self.c3(&pooled, *last, 3, false)?
            }
            Generation::V6 => {
                let whole = self.c3(&x, *last, 3, true)?;
                self.spatial_pyramid(&whole, *last, 5)?
            }
        };
        levels.push(x);
        Ok(levels)
    }

    /// Goes up the pyramid and down again. Returns the input of the heads, finest first.
    fn neck(&mut self, backbone: &[Value]) -> Result<Vec<Value>> {
        let [finer @ .., x] = backbone else { return Ok(vec![]) };
        let mut x = x.clone();
        let levels = self.widths();
        let mut ways_down = Vec::new();
        for (beside, &width) in finer.iter().zip(levels).rev() {
            let narrow = self.pointwise(&x, width)?;
            let up = self.graph.upsample_twice(&narrow);
            let both = self.graph.concat(&[&up, beside], 0);
            self.layer += 2;
            x = self.c3(&both, width, 3, false)?;
            ways_down.push(narrow);
        }
        let mut pyramid = vec![x.clone()];
        for (narrow, pair) in ways_down.iter().rev().zip(levels.windows(2)) {
            let half = self.halve(&x, pair[0])?;
            let both = self.graph.concat(&[&half, narrow], 0);
            self.layer += 1;
            x = self.c3(&both, pair[1], 3, false)?;
            pyramid.push(x.clone());
        }
        Ok(pyramid)
    }

    /// Returns the next layer's name and advances the layer number.
    fn next(&mut self) -> String {
        let name = format!("model.{}", self.layer);
        self.layer += 1;
        name
    }

    /// Convolution, batch norm, SiLU.
    fn conv(&mut self, name: &str, input: &Value, channels: usize, window: &Window) -> Result<Value> {
        let norm = format!("{name}.bn");
        let norm = (!self.config.is_fused).then_some(BatchNorm { name: &norm, epsilon: EPSILON, biased: false });
        let value = self.graph.conv(&format!("{name}.conv"), input, channels, window, norm)?;
        Ok(self.graph.silu(&value))
    }

    fn conv1(&mut self, name: &str, input: &Value, channels: usize) -> Result<Value> {
        self.conv(name, input, channels, &Window::valid(&[1, 1], &[1, 1]))
    }

    fn stem(&mut self, input: &Value, of_large: usize) -> Result<Value> {
        let name = match self.config.generation {
            Generation::V5 => format!("{}.conv", self.next()),
            Generation::V6 => self.next(),
        };
        let window = Window { padding: vec![2, 2], ..Window::valid(&[6, 6], &[2, 2]) };
        self.conv(&name, input, self.config.channels(of_large), &window)
    }

    fn halve(&mut self, input: &Value, of_large: usize) -> Result<Value> {
        let name = self.next();
        self.conv(&name, input, self.config.channels(of_large), &Window::same(&[3, 3], &[2, 2]))
    }

    fn pointwise(&mut self, input: &Value, of_large: usize) -> Result<Value> {
        let name = self.next();
        self.conv1(&name, input, self.config.channels(of_large))
    }

    /// Passes half of the channels through a sequence of bottlenecks and the other half around them.
    fn c3(&mut self, input: &Value, of_large: usize, repeats: usize, shortcut: bool) -> Result<Value> {
        let name = self.next();
        let channels = self.config.channels(of_large);
        let hidden = channels / 2;
        let mut through = self.conv1(&format!("{name}.cv1"), input, hidden)?;
        for block in 0..self.config.repeats(repeats) {
            let inside = self.conv1(&format!("{name}.m.{block}.cv1"), &through, hidden)?;
            let window = Window::same(&[3, 3], &[1, 1]);
            let inside = self.conv(&format!("{name}.m.{block}.cv2"), &inside, hidden, &window)?;
            through = if shortcut { self.graph.add(&through, &inside) } else { inside };
        }
        let past = self.conv1(&format!("{name}.cv2"), input, hidden)?;
        let both = self.graph.concat(&[&through, &past], 0);
        self.conv1(&format!("{name}.cv3"), &both, channels)
    }

    /// SPPF: concatenates the input with its maxima in three windows, computed by consecutive pools. Two pools of 5
    /// reach as far as one of 9, so this is equal to SPP, which applies its windows in parallel.
    fn spatial_pyramid(&mut self, input: &Value, of_large: usize, window: usize) -> Result<Value> {
        let name = self.next();
        let one = self.conv1(&format!("{name}.cv1"), input, input.shape[0] / 2)?;
        let window = Window::same(&[window, window], &[1, 1]);
        let small = self.graph.max_pool(&one, &window);
        let medium = self.graph.max_pool(&small, &window);
        let large = self.graph.max_pool(&medium, &window);
        let all = self.graph.concat(&[&one, &small, &medium, &large], 0);
        self.conv1(&format!("{name}.cv2"), &all, self.config.channels(of_large))
    }

    fn detect_layer(&self) -> &'static str {
        DETECT[self.config.grids - 3]
    }

    /// The anchors in units of their grid's cells, `[grids, anchors, 2]`.
    fn anchors(&mut self) -> Result<Vec<f32>> {
        let shape = [self.config.grids, self.config.anchors_per_cell, 2];
        self.graph.parameter(&format!("{}.anchors", self.detect_layer()), &shape)
    }

    /// Each grid's predictions, `[anchors, rows, columns, 5 + classes]`, before the sigmoid.
    fn heads(&mut self, pyramid: &[Value]) -> Result<Vec<Value>> {
        let (anchors, fields) = (self.config.anchors_per_cell, 5 + self.config.classes);
        let window = Window::valid(&[1, 1], &[1, 1]);
        let mut heads = Vec::with_capacity(pyramid.len());
        for (grid, features) in pyramid.iter().enumerate() {
            let (rows, columns) = (features.shape[1], features.shape[2]);
            let name = format!("{}.m.{grid}", self.detect_layer());
            let raw = self.graph.conv(&name, features, anchors * fields, &window, None)?;
            let raw = self.graph.reshape(&raw, &[anchors, fields, rows, columns]);
            heads.push(self.graph.transpose(&raw, &[0, 2, 3, 1]));
        }
        Ok(heads)
    }

    fn decode(&mut self, heads: &[Value]) -> Result<Value> {
        let anchors = self.anchors()?;
        let of_grids = anchors.chunks(self.config.anchors_per_cell * 2);
        let boxes: Vec<Value> = (heads.iter().zip(of_grids).zip(STRIDES))
            .map(|((head, anchors), stride)| self.decode_grid(head, anchors, stride as f32))
            .collect();
        Ok(self.graph.concat(&boxes.iter().collect::<Vec<_>>(), 0))
    }

    /// One grid's boxes, `[anchors x rows x columns, 5 + classes]`. The centre is at most half a cell outside its own
    /// cell, and the size is at most four times the anchor's.
    fn decode_grid(&mut self, head: &Value, anchors: &[f32], stride: f32) -> Value {
        let graph = &mut *self.graph;
        let [anchors_per_cell, rows, columns, fields] = [0, 1, 2, 3].map(|axis| head.shape[axis]);
        let scores = graph.sigmoid(head);
        let parts = graph.split(&scores, 3, &[2, 2, fields - 4]);

        // (2 s - 0.5 + cell) * stride
        let cells: Vec<f32> = (0..rows * columns)
            .flat_map(|cell| [cell % columns, cell / columns])
            .map(|cell| (cell as f32 - 0.5) * stride)
            .collect();
        let cells = graph.constant(&[1, rows, columns, 2], &cells);
        let reach = graph.constant(&[1, 1, 1, 2], &[2.0 * stride; 2]);
        let centre = graph.mul(&parts[0], &reach);
        let centre = graph.add(&centre, &cells);

        // (2 s)^2 * anchor
        let sizes: Vec<f32> = anchors.iter().map(|in_cells| in_cells * stride * 4.0).collect();
        let sizes = graph.constant(&[anchors_per_cell, 1, 1, 2], &sizes);
        let size = graph.mul(&parts[1], &parts[1]);
        let size = graph.mul(&size, &sizes);

        let boxes = graph.concat(&[&centre, &size, &parts[2]], 3);
        graph.reshape(&boxes, &[anchors_per_cell * rows * columns, fields])
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::weights::RandomWeights;

    #[test]
    fn a_name_says_size_grids_generation_and_head() {
        let s = YoloConfig::of_size('s').unwrap();
        assert_eq!(named("yolov5s"), Some(s.clone()));
        assert_eq!(named("yolov5s6"), Some(s.clone().p6()));
        let old = YoloConfig { generation: Generation::V5, head: HeadOutput::Raw, ..s.p6() };
        assert_eq!(named("yolov5s6-v5-raw"), Some(old));
        for name in ["yolov5", "yolov5q", "yolov5s66", "yolov56", "yolov5sn", "yolov5s-v7", "yolov5s-", "slowfast"] {
            assert_eq!(named(name), None, "{name}");
        }
    }

    #[test]
    fn channels_and_repeats_round_as_the_official_ones_do() {
        let [n, m, x] = ['n', 'm', 'x'].map(|letter| YoloConfig::of_size(letter).unwrap());
        assert_eq!([3, 6, 9].map(|of_large| n.repeats(of_large)), [1, 2, 3]);
        assert_eq!([3, 6, 9].map(|of_large| m.repeats(of_large)), [2, 4, 6]);
        assert_eq!([3, 6, 9].map(|of_large| x.repeats(of_large)), [4, 8, 12]);
        assert_eq!([n.channels(64), m.channels(64), x.channels(1024)], [16, 48, 1280]);
        assert!(YoloConfig::of_size('q').is_none());
    }

    #[test]
    fn a_focus_stem_becomes_a_6x6_convolution() {
        /// Fills a parameter with consecutive numbers.
        struct Numbered;

        impl Weights for Numbered {
            fn tensor(&mut self, _: &str, shape: &[usize]) -> Result<Vec<f32>> {
                Ok((0..shape.iter().product()).map(|index: usize| index as f32).collect())
            }
        }

        let weight = Unfocused(&mut Numbered).tensor(FOCUS, &[2, 3, 6, 6]).unwrap();
        let at = |filter: usize, colour: usize, row: usize, column: usize| {
            weight[((filter * 3 + colour) * 6 + row) * 6 + column] as usize
        };
        let stacked =
            |filter: usize, channel: usize, row: usize, column: usize| ((filter * 12 + channel) * 3 + row) * 3 + column;
        assert_eq!(at(0, 0, 0, 0), stacked(0, 0, 0, 0));
        assert_eq!(at(1, 2, 3, 4), stacked(1, 3 + 2, 1, 2), "bottom left");
        assert_eq!(at(1, 1, 4, 5), stacked(1, 6 + 1, 2, 2), "top right");
        assert_eq!(at(0, 2, 5, 5), stacked(0, 9 + 2, 2, 2), "bottom right");
    }

    #[test]
    fn a_raw_head_outputs_each_grid() {
        for config in [YoloConfig::of_size('n').unwrap(), YoloConfig::of_size('n').unwrap().p6()] {
            let config =
                YoloConfig { head: HeadOutput::Raw, height: 64, width: 128, generation: Generation::V5, ..config };
            let graph = build(&config, &mut RandomWeights::new(0)).unwrap().graph.unwrap();
            let names: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
            assert_eq!(names, &["raw0", "raw1", "raw2", "raw3"][..config.grids]);
        }
    }

    #[test]
    fn networks_that_do_not_exist_are_refused() {
        let n = YoloConfig::of_size('n').unwrap();
        for (config, why) in [
            (YoloConfig { grids: 5, ..n.clone() }, "3 or 4 grids, not 5"),
            (YoloConfig { height: 96, ..n.clone().p6() }, "96x1280 pixels: both must be multiples of 64"),
            (YoloConfig { classes: 0, ..n.clone() }, "at least one class"),
            (YoloConfig { anchors_per_cell: 4, ..n }, "no official YOLOv5 anchors of the shape [3, 4, 2]"),
        ] {
            let error = build(&config, &mut RandomWeights::new(0)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
