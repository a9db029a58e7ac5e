//! `vidindex models list`.

use std::path::Path;

use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::zoo::descriptor::Descriptor;
use crate::zoo::registry::{MODELS, Official};
use crate::{bench, console};

/// Prints a table for humans, or JSON. Local models are searched in `out`, and measured if there is a runtime for that.
pub(super) fn print(out: &Path, runtime: Option<&Runtime>, json: bool) -> Result<()> {
    let here = |name: &str| Some(out.join(format!("{name}.onnx"))).filter(|path| path.is_file());
    if runtime.is_some() && !MODELS.iter().any(|model| here(model.name).is_some()) {
        return Err(Error::usage(format!("there are no models in {} to measure", out.display())).with_hint(
            "`vidindex models pull NAME` downloads one, `models build NAME` makes one with random weights",
        ));
    }
    let mut costs = Vec::with_capacity(MODELS.len());
    for model in MODELS {
        let cost = match (runtime, here(model.name)) {
            (Some(runtime), Some(path)) => {
                tracing::info!(model = model.name, "measuring");
                Some(bench::milliseconds(runtime, &path)?)
            }
            _ => None,
        };
        costs.push(cost);
    }
    if json {
        let official = |official: Official| {
            let accuracy = official.accuracy.iter().map(|&(metric, percent)| (metric.to_owned(), percent.into()));
            serde_json::json!({
                "url": format!("{}{}", official.base, official.file),
                "licence": official.licence,
                "accuracy_percent": accuracy.collect::<serde_json::Map<_, _>>(),
            })
        };
        let models = MODELS.iter().zip(&costs).map(|(model, cost)| {
            serde_json::json!({
                "name": model.name,
                "summary": model.summary,
                "here": here(model.name),
                "random": here(model.name).map(|path| Descriptor::says_random(&path)),
                "parameters": model.parameters,
                "multiply_adds": model.multiply_adds,
                "milliseconds": cost,
                "official": model.official.map(official),
            })
        });
        console::print(format_args!("{:#}", models.collect::<serde_json::Value>()))?;
        return Ok(());
    }
    let time = |text: &str| if runtime.is_some() { format!(" {text:>9}") } else { String::new() };
    let mut lines = vec![format!(
        "{:22} {:6} {:>10} {:>9}{}  {:10} accuracy, in percent",
        "name",
        "here",
        "parameters",
        "mul-adds",
        time("ms"),
        "licence"
    )];
    for (model, cost) in MODELS.iter().zip(costs) {
        let here = match here(model.name) {
            Some(path) if Descriptor::says_random(&path) => "random",
            Some(_) => "yes",
            None => "",
        };
        let parameters = model.parameters as f64 / 1e6;
        let multiply_adds = model.multiply_adds.map(|count| format!("{:.2} G", count as f64 / 1e9)).unwrap_or_default();
        let (licence, accuracy) = match model.official {
            Some(official) => (official.licence, accuracy(&official)),
            None => ("", "no official weights".into()),
        };
        let cost = time(&cost.map(|cost| format!("{cost:.1}")).unwrap_or_default());
        let sizes = format!("{parameters:8.2} M {multiply_adds:>9}{cost}");
        lines.push(format!("{:22} {here:6} {sizes}  {licence:10} {accuracy}", model.name));
    }
    console::print(lines.join("\n"))?;
    Ok(())
}

/// `Kinetics-400 top-1 76.9, Kinetics-400 top-5 92.7`
fn accuracy(official: &Official) -> String {
    let figures = official.accuracy.iter().map(|(metric, percent)| format!("{metric} {percent:.1}"));
    figures.collect::<Vec<_>>().join(", ")
}
