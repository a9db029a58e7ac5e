//! `vidindex query`: starts DuckDB's command line on an index, with the views defined. DuckDB provides the query
//! engine, the output formats and the shell; this module tells it where the files are and how to access them.

mod moments;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use clap::ValueEnum;
use serde::de::DeserializeOwned;

pub(crate) use moments::Moments;

use crate::console;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::{self, Access, StoreConfig};
use crate::tables::{Dialect, Table, current_moments, current_track_actions, current_tracks, filled_persons};

/// The format of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A drawn table, shortened to the width of a terminal.
    Table,
    /// With a header line; null is empty.
    Csv,
    /// A list of objects.
    Json,
    /// Only the values, separated by tabs.
    Lines,
}

/// A query and the format of its result.
#[derive(Debug)]
pub(crate) struct Query {
    /// SQL. Without it and without a file, SQL is read from standard input; on a terminal, DuckDB's shell opens.
    pub(crate) sql: Option<String>,
    /// A file with SQL.
    pub(crate) file: Option<PathBuf>,
    /// Variables that the SQL can read.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) format: Format,
}

impl Query {
    /// A parameter that the query does not read is a mistake in its name.
    fn check_parameters(&self) -> Result<()> {
        let text = match (&self.sql, &self.file) {
            (Some(sql), _) => sql.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| Error::usage(format!("cannot read {}: {error}", file.display())))?,
            (None, None) => return Ok(()),
        };
        match self.parameters.iter().find(|parameter| !parameter.is_read_by(&text)) {
            Some(Parameter { name, .. }) => {
                Err(Error::usage(format!("the query does not read the parameter `{name}`"))
                    .with_hint(format!("write getvariable('{name}') where the query needs it")))
            }
            None => Ok(()),
        }
    }
}

/// A variable of a query, `NAME=VALUE`. The value is a number if it looks like one, otherwise text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameter {
    name: String,
    value: String,
}

impl FromStr for Parameter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        };
        match text.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, value)) => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            None => Err("a parameter is NAME=VALUE, such as label=wave".to_owned()),
        }
    }
}

impl Parameter {
    fn set(&self) -> String {
        let is_number = self.value.parse::<f64>().is_ok_and(f64::is_finite);
        let value = if is_number { self.value.clone() } else { quoted(&self.value) };
        format!("SET VARIABLE {} = {value};", self.name)
    }

    /// Whether the SQL reads it.
    fn is_read_by(&self, sql: &str) -> bool {
        let sql = sql.to_lowercase();
        sql.match_indices("getvariable").any(|(at, _)| {
            let rest = sql[at..].trim_start_matches("getvariable").trim_start();
            let name = rest.strip_prefix('(').map(str::trim_start).and_then(|rest| rest.strip_prefix('\''));
            name.and_then(|rest| rest.split_once('\'')).is_some_and(|(name, _)| name == self.name.to_lowercase())
        })
    }
}

/// A moment of a video, `VIDEO@SECONDS`, for finding similar ones.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moment {
    /// The video's id, its URI, or the part of its URI after a `/`.
    video: String,
    seconds: f64,
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let moment = text.rsplit_once('@').and_then(|(video, seconds)| Some((video, seconds.parse::<f64>().ok()?)));
        match moment {
            Some((video, seconds)) if !video.is_empty() && seconds.is_finite() => {
                Ok(Self { video: video.to_owned(), seconds })
            }
            _ => Err("a moment is VIDEO@SECONDS, such as clip-01.mp4@12.5".to_owned()),
        }
    }
}

impl Moment {
    /// SQL for the segments with the embeddings most similar to that of the segment at this moment, which is among
    /// them.
    pub(crate) fn likeness_sql(&self) -> String {
        let (video, seconds) = (is_video(&self.video), self.seconds);
        let absent = quoted(&format!(
            "no segment with an embedding at {seconds} s of a video {}: set [actions] embedding = true in the job and index again",
            self.video
        ));
        format!(
            "WITH asked AS (
    SELECT model, embedding
    FROM current_actions
    WHERE {video}
        AND start_seconds <= {seconds} AND {seconds} < end_seconds AND embedding IS NOT NULL
    ORDER BY uri, start_seconds DESC
    LIMIT 1
)
SELECT uri, start_seconds, end_seconds, top_label,
    round(list_cosine_similarity(embedding, (SELECT first(embedding) FROM asked)), 4) AS likeness
FROM current_actions
WHERE embedding IS NOT NULL AND model = (SELECT coalesce(first(model), error({absent})) FROM asked)
ORDER BY likeness DESC, uri, start_seconds
LIMIT {LIKE_ROWS};"
        )
    }
}

