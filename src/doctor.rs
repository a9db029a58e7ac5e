//! `vidindex doctor`: checks everything that a job needs, and explains how to fix what is missing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::console;
use crate::decode::{self, Decoders};
use crate::device::{DeviceChoice, Precision};
use crate::error::{Error, Result};
use crate::infer::session::Runtime;
use crate::job::Job;
use crate::query::DuckDb;
use crate::store::{self, Scanned};
use crate::work::models::JobModels;
use crate::zoo::descriptor;

/// Runs the checks and prints their results. Returns whether all succeeded. If `job` is given, it is checked as well.
///
/// # Errors
/// If the results cannot be printed.
pub(crate) async fn check(onnxruntime: Option<&Path>, job: Option<&Job>) -> Result<bool> {
    let mut report = Report { well: true, unwritten: None };
    report.line("vidindex", Ok(env!("CARGO_PKG_VERSION").to_owned()));
    report.line("FFmpeg", Ok(ffmpeg()));
    let sandbox = match decode::own_program() {
        Ok(program) => decode::probe_sandbox(&Decoders::new(program)).await,
        Err(error) => Err(error),
    };
    report.line("decoder sandbox", sandbox.map(|missing| sandboxed(&missing)));
    let choice = job.map_or(DeviceChoice::Auto, |job| job.run.device);
    let precision = job.map_or(Precision::Auto, |job| job.run.precision);
    let runtime = Runtime::load(onnxruntime, choice, precision).map(Arc::new);
    match &runtime {
        Ok(runtime) => {
            report.line("ONNX Runtime", Ok(runtime.library().display().to_string()));
            let providers: Vec<_> = runtime.providers().iter().map(ToString::to_string).collect();
            report.line("devices", Ok(format!("{} (a run would use {})", providers.join(", "), runtime.device())));
        }
        Err(error) => report.fail("ONNX Runtime", error),
    }
    let program = std::env::var_os("VIDINDEX_DUCKDB").map(PathBuf::from);
    let duckdb = DuckDb::find(program.as_deref());
    report.wish("DuckDB", duckdb.as_ref().map(ToString::to_string), "only `vidindex query` needs it");
    if let Some(job) = job {
        self::job(&mut report, job, runtime.as_ref().ok(), duckdb.as_ref().ok()).await;
    }
    report.unwritten.map_or(Ok(report.well), Err)
}

async fn job(report: &mut Report, job: &Job, runtime: Option<&Arc<Runtime>>, duckdb: Option<&DuckDb>) {
    let models = JobModels::read(job).await;
    match (&models, runtime) {
        (Ok(models), Some(runtime)) => {
            let opened = match models.open(runtime) {
                Ok((models, opening)) => opening.wait(&models).await,
                Err(error) => Err(error),
            };
            report.line("models", opened.map(|_| "open".to_owned()));
        }
        (Ok(_), None) => report.line("models", Ok("described".to_owned())),
        (Err(error), _) => report.fail("models", error),
    }
    for model in models.iter().flat_map(JobModels::random) {
        report.warn("models", &format!("{}: {}", model.display(), descriptor::RANDOM));
    }
    report.line("input", listed(&job.input.uri, job).await);
    report.line("output", writable(&job.output.uri, job).await);
    if job.output.uri.starts_with("s3://")
        && let Some(duckdb) = duckdb
    {
        let extension = duckdb.httpfs();
        let extension = extension.as_ref().map(|_| "it can read S3".to_owned());
        report.wish("DuckDB and S3", extension, "only `vidindex query` of this index needs it");
    }
}

async fn listed(uri: &str, job: &Job) -> Result<String> {
    let store = store::open(uri, &job.input_store()).await?;
    let mut scanned = store.scan(Arc::new(|_| true));
    while let Some(found) = scanned.try_next().await? {
        if let Scanned::Object(object) = found {
            return Ok(format!("{uri} ({} and more)", object.key));
        }
    }
    Ok(format!("{uri} (empty)"))
}

async fn writable(uri: &str, job: &Job) -> Result<String> {
    let store = store::open(uri, &job.output_store()).await?;
    let key = format!("_vidindex/doctor-{}", std::process::id());
    store.put(&key, Bytes::from_static(b"vidindex doctor")).await?;
    store::check_put_new(&*store, &key, Bytes::from_static(b"replaced")).await?;
    store.delete(&[key]).await?;
    Ok(format!("{uri} (can be written)"))
}

/// What the sandbox prevents, and by which layers besides the required ones.
fn sandboxed(missing: &[String]) -> String {
    let layers = if missing.is_empty() { "namespaces and landlock besides".to_owned() } else { missing.join(", ") };
    format!("no files, no network, no programs; {layers}")
}

fn ffmpeg() -> String {
    let (codec, format) = decode::ffmpeg_versions();
    let version = |number: u32| format!("{}.{}.{}", number >> 16, (number >> 8) & 0xff, number & 0xff);
    format!("libavcodec {}, libavformat {}", version(codec), version(format))
}

struct Report {
    well: bool,
    unwritten: Option<Error>,
}

impl Report {
    fn line(&mut self, what: &str, found: Result<String>) {
        match found {
            Ok(found) => self.print(format_args!("ok    {what}: {found}")),
            Err(error) => self.fail(what, &error),
        }
    }

    /// Prints a warning about something that works, but not well.
    fn warn(&mut self, what: &str, found: &str) {
        self.print(format_args!("WARN  {what}: {found}"));
    }

    /// Prints the result of a check that most jobs do not need.
    fn wish(&mut self, what: &str, found: Result<String, &Error>, needed: &str) {
        match found {
            Ok(found) => self.print(format_args!("ok    {what}: {found}")),
            Err(error) => {
                self.print(format_args!("none  {what}: {error} ({needed})"));
                self.hint(error);
            }
        }
    }

    fn fail(&mut self, what: &str, error: &Error) {
        self.well = false;
        self.print(format_args!("FAIL  {what}: {error}"));
        self.hint(error);
    }

    fn hint(&mut self, error: &Error) {
        if let Some(hint) = error.hint() {
            self.print(format_args!("      {hint}"));
        }
    }

    /// Prints each line as soon as it is known, because a store may respond slowly.
    fn print(&mut self, line: impl std::fmt::Display) {
        if let Err(error) = console::print(line) {
            self.unwritten = Some(error);
        }
    }
}
