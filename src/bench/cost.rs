//! How long a model takes for one sample.

use std::path::Path;
use std::time::Duration;

use super::median_seconds;
use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::work::models::{ActionModel, PersonModel};
use crate::zoo::descriptor::Descriptor;
use crate::zoo::inspect::ModelInfo;

/// How long each model is run, at least a few times.
const TIME: Duration = Duration::from_secs(1);

/// The median time, in milliseconds, that a model takes for one clip or picture on the runtime's device.
///
/// # Errors
/// If the model cannot be read, opened or run.
pub fn milliseconds(runtime: &Runtime, model: &Path) -> Result<f64> {
    let section = match Descriptor::for_model(&ModelInfo::read(model)?)? {
        Descriptor::SlowFast(_) => "actions",
        Descriptor::Detector(_) => "persons",
    };
    let quoted = toml::Value::from(model.to_string_lossy().into_owned());
    let text = format!("[input]\nuri = \".\"\n[output]\nuri = \".\"\n[{section}]\nmodel = {quoted}\n");
    let job = Job::parse(&model.display().to_string(), &text, &[])?;
    // One sample at a time, with all cores.
    let runtime = runtime.with_streams(1);
    let bare = match (&job.actions, &job.persons) {
        (Some(actions), _) => ActionModel::read(actions)?.open_bare(&runtime, Some(1)),
        (None, Some(persons)) => PersonModel::read(persons)?.open_bare(&runtime, Some(1)),
        (None, None) => Err(Error::failed(format!("{} has no section", model.display()))),
    }?;
    let batch = bare.batch as f64;
    Ok(1e3 * median_seconds(TIME, vec![bare])? / batch)
}
