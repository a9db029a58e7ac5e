//! Runs a detector: the input is letterboxed images, the output is boxes in the frames.

use super::boxes::{Detection, ImageOutput, Thresholds, detections, to_frame};
use super::memory::{InputTensor, Memory};
use super::session::{Model, OutputTensor, Runtime, See, Timed};
use super::slowfast::{batch_dimension, not_a_number, usual_batch};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::zoo::deploy::{CANDIDATES, Deployment, IMAGES, PLACES, SHAPE};
use crate::zoo::descriptor;
use crate::zoo::detector::{Head, detector_tensors};
use crate::zoo::inspect::{ModelInfo, TensorInfo};

/// Images in a batch on a GPU.
const GPU_BATCH: usize = 8;

/// The input tensor of a batch of images.
#[derive(Debug)]
pub struct ImageBatch {
    images: InputTensor,
    /// Width and height of each frame as displayed, pixels.
    frames: Vec<(u32, u32)>,
}

/// Makes the input tensors of a detector.
#[derive(Debug)]
pub struct ImageTensors {
    memory: Memory,
    size: descriptor::Size,
    rows: usize,
}

impl ImageTensors {
    /// A batch of letterboxed images, `[height, width, 3]` bytes, each with the width and height of its frame, padded to the
    /// model's batch size.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn batch(&self, images: &[(&[u8], (u32, u32))]) -> Result<ImageBatch> {
        let descriptor::Size { height, width } = self.size;
        let images_of = |pixels: &mut [u8]| {
            let mut slots = pixels.chunks_exact_mut(height * width * 3);
            images.iter().zip(&mut slots).for_each(|((image, _), slot)| slot.copy_from_slice(image));
            slots.for_each(|slot| slot.fill(0));
        };
        let input = self.memory.input(IMAGES, &[self.rows, height, width, 3], images_of)?;
        Ok(ImageBatch { images: input, frames: images.iter().map(|(_, frame)| *frame).collect() })
    }
}

/// An open detector.
pub struct Detector {
    model: Model,
    /// Names of the outputs: the boxes, or those of the candidates.
    outputs: Vec<String>,
    descriptor: descriptor::DetectorDescriptor,
    thresholds: Thresholds,
    /// Number of images in each batch, padding included.
    rows: usize,
}

impl Detector {
    /// Opens the model that `info` and `descriptor` describe. `batch` is the number of images in each batch, unless the graph
    /// has a fixed one; `None` for the one that suits the device. A model whose output has dynamic dimensions is run once, so
    /// that a wrong descriptor is an error even if no image comes.
    ///
    /// # Errors
    /// As for [`Runtime::open`], and a usage error if the output does not match the descriptor.
    pub fn open(
        runtime: &Runtime,
        info: &ModelInfo,
        descriptor: &descriptor::DetectorDescriptor,
        thresholds: Thresholds,
        batch: Option<usize>,
    ) -> Result<Self> {
        Self::open_version(runtime, Deployment::read(&info.path)?, info, descriptor, thresholds, batch)
    }

    /// As [`Detector::open`], for a version of the model with the same inputs and outputs.
    ///
    /// # Errors
    /// As for [`Detector::open`].
    pub fn open_version(
        runtime: &Runtime,
        mut deployment: Deployment,
        info: &ModelInfo,
        descriptor: &descriptor::DetectorDescriptor,
        thresholds: Thresholds,
        batch: Option<usize>,
    ) -> Result<Self> {
        let tensors = detector_tensors(info)?;
        deployment.take_bytes(&tensors.images.name);
        let boxes = tensors.boxes.name.as_str();
        // OpenVINO fails to compile results that are constant, such as the shape.
        let is_supported = runtime.device() != Device::OpenVino;
        let outputs = match is_supported && deployment.keep_candidates(descriptor.head, boxes, thresholds.confidence) {
            true => vec![CANDIDATES.into(), PLACES.into(), SHAPE.into()],
            false => vec![boxes.into()],
        };
        let batch = batch.unwrap_or(usual_batch(runtime.device(), GPU_BATCH));
        let (rows, fixed) = batch_dimension(tensors.images, batch);
        let model = runtime.open(&deployment, &fixed)?;
        let is_open = |output: &TensorInfo| output.fixed(1).and(output.fixed(2)).is_none();
        // On a GPU, the first run measures which algorithms are fastest, which takes seconds.
        let must_try = is_open(tensors.boxes) || !runtime.device().is_cpu();
        let mut opened = Self { model, outputs, descriptor: descriptor.clone(), thresholds, rows };
        if must_try {
            opened.run(&opened.tensors().batch(&[])?)?;
        }
        Ok(opened)
    }

    /// Number of images in each batch, padding included.
    pub fn batch(&self) -> usize {
        self.rows
    }

    /// Makes the detector's input tensors.
    pub fn tensors(&self) -> ImageTensors {
        ImageTensors { memory: self.model.memory(), size: self.descriptor.size, rows: self.rows }
    }

