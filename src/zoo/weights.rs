//! Sources of a model's weights: a seed, or a `.safetensors` file. Both are queried by the official parameter names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::zoo::yolov5::parameters;

/// A source of parameters, queried by the names in PyTorchVideo's and YOLOv5's own checkpoints
/// (`blocks.0.multipathway_blocks.0.conv.weight`, `model.24.m.0.bias`).
pub trait Weights {
    /// Returns the parameter `name` with exactly this shape, row-major.
    ///
    /// # Errors
    /// If there is no such parameter or it has another shape. The message names it.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// Call it once, after the last parameter.
    ///
    /// # Errors
    /// If there are parameters that were not requested, because the weights belong to another network.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Random weights with which a network behaves numerically like a trained one: activations keep a variance of about one
/// from the first layer to the last, class scores are spread out, and a YOLOv5 detects almost nothing.
///
/// Every parameter has its own random stream, derived from the seed and its name. So the same seed gives the same
/// weights regardless of the rest of the network. The official names show the role of a parameter in the network.
#[derive(Debug, Clone)]
pub struct RandomWeights {
    seed: u64,
}

/// Variance of relu(z) and silu(z) for a standard normal z (0.34 and 0.31), by which a layer divides.
const ACTIVATION_VARIANCE: f32 = 0.33;
/// Second moment of the first layer's input: about 1 for normalised clips, about this for pictures in 0..1.
const PICTURE_MOMENT: f32 = 0.3;
/// Scale of a residual branch's last convolution relative to the shortcut, so that sums over many blocks do not grow.
const BRANCH_GAIN: f32 = 0.3;
/// Standard deviation of a batch norm's shift.
const SHIFT: f32 = 0.1;
/// Approximate standard deviation of the class scores before softmax.
const LOGIT_GAIN: f32 = 4.0;

impl RandomWeights {
    /// Weights for this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn normal(&self, name: &str, count: usize, deviation: f32) -> Vec<f32> {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(name.as_bytes());
        let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
        (0..count)
            .map(|_| {
                let z: f32 = StandardNormal.sample(&mut rng);
                z * deviation
            })
            .collect()
    }

    /// Weights whose filters sum to zero, except for those that read the picture. Later layers then receive the
    /// variation within the picture, rather than the mean of earlier activations, which would dominate after a few
    /// layers.
    fn filters(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let count = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let reads_picture = shape.get(1) == Some(&3) || name == parameters::FOCUS;
        let sees_time = shape.len() == 5;
        let input = match (reads_picture, sees_time) {
            (true, true) => 1.0,
            (true, false) => PICTURE_MOMENT,
            (false, _) => ACTIVATION_VARIANCE,
        };
        let mut values = self.normal(name, count, (1.0 / (fan_in.max(1) as f32 * input)).sqrt());
        if !reads_picture && fan_in > 1 {
            for filter in values.chunks_mut(fan_in) {
                let mean = filter.iter().sum::<f32>() / fan_in as f32;
                filter.iter_mut().for_each(|w| *w -= mean);
            }
        }
        values
    }
}

impl Weights for RandomWeights {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let count: usize = shape.iter().product();
        let (path, leaf) = name.rsplit_once('.').unwrap_or(("", name));
        Ok(match leaf {
            "running_mean" => vec![0.0; count],
            "running_var" => vec![1.0; count],
            "anchors" => parameters::official_anchors(shape)?,
            "weight" if shape.len() == 1 => vec![if ends_branch(path) { BRANCH_GAIN } else { 1.0 }; count],
            "weight" if path.ends_with("proj") => {
                let mut values = self.filters(name, shape);
                values.iter_mut().for_each(|w| *w *= LOGIT_GAIN);
                values
            }
            "weight" => self.filters(name, shape),
            "bias" => match parameters::detect_level(path) {
                Some(level) => parameters::initial_detect_bias(level, count),
                None if path.ends_with("proj") => vec![0.0; count],
                None => self.normal(name, count, SHIFT),
            },
            _ => return Err(Error::failed(format!("no rule for random values of the parameter `{name}`"))),
        })
    }
}

/// Whether this batch norm is the last of a residual branch: `branch2.norm_c` of SlowFast, `m.N.cv2.bn` of YOLOv5's
/// backbone.
fn ends_branch(path: &str) -> bool {
    path.ends_with("branch2.norm_c") || parameters::ends_shortcut(path)
}

/// A `.safetensors` file with float tensors (32 bit, 16 bit, bfloat16) under the official names.
#[derive(Debug)]
pub struct SafeTensors {
    path: PathBuf,
    data: Bytes,
    /// Parameters that were not requested yet.
    left: BTreeMap<String, Entry>,
}

#[derive(Debug, serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

impl SafeTensors {
    /// Reads the whole file.
    ///
    /// # Errors
    /// If it cannot be read or is not a `.safetensors` file.
    pub fn read(path: &Path) -> Result<Self> {
        let broken = |why: String| Error::usage(format!("{}: not a .safetensors file: {why}", path.display()));
        let mut data = std::fs::read(path)
            .map(Bytes::from)
            .map_err(|error| Error::usage(format!("{}: failed to read: {error}", path.display())))?;
        let length = data.try_get_u64_le().map_err(|_| broken("the file is shorter than its header".into()))?;
        let length = usize::try_from(length).ok().filter(|&length| length <= data.len());
        let header = data.split_to(length.ok_or_else(|| broken("the header is longer than the file".into()))?);
        let header: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| broken(error.to_string()))?;
        let mut left = BTreeMap::new();
        for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let entry: Entry = serde_json::from_value(value).map_err(|error| broken(format!("`{name}`: {error}")))?;
            if entry.data_offsets[0] > entry.data_offsets[1] || entry.data_offsets[1] > data.len() {
                return Err(broken(format!("`{name}` is outside of the file")));
            }
            left.insert(name, entry);
        }
        Ok(Self { path: path.to_owned(), data, left })
    }

    /// Names and shapes of all parameters.
    pub(super) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.left.iter().map(|(name, entry)| (name.clone(), entry.shape.clone())).collect()
    }

    fn mistake(&self, what: String) -> Error {
        Error::usage(format!("{}: {what}", self.path.display()))
            .with_hint("the file must hold exactly this model's parameters, under their official names")
    }
}

