//! The weights of a 3-D convolution, and their rearrangements for lowered convolutions.

use crate::zoo::onnx::TensorProto;

/// Weights `[outputs, inputs, frames, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filters {
    pub(super) shape: [usize; 5],
    pub(super) values: Vec<f32>,
}

impl Filters {
    /// Returns `None` if the tensor is empty or not a float32 tensor with five dimensions.
    pub(super) fn of(tensor: &TensorProto) -> Option<Self> {
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|&length| usize::try_from(length).ok()).collect();
        let shape: [usize; 5] = shape?.try_into().ok()?;
        let values = tensor.floats()?;
        (!values.is_empty() && values.len() == shape.iter().product::<usize>()).then_some(Self { shape, values })
    }

    /// Filters that compute `count` consecutive output frames at once, the first frame's channels first. Each set of
    /// filters is shifted one frame against the one before, so they cover `frames + count - 1` frames in all. Weights
    /// outside a set's own frames are zero.
    pub(super) fn packed(&self, count: usize) -> Self {
        let [outputs, inputs, frames, height, width] = self.shape;
        let shape = [count * outputs, inputs, frames + count - 1, height, width];
        let (seen, all) = (frames * height * width, shape[2] * height * width);
        let mut values = vec![0.0; shape.iter().product()];
        for (filter, packed) in values.chunks_mut(all).enumerate() {
            let (later, filter) = (filter / (outputs * inputs), filter % (outputs * inputs));
            let from = later * height * width;
            packed[from..from + seen].copy_from_slice(&self.values[filter * seen..][..seen]);
        }
        Self { shape, values }
    }

    /// Filters for frames that are stacked as channels, the first frame's channels first.
    pub(super) fn over_channels(&self) -> TwoD {
        let [outputs, inputs, frames, height, width] = self.shape;
        let area = height * width;
        let mut values = Vec::with_capacity(self.values.len());
        for filter in self.values.chunks(inputs * frames * area) {
            for frame in 0..frames {
                for input in 0..inputs {
                    values.extend_from_slice(&filter[(input * frames + frame) * area..][..area]);
                }
            }
        }
        TwoD { shape: [outputs, frames * inputs, height, width], values }
    }

    /// The filters for one of the input frames.
    pub(super) fn at(&self, frame: usize) -> TwoD {
        let [outputs, inputs, frames, height, width] = self.shape;
        let area = height * width;
        let planes = self.values.chunks(frames * area);
        let values = planes.flat_map(|plane| &plane[frame * area..][..area]).copied().collect();
        TwoD { shape: [outputs, inputs, height, width], values }
    }
}

/// Weights `[outputs, inputs, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TwoD {
    pub(super) shape: [usize; 4],
    pub(super) values: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: [usize; 5]) -> Filters {
        Filters { shape, values: (1..=shape.iter().product()).map(|i: usize| i as f32).collect() }
    }

    #[test]
    fn each_set_of_packed_filters_is_shifted_by_one_frame() {
        let packed = counted([1, 2, 3, 1, 1]).packed(2);
        assert_eq!(packed.shape, [2, 2, 4, 1, 1]);
        assert_eq!(packed.values, [1., 2., 3., 0., 4., 5., 6., 0., 0., 1., 2., 3., 0., 4., 5., 6.]);
    }

    #[test]
    fn frames_become_channels_the_first_in_front() {
        let flat = counted([1, 2, 3, 1, 2]).over_channels();
        assert_eq!(flat.shape, [1, 6, 1, 2]);
        assert_eq!(flat.values, [1., 2., 7., 8., 3., 4., 9., 10., 5., 6., 11., 12.]);
        assert_eq!(counted([1, 2, 3, 1, 2]).at(1).values, [3., 4., 9., 10.]);
    }
}