    /// Passes further outputs of the graph to `see`: the index of the name, the shape and the elements.
    ///
    /// # Errors
    /// As for [`Model::run`].
    pub fn observe(&mut self, batch: &ImageBatch, names: &[&str], see: &mut See<'_>) -> Result<()> {
        self.model.observe(std::slice::from_ref(&batch.images), names, see)
    }

    /// Computes the boxes of each image, strongest first.
    ///
    /// # Errors
    /// As for [`Model::run`], and if the output does not match the descriptor.
    pub fn run(&mut self, batch: &ImageBatch) -> Result<Timed<Vec<Vec<Detection>>>> {
        let (descriptor, thresholds, rows) = (&self.descriptor, &self.thresholds, self.rows);
        let size = (descriptor.size.width, descriptor.size.height);
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        self.model.run_for(std::slice::from_ref(&batch.images), &names, |outputs| {
            let of_frame = |(output, &frame): (ImageOutput<'_>, &(u32, u32))| {
                let found = detections(descriptor.head, output, descriptor.labels.len(), thresholds)?;
                Ok(found.into_iter().map(|found| to_frame(found, descriptor.head, frame, size)).collect())
            };
            let images = match outputs {
                [candidates, places, shape] => candidates_of(descriptor, rows, candidates, places, shape)?,
                [(shape, data)] => boxes_of(descriptor, rows, shape, data)?,
                _ => return Err(Error::failed("the detector has no output")),
            };
            images.into_iter().zip(&batch.frames).map(of_frame).collect()
        })
    }
}

/// The output of each of so many images.
fn boxes_of<'a>(
    descriptor: &descriptor::DetectorDescriptor,
    images: usize,
    shape: &[i64],
    data: &'a [f32],
) -> Result<Vec<ImageOutput<'a>>> {
    let [_, rows, columns] = *shape else { return Err(other_output(descriptor, shape)) };
    if !descriptor.accepts(images, shape) {
        return Err(other_output(descriptor, shape));
    }
    let columns = columns as usize;
    let output = |values| match descriptor.head {
        Head::Yolov5 | Head::Yolov10 => ImageOutput::Rows(values, columns),
        Head::Yolov8 => ImageOutput::Columns(values, columns),
    };
    Ok(data.chunks_exact(rows as usize * columns).map(output).collect())
}

/// The candidates of each of so many images.
fn candidates_of<'a>(
    descriptor: &descriptor::DetectorDescriptor,
    images: usize,
    (shape, data): &OutputTensor<'a>,
    (_, places): &OutputTensor<'_>,
    (_, lengths): &OutputTensor<'_>,
) -> Result<Vec<ImageOutput<'a>>> {
    let whole: Vec<i64> = lengths.iter().map(|&length| length as i64).collect();
    if !descriptor.accepts(images, &whole) {
        return Err(other_output(descriptor, &whole));
    }
    if data.iter().any(|value| value.is_nan()) {
        return Err(not_a_number("the detector"));
    }
    let values = shape.last().map_or(0, |&values| values as usize);
    let (places, _) = places.as_chunks::<2>();
    let mut rest = *data;
    let of_image = |image: usize| {
        let boxes = places.iter().filter(|[number, _]| *number as usize == image).count();
        let (rows, others) = rest.split_at_checked(boxes * values).unwrap_or((rest, &[]));
        rest = others;
        ImageOutput::Rows(rows, values)
    };
    Ok((0..images).map(of_image).collect())
}

fn other_output(descriptor: &descriptor::DetectorDescriptor, shape: &[i64]) -> Error {
    let descriptor::DetectorDescriptor { head, labels, size, .. } = descriptor;
    Error::usage(format!(
        "the detector's output has the shape {shape:?}, which does not match `{}` with {} classes at {size} pixels",
        head.kind(),
        labels.len()
    ))
    .with_hint("`kind`, `labels` and `side` are set in the TOML file beside the model")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::zoo::descriptor::{DetectorDescriptor, Labels, Origin, Size};

    #[test]
    fn each_image_gets_its_own_candidates_and_a_score_that_is_not_a_number_is_an_error() {
        let labels = Labels::List(vec!["person".into()]);
        let size = Size::square(32);
        let descriptor = DetectorDescriptor { head: Head::Yolov5, labels, size, weights: Origin::Random };
        let places = [0.0, 3.0, 0.0, 9.0, 2.0, 1.0];
        let found = |rows: &[f32]| {
            let outputs = (&[3, 6][..], rows);
            let found = candidates_of(&descriptor, 3, &outputs, &(&[3, 2], &places), &(&[3], &[3.0, 63.0, 6.0]));
            found.map(|images| images.iter().map(|output| format!("{output:?}")).collect::<Vec<_>>())
        };
        let rows: Vec<f32> = (0..18_u8).map(f32::from).collect();
        assert_eq!(
            found(&rows).unwrap(),
            [ImageOutput::Rows(&rows[..12], 6), ImageOutput::Rows(&[], 6), ImageOutput::Rows(&rows[12..], 6)]
                .map(|o| format!("{o:?}"))
        );
        let broken: Vec<f32> = rows.iter().map(|&value| if value == 4.0 { f32::NAN } else { value }).collect();
        assert!(found(&broken).unwrap_err().to_string().contains("not a number"));
    }
}