impl Weights for SafeTensors {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.left.remove(name).ok_or_else(|| self.mistake(format!("the parameter `{name}` is missing")))?;
        if entry.shape != shape {
            return Err(
                self.mistake(format!("`{name}` has the shape {:?}, but the model needs {shape:?}", entry.shape))
            );
        }
        let raw = &self.data[entry.data_offsets[0]..entry.data_offsets[1]];
        let (pairs, rest) = raw.as_chunks::<2>();
        let values: Vec<f32> = match entry.dtype.as_str() {
            "F32" => raw.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect(),
            "F16" => pairs.iter().map(|&word| half_to_f32(u16::from_le_bytes(word))).collect(),
            "BF16" => pairs.iter().map(|&[low, high]| f32::from_le_bytes([0, 0, low, high])).collect(),
            other => return Err(self.mistake(format!("`{name}` holds {other}, not F32, F16 or BF16"))),
        };
        if !rest.is_empty() || values.len() != shape.iter().product::<usize>() {
            return Err(self.mistake(format!("`{name}` has a length that does not match its shape")));
        }
        Ok(values)
    }

    fn finish(&mut self) -> Result<()> {
        // Training counters and YOLOv5's copy of the anchors in pixels are not part of any network.
        let extra = |name: &&String| !name.ends_with(".num_batches_tracked") && !name.ends_with(".anchor_grid");
        match self.left.keys().filter(extra).collect::<Vec<_>>().as_slice() {
            [] => Ok(()),
            [first, others @ ..] => Err(self.mistake(match others.len() {
                0 => format!("the parameter `{first}` is not part of this model"),
                more => format!("the parameter `{first}` (and {more} more) is not part of this model"),
            })),
        }
    }
}

/// Converts IEEE 754 half precision to single precision, exactly.
pub(super) fn half_to_f32(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((half >> 10) & 0x1f);
    let fraction = f32::from(half & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn safetensors(entries: &[(&str, &str, &[usize], &[u8])]) -> tempfile::NamedTempFile {
        let mut header = serde_json::Map::new();
        let mut data = Vec::new();
        for (name, dtype, shape, raw) in entries {
            let offsets = [data.len(), data.len() + raw.len()];
            header.insert((*name).into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            data.extend_from_slice(raw);
        }
        let header = serde_json::to_vec(&header).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn random_parameters_depend_only_on_seed_and_name() {
        let draw = |seed, name: &str| RandomWeights::new(seed).tensor(name, &[4, 5, 3, 3]).unwrap();
        assert_eq!(draw(1, "a.weight"), draw(1, "a.weight"));
        assert_ne!(draw(1, "a.weight"), draw(2, "a.weight"));
        assert_ne!(draw(1, "a.weight"), draw(1, "b.weight"));
    }

    #[test]
    fn random_filters_sum_to_zero_and_have_the_variance_asked_for() {
        let values = RandomWeights::new(7).tensor("blocks.1.conv_a.weight", &[64, 64, 3, 3]).unwrap();
        let fan_in = 64 * 9;
        let variance = values.iter().map(|w| w * w).sum::<f32>() / values.len() as f32;
        assert!((variance * fan_in as f32 * ACTIVATION_VARIANCE - 1.0).abs() < 0.05);
        assert!(values.chunks(fan_in).all(|filter| filter.iter().sum::<f32>().abs() < 1e-4));
    }

    #[test]
    fn safetensors_are_read_in_every_float_type() {
        let file = safetensors(&[
            ("single", "F32", &[2], &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]),
            ("half", "F16", &[2, 1], &[0x00, 0x3c, 0x01, 0x00]),
            ("brain", "BF16", &[1], &[0x80, 0xbf]),
            ("bn.num_batches_tracked", "I64", &[], &[0; 8]),
        ]);
        let mut weights = SafeTensors::read(file.path()).unwrap();
        assert_eq!(weights.tensor("single", &[2]).unwrap(), [1.0, -2.0]);
        assert_eq!(weights.tensor("half", &[2, 1]).unwrap(), [1.0, 2f32.powi(-24)]);
        assert_eq!(weights.tensor("brain", &[1]).unwrap(), [-1.0]);
        weights.finish().unwrap();
    }

    #[test]
    fn a_missing_misshapen_or_superfluous_parameter_is_named() {
        let file = safetensors(&[("model.0.conv.weight", "F32", &[1], &[0; 4]), ("spare", "F32", &[1], &[0; 4])]);
        let mut weights = SafeTensors::read(file.path()).unwrap();
        assert!(weights.tensor("nowhere", &[1]).unwrap_err().to_string().contains("`nowhere` is missing"));
        let error = weights.tensor("model.0.conv.weight", &[2]).unwrap_err().to_string();
        assert!(error.contains("`model.0.conv.weight` has the shape [1], but the model needs [2]"), "{error}");
        assert!(weights.finish().unwrap_err().to_string().contains("`spare` is not part of this model"));
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in [&b"abc"[..], &[0xff; 64], &b"\x02\0\0\0\0\0\0\0[]"[..]] {
            std::fs::write(file.path(), content).unwrap();
            assert!(SafeTensors::read(file.path()).unwrap_err().to_string().contains("not a .safetensors file"));
        }
    }
}
