//! Models without the rest of the pipeline, to measure them.

use half::f16;

use super::{ActionModel, PersonModel};
use crate::error::{Error, Result};
use crate::infer::detector::Detector;
use crate::infer::person_actions::PersonActions;
use crate::infer::session::Runtime;
use crate::zoo::descriptor;

/// A model that runs blank inputs.
pub struct BareModel {
    /// The model's id, as in the tables.
    pub id: String,
    /// Number of inputs in a batch.
    pub batch: usize,
    run: Box<dyn FnMut() -> Result<f64> + Send>,
}

impl BareModel {
    /// Runs a batch of blank inputs. Returns the seconds that it took.
    ///
    /// # Errors
    /// If the model fails.
    pub fn run(&mut self) -> Result<f64> {
        (self.run)()
    }
}

impl ActionModel {
    /// Opens the model to measure it, with batches of this size (`None` for the usual one) if the graph supports it.
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_bare(&self, runtime: &Runtime, batch: Option<usize>) -> Result<BareModel> {
        let descriptor::SlowFastDescriptor { frames, side, .. } = self.descriptor;
        let id = self.info.model_id();
        // Of a video of 16:9.
        let Some((width, height)) = self.clips.size(16, 9) else { return Err(Error::failed("no size of a clip")) };
        let clip = vec![f16::ZERO; 3 * frames * height * width];
        if self.descriptor.persons {
            let mut model = PersonActions::open(runtime, &self.info, &self.descriptor)?;
            let person = [0.0, 0.0, side as f32 / 2.0, side as f32 - 1.0];
            let tensors = model.tensors();
            let run = move || Ok(model.run(&tensors.clip(&clip, (width, height), &[person])?)?.seconds);
            return Ok(BareModel { id, batch: 1, run: Box::new(run) });
        }
        let mut model = self.open_clips(runtime, batch)?;
        let (tensors, batch, of_job) = (model.tensors(), model.batch(), self.clone());
        let run = move || {
            let views: Vec<_> =
                of_job.views_of(&clip, (width, height)).into_iter().cycle().take(batch * of_job.views()).collect();
            views.chunks(batch).map(|views| Ok(model.run(&tensors.batch(views)?)?.seconds)).sum()
        };
        Ok(BareModel { id, batch, run: Box::new(run) })
    }
}

impl PersonModel {
    /// As [`ActionModel::open_bare`].
    ///
    /// # Errors
    /// As for [`Runtime::open`].
    pub fn open_bare(&self, runtime: &Runtime, batch: Option<usize>) -> Result<BareModel> {
        let mut model = Detector::open(runtime, &self.info, &self.descriptor, self.thresholds.clone(), batch)?;
        let (tensors, batch) = (model.tensors(), model.batch());
        let (width, height) = self.images.size();
        let image = vec![0; height * width * 3];
        let frame = (width as u32, height as u32);
        let run = move || Ok(model.run(&tensors.batch(&vec![(&image[..], frame); batch])?)?.seconds);
        Ok(BareModel { id: self.info.model_id(), batch, run: Box::new(run) })
    }
}
