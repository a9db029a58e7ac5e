//! How long a model takes for one sample.

use std::path::Path;

use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::work::models::{ActionModel, PersonModel};
use crate::zoo::descriptor::Descriptor;
use crate::zoo::inspect::ModelInfo;

/// Runs that are measured, after one that plans the graph.
const RUNS: usize = 5;

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
    let mut bare = match (&job.actions, &job.persons) {
        (Some(actions), _) => ActionModel::read(actions)?.open_bare(runtime, Some(1)),
        (None, Some(persons)) => PersonModel::read(persons)?.open_bare(runtime, Some(1)),
        (None, None) => Err(Error::failed(format!("{} has no section", model.display()))),
    }?;
    bare.run()?;
    let mut seconds = (0..RUNS).map(|_| Ok(bare.run()? / bare.batch as f64)).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(1e3 * seconds[RUNS / 2])
}
