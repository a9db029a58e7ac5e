//! YOLOv5 (release 6: 6x6 stem, SPPF) with the official parameter names, decoded as its `export.py` writes it.
//!
//! A CSP backbone, a neck that goes up and down the feature pyramid (PAN), and a head that says for each of three
//! anchors in every cell of three grids: where, how large, whether there is something, and what.

use crate::error::{Error, Result};
use crate::zoo::graph::{BatchNorm, GraphBuilder, Value, Window};
use crate::zoo::onnx::ModelProto;
use crate::zoo::weights::Weights;

/// Name of the input, `[batch, 3, height, width]`, RGB in 0..1.
pub const INPUT: &str = "images";
/// Name of the output, `[batch, boxes, 5 + classes]`: centre, width and height in pixels of the input, objectness, and a
/// score for each class.
pub const OUTPUT: &str = "output0";
/// Pixels to a cell of the three grids.
pub const STRIDES: [usize; 3] = [8, 16, 32];

/// YOLOv5's batch norms add this to the variance.
const EPSILON: f32 = 1e-3;
/// The official anchors, in pixels: three (width, height) to a grid.
const ANCHORS: [[f32; 6]; 3] = [
    [10.0, 13.0, 16.0, 30.0, 33.0, 23.0],
    [30.0, 61.0, 62.0, 45.0, 59.0, 119.0],
    [116.0, 90.0, 156.0, 198.0, 373.0, 326.0],
];
const ANCHORS_PER_CELL: usize = 3;
/// Number of the detection layer in the official names.
const DETECT: usize = 24;

/// Which YOLOv5.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How often blocks are repeated, of the large model's count.
    pub depth_multiple: f64,
    /// How many channels, of the large model's count.
    pub width_multiple: f64,
    /// How many classes.
    pub classes: usize,
    /// Height of the input, a multiple of 32.
    pub height: usize,
    /// Width of the input, a multiple of 32.
    pub width: usize,
}

impl Config {
    /// The official size of this letter (`n`, `s`, `m`, `l`, `x`) for COCO at 640x640.
    pub fn of_size(letter: char) -> Option<Self> {
        let (depth_multiple, width_multiple) = match letter {
            'n' => (0.33, 0.25),
            's' => (0.33, 0.50),
            'm' => (0.67, 0.75),
            'l' => (1.00, 1.00),
            'x' => (1.33, 1.25),
            _ => return None,
        };
        Some(Self { depth_multiple, width_multiple, classes: 80, height: 640, width: 640 })
    }

    /// Channels: of the large model's count, rounded up to a multiple of 8.
    fn channels(&self, of_large: usize) -> usize {
        (of_large as f64 * self.width_multiple / 8.0).ceil() as usize * 8
    }

    /// Repeats: of the large model's count, at least one.
    fn repeats(&self, of_large: usize) -> usize {
        ((of_large as f64 * self.depth_multiple).round_ties_even() as usize).max(1)
    }

    fn check(&self) -> Result<()> {
        let largest = STRIDES[2];
        let fits = |side: usize| side > 0 && side.is_multiple_of(largest);
        if !fits(self.height) || !fits(self.width) {
            let (height, width) = (self.height, self.width);
            return Err(Error::usage(format!(
                "no YOLOv5 takes {height}x{width} pixels: both must be multiples of {largest}"
            )));
        }
        if self.classes == 0 {
            return Err(Error::usage("a YOLOv5 needs at least one class"));
        }
        Ok(())
    }
}

/// Writes the network. Layer numbers are those of the official `yolov5*.yaml`; upsampling and concatenation have
/// numbers too, but no parameters.
///
/// # Errors
/// When there is no such network, or the weights are not its own.
pub fn build(config: &Config, weights: &mut dyn Weights) -> Result<ModelProto> {
    config.check()?;
    let mut builder = GraphBuilder::new("yolov5", weights);
    let images = builder.input(INPUT, &[3, config.height, config.width]);
    let mut net = Net { graph: &mut builder, config };

    let x = net.stem(0, &images, 64)?;
    let x = net.halve(1, &x, 128)?;
    let x = net.c3(2, &x, 128, 3, true)?;
    let x = net.halve(3, &x, 256)?;
    let eighth = net.c3(4, &x, 256, 6, true)?;
    let x = net.halve(5, &eighth, 512)?;
    let sixteenth = net.c3(6, &x, 512, 9, true)?;
    let x = net.halve(7, &sixteenth, 1024)?;
    let x = net.c3(8, &x, 1024, 3, true)?;
    let x = net.sppf(9, &x, 1024)?;

    let top = net.pointwise(10, &x, 512)?;
    let x = net.up_beside(&top, &sixteenth);
    let x = net.c3(13, &x, 512, 3, false)?;
    let middle = net.pointwise(14, &x, 256)?;
    let x = net.up_beside(&middle, &eighth);
    let small = net.c3(17, &x, 256, 3, false)?;
    let x = net.halve(18, &small, 256)?;
    let x = net.graph.concat(&[&x, &middle], 0);
    let medium = net.c3(20, &x, 512, 3, false)?;
    let x = net.halve(21, &medium, 512)?;
    let x = net.graph.concat(&[&x, &top], 0);
    let large = net.c3(23, &x, 1024, 3, false)?;

    let boxes = net.detect(&[small, medium, large])?;
    builder.output(&boxes, OUTPUT);
    builder.finish()
}