/// Number of similar segments that are shown.
const LIKE_ROWS: usize = 20;

/// An index, and the settings for accessing it.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) uri: String,
    pub(crate) store: StoreConfig,
    /// The settings for accessing the videos.
    pub(crate) videos: StoreConfig,
}

impl Index {
    /// The output of a job.
    pub(crate) fn of(job: &Job) -> Self {
        Self { uri: job.output.uri.clone(), store: job.output_store(), videos: job.input_store() }
    }

    /// Whether this is a job file (`….toml`), not the address of an index.
    pub(crate) fn is_job(place: &str) -> bool {
        let path = Path::new(place);
        !place.contains("://") && (path.extension().is_some_and(|extension| extension == "toml") || path.is_file())
    }

    /// `place` is a job file, whose output is used, or the address of an index.
    ///
    /// # Errors
    /// Those of loading the job file.
    pub(crate) fn named(place: &str, set: &[String]) -> Result<Self> {
        if Self::is_job(place) {
            return Ok(Self::of(&Job::load(Path::new(place), set)?));
        }
        if !set.is_empty() {
            return Err(Error::usage(format!("--set changes a job file, but {place} is not one"))
                .with_hint("name a job file, whose [output] and [store] are used"));
        }
        let (store, videos) = (StoreConfig::default(), StoreConfig::default());
        Ok(Self { uri: place.to_owned(), store, videos })
    }
}

/// Replaces this process by DuckDB. Only returns if that fails.
///
/// # Errors
/// If DuckDB or the index does not exist, or the store cannot be accessed.
pub(crate) async fn run(index: &Index, query: &Query, duckdb: Option<&Path>) -> Result<u8> {
    let is_coloured = console::is_coloured(&std::io::stdout());
    let (mut command, duckdb) = prepared(index, query, duckdb, is_coloured).await?;
    let error = command.exec();
    Err(Error::failed(format!("{}: failed to run: {error}", duckdb.program.display())).with_hint(HINT))
}

/// The rows of a query.
///
/// # Errors
/// As for [`run`], and if the query fails or its rows have other columns.
pub(crate) async fn rows<R: DeserializeOwned>(index: &Index, sql: &str, duckdb: Option<&Path>) -> Result<Vec<R>> {
    let query = Query { sql: Some(sql.to_owned()), file: None, parameters: Vec::new(), format: Format::Json };
    let (mut command, duckdb) = prepared(index, &query, duckdb, false).await?;
    let failed = |problem: &dyn Display| Error::failed(format!("{}: {problem}", duckdb.program.display()));
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(&error).with_hint(HINT))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    // Without rows, some versions print nothing.
    let text = output.stdout.trim_ascii();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(text).map_err(|error| failed(&error))
}

/// A command that runs a query on an index.
async fn prepared(index: &Index, query: &Query, duckdb: Option<&Path>, is_coloured: bool) -> Result<(Command, DuckDb)> {
    query.check_parameters()?;
    let duckdb = DuckDb::find(duckdb)?;
    let store = store::open(&index.uri, &index.store).await?;
    let folders = store.folders("").await?;
    if !folders.iter().any(|folder| folder == Table::Videos.directory() || folder == "_vidindex") {
        return Err(Error::failed(format!("{} is not an index: it has neither videos/ nor _vidindex/", index.uri))
            .with_hint("name a job file, or the directory or s3:// address in its [output] uri"));
    }
    let access = store.access().await?;
    let mut command = Command::new(&duckdb.program);
    if query.sql.is_some() || query.file.is_some() || !std::io::stdin().is_terminal() {
        // The user's settings for the shell would affect the results.
        command.args(["-no-init", "-batch"]);
    }
    command.arg("-bail").args(query.format.options());
    if !is_coloured {
        // DuckDB does not support NO_COLOR and colours some results even if they do not go to a terminal.
        command.args(
            ["highlight", "highlight_errors", "highlight_results"]
                .map(|what| format!(".{what} off"))
                .iter()
                .flat_map(|set| ["-cmd", set]),
        );
    }
    if let Some(access) = &access {
        let secret = access.secret();
        let extension = duckdb.httpfs()?;
        // Creating a secret prints a result.
        command.args(["-cmd", &extension, "-cmd", ".output /dev/null", "-cmd", &secret, "-cmd", ".output"]);
        command.envs(access.environment());
    }
    let is_there = |table: Table| folders.iter().any(|folder| folder == table.directory());
    command.args(["-cmd", &set_up(store.uri("").trim_end_matches('/'), is_there)]);
    for parameter in &query.parameters {
        command.args(["-cmd", &parameter.set()]);
    }
    if let Some(sql) = &query.sql {
        command.args(["-c", sql]);
    } else if let Some(file) = &query.file {
        command.arg("-f").arg(file);
    }
    Ok((command, duckdb))
}

