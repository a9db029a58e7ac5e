//! Connects to a bucket: credentials and region from the SDK's chain, timeouts, and a first request, which finds a wrong bucket,
//! missing credentials or a wrong endpoint within seconds.

use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder as HttpClientBuilder, Connector};

use super::S3Store;
use super::failure::{self, Action, Place};
use super::headers::Headers;
use super::pace::Pace;
use super::retry::{Retry, retry};
use crate::store::{Store, StoreConfig, StoreError, StoreErrorKind, StoreResult};

/// For a connection and its TLS handshake. Three of these fit into `OPEN_TIMEOUT`.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2200);

/// To the first byte of an answer, for requests that transfer nothing before it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// To the answer to an upload, including its transfer, or to a server-side copy. The SDK's protection against stalled streams
/// ends uploads that make no progress earlier.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(300);

/// For the first request, including its retries.
const OPEN_TIMEOUT: Duration = Duration::from_secs(8);

/// For retries of the first request while there is no answer, such as from a server that has just been started.
const OPEN_RETRY_TIME: Duration = Duration::from_millis(1500);

/// For the credentials. Outside AWS, the end of the chain waits for an instance metadata service that does not exist.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// For the region. Only the instance metadata service can be slow.
const REGION_TIMEOUT: Duration = Duration::from_secs(2);

/// If nothing names a region. Compatibles accept any region, and AWS answers with the right one.
const REGION: &str = "us-east-1";

/// Opens `bucket/prefix`.
pub(super) async fn open(address: &str, config: &StoreConfig) -> StoreResult<S3Store> {
    let (bucket, prefix) = address.split_once('/').unwrap_or((address, ""));
    if bucket.is_empty() {
        return Err(StoreError {
            kind: StoreErrorKind::NoRoot,
            message: format!("`s3://{address}` names no bucket"),
            hint: Some("write s3://bucket/prefix/".to_owned()),
        });
    }
    let mut prefix = prefix.trim_start_matches('/').to_owned();
    if !prefix.is_empty() && !prefix.ends_with('/') {
        prefix.push('/');
    }
    let sdk = sdk_config(config).await;
    let store = connect(&sdk, config, bucket, &prefix);
    match find_bucket(&store, &sdk).await? {
        // The job does not set a region, so the bucket's own is right.
        Some(region) if config.region.is_none() => {
            tracing::debug!(bucket, region, "the bucket is in another region, connecting to that");
            let sdk = sdk.into_builder().region(Region::new(region)).build();
            Ok(connect(&sdk, config, bucket, &prefix))
        }
        Some(region) => Err(store.place(&store.uri("")).other_region(Action::Open, &region)),
        None => Ok(store),
    }
}

/// Sends the first request, for the bucket. Returns the bucket's region if it is another one than the configured.
///
/// If the answer is that access is denied, that is not an error here: the credentials may allow access to the objects and not
/// this request. For other problems that a HEAD does not report, such as an expired session, the next request fails.
async fn find_bucket(store: &S3Store, sdk: &SdkConfig) -> StoreResult<Option<String>> {
    let uri = store.uri("");
    let place = store.place(&uri);
    // An overloaded store is retried like later. No answer at all is more likely a mistake in the job file, so that fails
    // within seconds.
    retry!(
        store.retry,
        match tokio::time::timeout(OPEN_TIMEOUT, ask_until_answered(store, sdk, &place)).await {
            Ok(Err(Unopened::Refused(error))) => Err(error),
            Ok(Err(Unopened::NoAnswer(error))) => Ok(Err(error)),
            Ok(Ok(region)) => Ok(Ok(region)),
            Err(_) => Ok(Err(place.unreachable(Action::Open, "no answer in time"))),
        }
    )?
}

/// Why a bucket did not open.
enum Unopened {
    /// The store answered with an error.
    Refused(StoreError),
    /// There was no answer.
    NoAnswer(StoreError),
}

async fn ask_until_answered(store: &S3Store, sdk: &SdkConfig, place: &Place<'_>) -> Result<Option<String>, Unopened> {
    let retry = Retry::new(OPEN_RETRY_TIME, None);
    let asked = retry!(
        retry,
        match ask(store, sdk, place).await {
            Err(Unopened::NoAnswer(error)) => Err(error),
            answered => Ok(answered),
        }
    );
    asked.unwrap_or_else(|error| Err(Unopened::NoAnswer(error)))
}