struct Net<'g, 'w> {
    graph: &'g mut GraphBuilder<'w>,
    config: &'g Config,
}

impl Net<'_, '_> {
    /// Convolution, batch norm, SiLU.
    fn conv(&mut self, name: &str, input: &Value, channels: usize, window: &Window) -> Result<Value> {
        let norm = format!("{name}.bn");
        let norm = BatchNorm { name: &norm, epsilon: EPSILON, biased: false };
        let value = self.graph.conv(&format!("{name}.conv"), input, channels, window, Some(norm))?;
        Ok(self.graph.silu(&value))
    }

    fn conv1(&mut self, name: &str, input: &Value, channels: usize) -> Result<Value> {
        self.conv(name, input, channels, &Window::valid(&[1, 1], &[1, 1]))
    }

    fn stem(&mut self, layer: usize, input: &Value, of_large: usize) -> Result<Value> {
        let window = Window { padding: vec![2, 2], ..Window::valid(&[6, 6], &[2, 2]) };
        self.conv(&format!("model.{layer}"), input, self.config.channels(of_large), &window)
    }

    fn halve(&mut self, layer: usize, input: &Value, of_large: usize) -> Result<Value> {
        let channels = self.config.channels(of_large);
        self.conv(&format!("model.{layer}"), input, channels, &Window::same(&[3, 3], &[2, 2]))
    }

    fn pointwise(&mut self, layer: usize, input: &Value, of_large: usize) -> Result<Value> {
        self.conv1(&format!("model.{layer}"), input, self.config.channels(of_large))
    }