/// The SQL that defines the variable and the views. The view of a table without files is empty.
fn set_up(root: &str, is_there: impl Fn(Table) -> bool) -> String {
    let mut sql = format!("SET TimeZone = 'UTC'; SET VARIABLE index = {};", quoted(&literal_glob(root)));
    for table in Table::ALL {
        let rows = if is_there(table) { table.duckdb_files() } else { table.duckdb_nothing() };
        sql.push_str(&format!(" CREATE VIEW {table} AS {rows};"));
    }
    for table in Table::ALL {
        sql.push_str(&format!(" CREATE VIEW current_{table} AS {};", table.current_rows()));
    }
    for (name, rows) in [
        ("current_tracks", current_tracks(Dialect::DuckDb)),
        ("current_moments", current_moments(Dialect::DuckDb)),
        ("current_track_actions", current_track_actions(Dialect::DuckDb)),
        ("filled_persons", filled_persons(Dialect::DuckDb)),
    ] {
        sql.push_str(&format!(" CREATE VIEW {name} AS {rows};"));
    }
    sql
}

impl Format {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Table if std::io::stdout().is_terminal() => &[],
            Self::Table => &["-box"],
            Self::Csv => &["-csv", "-nullvalue", ""],
            Self::Json => &["-json"],
            Self::Lines => &["-list", "-noheader", "-separator", "\t", "-nullvalue", ""],
        }
    }
}

impl Access {
    /// Refers to environment variables for the credentials, because other users can see command lines.
    fn secret(&self) -> String {
        let mut options = vec!["TYPE s3".to_owned(), "KEY_ID getenv('AWS_ACCESS_KEY_ID')".to_owned()];
        options.push("SECRET getenv('AWS_SECRET_ACCESS_KEY')".to_owned());
        if self.session_token.is_some() {
            options.push("SESSION_TOKEN getenv('AWS_SESSION_TOKEN')".to_owned());
        }
        if let Some(region) = &self.region {
            options.push(format!("REGION {}", quoted(region)));
        }
        if let Some(endpoint) = &self.endpoint {
            let (scheme, address) = endpoint.split_once("://").unwrap_or(("https", endpoint));
            options.push(format!("ENDPOINT {}", quoted(address.trim_end_matches('/'))));
            options.push(format!("USE_SSL {}", scheme != "http"));
        }
        options.push(format!("URL_STYLE {}", if self.path_style { "'path'" } else { "'vhost'" }));
        format!("CREATE SECRET vidindex ({});", options.join(", "))
    }

    fn environment(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let keys = [("AWS_ACCESS_KEY_ID", &*self.access_key_id), ("AWS_SECRET_ACCESS_KEY", &*self.secret_access_key)];
        keys.into_iter().chain(self.session_token.as_deref().map(|token| ("AWS_SESSION_TOKEN", token)))
    }
}

/// The SQL condition for rows of a video, which is named by its id, its URI, or the part of its URI after a `/`.
pub(crate) fn is_video(name: &str) -> String {
    let (video, name_end) = (quoted(name), quoted(&format!("/{name}")));
    format!("(video_id = {video} OR uri = {video} OR ends_with(uri, {name_end}))")
}

/// Quotes an SQL string.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Escapes a path, so that a glob matches it literally.
fn literal_glob(path: &str) -> String {
    let escape = |c: char| if "*?[".contains(c) { format!("[{c}]") } else { c.to_string() };
    path.chars().map(escape).collect()
}

const HINT: &str =
    "install DuckDB with `pip install duckdb-cli` or as described on duckdb.org, and put `duckdb` on the PATH";

/// DuckDB's command-line program.
#[derive(Debug)]
pub(crate) struct DuckDb {
    program: PathBuf,
    /// Such as `v1.5.5`.
    version: String,
}

