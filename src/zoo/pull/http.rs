//! Downloads one file over HTTP, and resumes the part that an earlier attempt or process left.

use std::error::Error as _;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Client, Response, StatusCode};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::{Part, unwritable};
use crate::error::{Error, Result};
use crate::telemetry::Transfer;

const RETRIES: usize = 3;
/// Delay before the first retry. It doubles for each further retry.
const DELAY_MIN: Duration = Duration::from_millis(500);
/// Limit for connecting, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Limit for waiting for the next bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Downloads the missing bytes of the part. Returns the URL.
pub(super) async fn download(url: &str, part: &Part, transfer: &mut Transfer) -> Result<String> {
    let failed = |why: &str| {
        Error::failed(format!("{url}: failed to download: {why}"))
            .with_hint("run the same command again to resume the download, or use --mirror to download from elsewhere")
    };
    let client = client().map_err(|error| failed(&chain(&error)))?;
    let mut delays = ExponentialBuilder::new().with_min_delay(DELAY_MIN).with_max_times(RETRIES).build();
    loop {
        let why = match attempt(&client, url, part, transfer).await {
            Ok(()) => return Ok(url.to_owned()),
            Err(Stop::Final(error)) => return Err(error),
            Err(Stop::Passing(why)) => why,
        };
        let Some(delay) = delays.next() else { return Err(failed(&why)) };
        tracing::warn!(url, error = why, "download interrupted, retrying");
        tokio::time::sleep(delay).await;
    }
}

fn client() -> reqwest::Result<Client> {
    // The crypto provider that the stores use, too. It is installed already if another client was built before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("vidindex/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
}

/// Why an attempt failed.
enum Stop {
    /// A retry may succeed.
    Passing(String),
    /// A retry would fail as well.
    Final(Error),
}

impl From<reqwest::Error> for Stop {
    fn from(error: reqwest::Error) -> Self {
        Self::Passing(chain(&error.without_url()))
    }
}

async fn attempt(client: &Client, url: &str, part: &Part, transfer: &mut Transfer) -> Result<(), Stop> {
    let unwritable = |error: std::io::Error| Stop::Final(unwritable(&part.path, &error));
    let mut file = tokio::fs::File::from_std(part.file.try_clone().map_err(unwritable)?);
    let mut length = file.metadata().await.map_err(unwritable)?.len();
    let mut request = client.get(url);
    match validator(part, url) {
        Some(validator) if length > 0 => {
            request = request.header(RANGE, format!("bytes={length}-"));
            if !validator.is_empty() {
                request = request.header(IF_RANGE, validator);
            }
        }
        // The part comes from another source, or its source is unknown.
        _ => length = 0,
    }
    let mut response = request.send().await?;
    let is_page = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if response.status().is_success() && is_page {
        let error = Error::failed(format!("{url}: the server returned a web page instead of the file"));
        return Err(Stop::Final(error.with_hint("check for a proxy or a login portal, or use --mirror")));
    }
    let range = content_range(response.headers());
    match response.status() {
        StatusCode::PARTIAL_CONTENT if range.is_some_and(|(first, _)| first == Some(length)) => {}
        StatusCode::RANGE_NOT_SATISFIABLE if range == Some((None, Some(length))) => return Ok(()),
        StatusCode::OK => length = 0,
        // Not the requested range. Without a source record, the next attempt requests the whole file.
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            let _ = std::fs::remove_file(&part.from);
            return Err(Stop::Passing("the server returned another range than requested".into()));
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(Stop::Passing(format!("the server returned {status}")));
        }
        status => {
            let error = Error::failed(format!("{url}: the server returned {status}"));
            return Err(Stop::Final(error.with_hint("use --mirror to download the file from elsewhere")));
        }
    }
    if length == 0 {
        let from = format!("{url}\n{}\n", own_validator(&response));
        std::fs::write(&part.from, from).map_err(unwritable)?;
    }
    let total = response.content_length().map(|left| length + left);
    file.set_len(length).await.map_err(unwritable)?;
    file.seek(std::io::SeekFrom::Start(length)).await.map_err(unwritable)?;
    transfer.at(length, total);
    while let Some(bytes) = response.chunk().await? {
        file.write_all(&bytes).await.map_err(unwritable)?;
        // Without the flush, the last bytes would be lost if the process ended.
        file.flush().await.map_err(unwritable)?;
        length += bytes.len() as u64;
        transfer.at(length, total);
    }
    if total.is_some_and(|total| total != length) {
        return Err(Stop::Passing(format!("the download ended after {length} of {} bytes", total.unwrap_or_default())));
    }
    file.sync_all().await.map_err(unwritable)
}

/// The validator that tells whether the file at this URL is still the one that the part belongs to. Empty if the server
/// sent none. `None` if the part belongs to another URL.
fn validator(part: &Part, url: &str) -> Option<String> {
    let from = std::fs::read_to_string(&part.from).ok()?;
    let (from, validator) = from.split_once('\n')?;
    (from == url).then(|| validator.trim_end().to_owned())
}

/// Only a strong ETag may be used for a range request.
fn own_validator(response: &Response) -> &str {
    let header = |name| response.headers().get(name)?.to_str().ok();
    header(ETAG).filter(|etag| !etag.starts_with("W/")).or_else(|| header(LAST_MODIFIED)).unwrap_or_default()
}

/// First byte and total length from `Content-Range`, if stated: `bytes 5-9/10`, `bytes */10`.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, whole) = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, whole.parse().ok()))
}

/// An error with its causes, because the outermost error says little.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