    /// Half the channels through a row of bottlenecks, half past them.
    fn c3(&mut self, layer: usize, input: &Value, of_large: usize, repeats: usize, shortcut: bool) -> Result<Value> {
        let name = format!("model.{layer}");
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

    /// Spatial pyramid pooling: windows of 5, 9 and 13 by three pools of 5 in a row.
    fn sppf(&mut self, layer: usize, input: &Value, of_large: usize) -> Result<Value> {
        let name = format!("model.{layer}");
        let one = self.conv1(&format!("{name}.cv1"), input, input.shape[0] / 2)?;
        let window = Window::same(&[5, 5], &[1, 1]);
        let five = self.graph.max_pool(&one, &window);
        let nine = self.graph.max_pool(&five, &window);
        let thirteen = self.graph.max_pool(&nine, &window);
        let all = self.graph.concat(&[&one, &five, &nine, &thirteen], 0);
        self.conv1(&format!("{name}.cv2"), &all, self.config.channels(of_large))
    }

    fn up_beside(&mut self, small: &Value, large: &Value) -> Value {
        let up = self.graph.upsample_twice(small);
        self.graph.concat(&[&up, large], 0)
    }

    fn detect(&mut self, levels: &[Value; 3]) -> Result<Value> {
        let anchors = self.graph.parameter(&format!("model.{DETECT}.anchors"), &[3, ANCHORS_PER_CELL, 2])?;
        let mut boxes = Vec::with_capacity(levels.len());
        for (level, features) in levels.iter().enumerate() {
            let of_level = &anchors[level * ANCHORS_PER_CELL * 2..][..ANCHORS_PER_CELL * 2];
            boxes.push(self.detect_level(level, features, of_level)?);
        }
        Ok(self.graph.concat(&boxes.iter().collect::<Vec<_>>(), 0))
    }

    /// One grid's boxes, `[anchors x height x width, 5 + classes]`: the centre at most half a cell outside of its own,
    /// the size at most four times its anchor's.
    fn detect_level(&mut self, level: usize, features: &Value, anchors: &[f32]) -> Result<Value> {
        let columns = 5 + self.config.classes;
        let (height, width) = (features.shape[1], features.shape[2]);
        let stride = STRIDES[level] as f32;
        let window = Window::valid(&[1, 1], &[1, 1]);
        let graph = &mut *self.graph;
        let name = format!("model.{DETECT}.m.{level}");
        let raw = graph.conv(&name, features, ANCHORS_PER_CELL * columns, &window, None)?;
        let raw = graph.reshape(&raw, &[ANCHORS_PER_CELL, columns, height, width]);
        let raw = graph.transpose(&raw, &[0, 2, 3, 1]);
        let scores = graph.sigmoid(&raw);
        let parts = graph.split(&scores, 3, &[2, 2, columns - 4]);

        // (2 s - 0.5 + cell) * stride
        let cells: Vec<f32> = (0..height * width)
            .flat_map(|cell| [cell % width, cell / width])
            .map(|cell| (cell as f32 - 0.5) * stride)
            .collect();
        let cells = graph.constant(&[1, height, width, 2], &cells);
        let reach = graph.constant(&[1, 1, 1, 2], &[2.0 * stride; 2]);
        let centre = graph.mul(&parts[0], &reach);
        let centre = graph.add(&centre, &cells);

        // (2 s)^2 * anchor
        let sizes: Vec<f32> = anchors.iter().map(|in_cells| in_cells * stride * 4.0).collect();
        let sizes = graph.constant(&[ANCHORS_PER_CELL, 1, 1, 2], &sizes);
        let size = graph.mul(&parts[1], &parts[1]);
        let size = graph.mul(&size, &sizes);

        let boxes = graph.concat(&[&centre, &size, &parts[2]], 3);
        Ok(graph.reshape(&boxes, &[ANCHORS_PER_CELL * height * width, columns]))
    }
}

/// The official anchors as `model.24.anchors` holds them: in cells of their grid, `[3, 3, 2]`.
pub(crate) fn default_anchors_in_cells() -> Vec<f32> {
    ANCHORS.iter().zip(STRIDES).flat_map(|(level, stride)| level.map(|pixels| pixels / stride as f32)).collect()
}

/// Which grid's head this layer is, if it is one (`model.24.m.1` is 1).
pub(crate) fn detect_level(layer: &str) -> Option<usize> {
    let level = layer.strip_prefix(&format!("model.{DETECT}.m."))?.parse().ok()?;
    (level < STRIDES.len()).then_some(level)
}

/// The head's biases at the start of the official training: eight objects to a 640x640 picture, every class as rare as
/// the others. `count` is three times 5 + classes.
pub(crate) fn initial_detect_bias(level: usize, count: usize) -> Vec<f32> {
    let columns = count / ANCHORS_PER_CELL;
    let cells = (640.0 / STRIDES[level] as f32).powi(2);
    let objectness = (8.0 / cells).ln();
    let class = (0.6 / (columns as f32 - 5.0 - 0.99999)).ln();
    (0..count)
        .map(|index| match index % columns {
            0..4 => 0.0,
            4 => objectness,
            _ => class,
        })
        .collect()
}

/// Whether this batch norm is the last before a shortcut's addition (`model.2.m.0.cv2.bn`, in the backbone).
pub(crate) fn ends_shortcut(layer: &str) -> bool {
    let in_backbone = ["model.2.m.", "model.4.m.", "model.6.m.", "model.8.m."];
    layer.ends_with(".cv2.bn") && in_backbone.iter().any(|prefix| layer.starts_with(prefix))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn channels_and_repeats_round_as_the_official_ones_do() {
        let [n, m, x] = ['n', 'm', 'x'].map(|letter| Config::of_size(letter).unwrap());
        assert_eq!([3, 6, 9].map(|of_large| n.repeats(of_large)), [1, 2, 3]);
        assert_eq!([3, 6, 9].map(|of_large| m.repeats(of_large)), [2, 4, 6]);
        assert_eq!([3, 6, 9].map(|of_large| x.repeats(of_large)), [4, 8, 12]);
        assert_eq!([n.channels(64), m.channels(64), x.channels(1024)], [16, 48, 1280]);
        assert!(Config::of_size('q').is_none());
    }

    #[test]
    fn an_untrained_head_sees_eight_objects_in_a_picture() {
        let bias = initial_detect_bias(0, 3 * 85);
        assert_eq!(&bias[..4], [0.0; 4]);
        assert!((bias[4] - (8f32 / 6400.0).ln()).abs() < 1e-6);
        assert!((bias[5] - (0.6f32 / 79.0).ln()).abs() < 1e-4);
        assert_eq!(bias[85..170], bias[..85]);
    }

    #[test]
    fn official_names_tell_the_layers_apart() {
        assert_eq!(detect_level("model.24.m.2"), Some(2));
        assert_eq!(detect_level("model.23.m.0"), None);
        assert!(ends_shortcut("model.4.m.1.cv2.bn"));
        assert!(!ends_shortcut("model.4.cv2.bn") && !ends_shortcut("model.13.m.0.cv2.bn"));
    }
}