impl DuckDb {
    /// Finds the given program, or `duckdb` on the PATH.
    ///
    /// # Errors
    /// If there is none, or it does not run.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        let program = match named {
            Some(program) => program.to_owned(),
            None => {
                let path: OsString = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path)
                    .map(|folder| folder.join("duckdb"))
                    .find(|program| program.is_file())
                    .ok_or_else(|| {
                        Error::failed("DuckDB was not found: there is no `duckdb` on the PATH").with_hint(HINT)
                    })?
            }
        };
        let failed =
            |problem: String| Error::failed(format!("{}: failed to run: {problem}", program.display())).with_hint(HINT);
        let output = Command::new(&program).args(["-no-init", "-version"]).output();
        let output = output.map_err(|error| failed(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        match said.split_whitespace().next() {
            Some(version) if output.status.success() && version.starts_with('v') => {
                Ok(Self { version: version.to_owned(), program })
            }
            _ => Err(failed(format!(
                "it printed {:?}",
                format!("{said}{}", String::from_utf8_lossy(&output.stderr)).trim()
            ))),
        }
    }

    /// SQL that loads the extension for S3: from the Python package beside the program, so that nothing is downloaded,
    /// or as DuckDB itself finds it.
    ///
    /// # Errors
    /// If there is none and DuckDB cannot install it.
    pub(crate) fn httpfs(&self) -> Result<String> {
        if let Some(file) = self.packaged_httpfs() {
            return Ok(format!("LOAD {};", quoted(&file.to_string_lossy())));
        }
        let sql = "INSTALL httpfs; LOAD httpfs;";
        let output = Command::new(&self.program).args(["-no-init", "-batch", "-bail", "-c", sql]).output();
        let output = output.map_err(|error| Error::failed(error.to_string()))?;
        if output.status.success() {
            return Ok("LOAD httpfs;".to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        Err(Error::failed(format!("DuckDB {} cannot read S3: {said}", self.version)).with_hint(self.httpfs_hint()))
    }

    /// How to install the extension: with the Python that DuckDB was installed with, or with DuckDB.
    fn httpfs_hint(&self) -> String {
        let python = self.program.canonicalize().ok().and_then(|program| Some(program.parent()?.join("python")));
        match python.filter(|python| python.is_file()) {
            Some(python) => format!(
                "{} -m pip install duckdb-extension-httpfs=={}",
                python.display(),
                self.version.trim_start_matches('v')
            ),
            None => format!("with network access, run {} -c 'INSTALL httpfs'", self.program.display()),
        }
    }

    fn packaged_httpfs(&self) -> Option<PathBuf> {
        let lib = self.program.canonicalize().ok()?.parent()?.parent()?.join("lib");
        let packages = std::fs::read_dir(lib).ok()?.flatten().map(|python| python.path().join("site-packages"));
        let file = format!("duckdb_extension_httpfs/extensions/{}/httpfs.duckdb_extension", self.version);
        packages.map(|packages| packages.join(&file)).find(|file| file.is_file())
    }
}

/// Formats path and version for the user.
impl std::fmt::Display for DuckDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.program.display(), self.version)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_secret_names_no_credentials() {
        let access = Access {
            endpoint: Some("http://127.0.0.1:9000/".to_owned()),
            region: Some("eu-central-1".to_owned()),
            path_style: true,
            access_key_id: "AK".to_owned(),
            secret_access_key: "hush".to_owned(),
            session_token: None,
        };
        assert_eq!(
            access.secret(),
            "CREATE SECRET vidindex (TYPE s3, KEY_ID getenv('AWS_ACCESS_KEY_ID'), SECRET \
             getenv('AWS_SECRET_ACCESS_KEY'), REGION 'eu-central-1', ENDPOINT '127.0.0.1:9000', USE_SSL false, \
             URL_STYLE 'path');"
        );
        assert_eq!(access.environment().count(), 2);
        let aws = Access { endpoint: None, path_style: false, session_token: Some("t".to_owned()), ..access };
        assert!(aws.secret().contains("SESSION_TOKEN getenv") && aws.secret().ends_with("URL_STYLE 'vhost');"));
        assert!(!aws.secret().contains("USE_SSL") && aws.environment().count() == 3);
    }

    #[test]
    fn an_index_is_given_by_a_job_file_or_by_its_address() {
        let index = Index::named("jobs/demo.toml", &["output.uri=elsewhere".to_owned()]).unwrap();
        assert_eq!(index.uri, "elsewhere");
        assert_eq!(Index::named("s3://bucket/odd.toml", &[]).unwrap().uri, "s3://bucket/odd.toml");
        assert_eq!(Index::named("index", &[]).unwrap().uri, "index");
        assert_eq!(Index::named("index", &["a.b=1".to_owned()]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn paths_are_not_patterns() {
        assert_eq!(quoted(&literal_glob("/it's [a]/b*?")), "'/it''s [[]a]/b[*][?]'");
    }
}
