//! `vidindex models list`.

use std::path::Path;

use crate::console;
use crate::error::Result;
use crate::zoo::descriptor::Descriptor;
use crate::zoo::registry::{MODELS, Official};

/// Prints a table for humans, or JSON. Local models are searched in `out`.
pub(super) fn print(out: &Path, json: bool) -> Result<()> {
    let here = |name: &str| Some(out.join(format!("{name}.onnx"))).filter(|path| path.is_file());
    if json {
        let official = |official: Official| {
            let accuracy = official.accuracy.iter().map(|&(metric, percent)| (metric.to_owned(), percent.into()));
            serde_json::json!({
                "url": format!("{}{}", official.base, official.file),
                "licence": official.licence,
                "accuracy_percent": accuracy.collect::<serde_json::Map<_, _>>(),
            })
        };
        let models = MODELS.iter().map(|model| {
            serde_json::json!({
                "name": model.name,
                "summary": model.summary,
                "here": here(model.name),
                "random": here(model.name).map(|path| Descriptor::says_random(&path)),
                "parameters": model.parameters,
                "multiply_adds": model.multiply_adds,
                "official": model.official.map(official),
            })
        });
        console::print(format_args!("{:#}", models.collect::<serde_json::Value>()))?;
        return Ok(());
    }
    let mut lines = vec![format!(
        "{:22} {:6} {:>10} {:>9}  {:10} accuracy, in percent",
        "name", "here", "parameters", "mul-adds", "licence"
    )];
    for model in MODELS {
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
        let sizes = format!("{parameters:8.2} M {multiply_adds:>9}");
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