async fn ask(store: &S3Store, sdk: &SdkConfig, place: &Place<'_>) -> Result<Option<String>, Unopened> {
    let Err(error) = store.quick.head_bucket().bucket(&store.bucket).send().await else { return Ok(None) };
    let region = failure::bucket_region(&error).filter(|region| Some(*region) != sdk.region().map(Region::as_ref));
    match (failure::status(&error), region) {
        (_, Some(region)) => Ok(Some(region.to_owned())),
        (Some(400 | 403 | 405 | 501), None) => Ok(None),
        (Some(404), None) => Err(Unopened::Refused(place.no_bucket(Action::Open))),
        (Some(_), None) => Err(Unopened::Refused(place.failure(Action::Open, &error))),
        (None, None) => Err(Unopened::NoAnswer(place.failure(Action::Open, &error))),
    }
}

fn connect(sdk: &SdkConfig, config: &StoreConfig, bucket: &str, prefix: &str) -> S3Store {
    let endpoint = config.endpoint.clone().or_else(|| environment_endpoint(sdk));
    let path_style = config.path_style.unwrap_or(endpoint.is_some());
    let client = |answer_timeout| {
        let settings = aws_sdk_s3::config::Builder::from(sdk)
            .force_path_style(path_style)
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(answer_timeout).build(),
            )
            .retry_config(RetryConfig::disabled())
            .interceptor(Headers::of(config))
            .build();
        Client::from_conf(settings)
    };
    S3Store {
        quick: client(ANSWER_TIMEOUT),
        slow: client(UPLOAD_TIMEOUT),
        retry: Retry::new(
            Duration::from_secs(config.retry_seconds.unwrap_or(StoreConfig::RETRY_SECONDS)),
            config.requests_per_second,
        ),
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint,
        path_style,
        credentials: sdk.credentials_provider(),
        read_pace: config.bytes_per_second.map(|bytes| Arc::new(Pace::new(bytes))),
        versions: config.versions,
    }
}

/// Credentials, region and HTTP client of every request to AWS.
pub(crate) async fn sdk_config(config: &StoreConfig) -> SdkConfig {
    let http = http_client();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build())
        // Many compatibles refuse the newer checksums. Requests that require one still have it.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if config.anonymous == Some(true) {
        loader = loader.no_credentials();
    }
    if let Some(profile) = &config.profile {
        // Not only the name of the profile: credentials in the environment would win over it.
        let provider = ProfileFileCredentialsProvider::builder().profile_name(profile);
        let http = ProviderConfig::without_region().with_http_client(http.clone());
        loader = loader.profile_name(profile).credentials_provider(provider.configure(&http).build());
    }
    if let Some(endpoint) = &config.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.region(region(config, http).await).load().await
}

async fn region(config: &StoreConfig, http: SharedHttpClient) -> Region {
    if let Some(region) = &config.region {
        return Region::new(region.clone());
    }
    let profile = match &config.profile {
        Some(profile) => ProfileFileRegionProvider::builder().profile_name(profile),
        None => ProfileFileRegionProvider::builder(),
    };
    let environment = EnvironmentVariableRegionProvider::new();
    let mut chain = RegionProviderChain::first_try(environment).or_else(profile.build());
    // Outside AWS, the request to the instance takes seconds. A compatible's region is not the instance's anyway.
    if config.endpoint.is_none() && endpoint_variables().next().is_none() {
        let provider = ProviderConfig::without_region().with_http_client(http);
        let client = imds::Client::builder().configure(&provider).max_attempts(1).build();
        chain = chain.or_else(ImdsRegionProvider::builder().imds_client(client).build());
    }
    let found = tokio::time::timeout(REGION_TIMEOUT, chain.region()).await;
    found.ok().flatten().unwrap_or_else(|| Region::from_static(REGION))
}

/// rustls with ring, the certificates of the system or of `SSL_CERT_FILE`, and the proxies of the environment.
fn http_client() -> SharedHttpClient {
    HttpClientBuilder::new().build_with_connector_fn(|settings, components| {
        let mut connector = Connector::builder().proxy_config(ProxyConfig::from_env());
        connector.set_connector_settings(settings.cloned());
        connector.set_sleep_impl(components.and_then(|components| components.sleep_impl()));
        connector.tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build()
    })
}

fn environment_endpoint(sdk: &SdkConfig) -> Option<String> {
    endpoint_variables().next().or_else(|| sdk.endpoint_url().map(ToOwned::to_owned))
}

/// The SDK reads these variables itself. They are read here to know that there is an endpoint.
fn endpoint_variables() -> impl Iterator<Item = String> {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].into_iter().filter_map(|name| std::env::var(name).ok())
}
