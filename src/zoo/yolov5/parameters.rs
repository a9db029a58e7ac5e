//! The parameters of a YOLOv5: their official names, and their values before training.

use crate::error::{Error, Result};

/// Pixels per cell of the grids. Only a P6 has the last one.
pub(crate) const STRIDES: [usize; 4] = [8, 16, 32, 64];
/// Names of the detection layer with three and with four grids.
pub(super) const DETECT: [&str; 2] = ["model.24", "model.33"];
/// Name of the Focus stem's weight.
pub(crate) const FOCUS: &str = "model.0.conv.conv.weight";

/// The official anchors of three grids, pixels: three (width, height) per grid.
const ANCHORS_P5: [[f32; 6]; 3] = [
    [10.0, 13.0, 16.0, 30.0, 33.0, 23.0],
    [30.0, 61.0, 62.0, 45.0, 59.0, 119.0],
    [116.0, 90.0, 156.0, 198.0, 373.0, 326.0],
];
/// The official anchors of four grids, pixels.
const ANCHORS_P6: [[f32; 6]; 4] = [
    [19.0, 27.0, 44.0, 40.0, 38.0, 94.0],
    [96.0, 68.0, 86.0, 152.0, 180.0, 137.0],
    [140.0, 301.0, 303.0, 264.0, 238.0, 542.0],
    [436.0, 615.0, 739.0, 380.0, 925.0, 792.0],
];
const ANCHORS_PER_CELL: usize = 3;

/// The official anchors as `model.24.anchors` stores them: in units of their grid's cells, `[grids, 3, 2]`.
///
/// # Errors
/// If no official model has anchors of this shape.
pub(crate) fn official_anchors(shape: &[usize]) -> Result<Vec<f32>> {
    let in_pixels: &[[f32; 6]] = match shape {
        [3, ANCHORS_PER_CELL, 2] => &ANCHORS_P5,
        [4, ANCHORS_PER_CELL, 2] => &ANCHORS_P6,
        _ => return Err(Error::usage(format!("there are no official YOLOv5 anchors of the shape {shape:?}"))),
    };
    let in_cells = in_pixels.iter().zip(STRIDES).flat_map(|(grid, stride)| grid.map(|pixels| pixels / stride as f32));
    Ok(in_cells.collect())
}

/// The grid whose head this layer is, if it is one (`model.24.m.1` is 1).
pub(crate) fn detect_level(layer: &str) -> Option<usize> {
    let level = DETECT.iter().find_map(|detect| layer.strip_prefix(detect)?.strip_prefix(".m."));
    level?.parse().ok().filter(|&level: &usize| level < STRIDES.len())
}

/// The head's biases before the official training: eight objects in a 640x640 picture, and equal frequencies of all
/// classes. `count` is three times 5 + classes.
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

/// Whether this batch norm is the last before a shortcut's addition (`model.2.m.0.cv2.bn` in the backbone).
pub(crate) fn ends_shortcut(layer: &str) -> bool {
    let in_backbone = ["model.2.m.", "model.4.m.", "model.6.m.", "model.8.m.", "model.10.m."];
    layer.ends_with(".cv2.bn") && in_backbone.iter().any(|prefix| layer.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrained_head_predicts_eight_objects_per_picture() {
        let bias = initial_detect_bias(0, 3 * 85);
        assert_eq!(&bias[..4], [0.0; 4]);
        assert!((bias[4] - (8f32 / 6400.0).ln()).abs() < 1e-6);
        assert!((bias[5] - (0.6f32 / 79.0).ln()).abs() < 1e-4);
        assert_eq!(bias[85..170], bias[..85]);
    }

    #[test]
    fn official_names_distinguish_the_layers() {
        assert_eq!(detect_level("model.24.m.2"), Some(2));
        assert_eq!(detect_level("model.33.m.3"), Some(3));
        assert_eq!(detect_level("model.23.m.0"), None);
        assert!(ends_shortcut("model.4.m.1.cv2.bn"));
        assert!(!ends_shortcut("model.4.cv2.bn") && !ends_shortcut("model.13.m.0.cv2.bn"));
    }
}
