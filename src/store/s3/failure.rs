//! What the errors of S3 and of the network mean to the caller. Every message names the operation and the object, every hint
//! something that the user can check.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::{StoreError, StoreErrorKind};

/// The operation, for the message and for the permission that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The first request, for the bucket.
    Open,
    /// A page of a listing.
    List,
    /// Metadata or bytes.
    Read,
    /// A put or an upload.
    Write,
    /// A conditional put.
    WriteNew,
    /// A server-side copy.
    Copy,
    /// A deletion.
    Delete,
    /// A request for a copy of an archived object.
    Restore,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::List => "list",
            Self::Read => "read",
            Self::Write | Self::WriteNew => "write",
            Self::Copy => "publish",
            Self::Delete => "delete",
            Self::Restore => "restore",
        }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::Open | Self::List => "s3:ListBucket on the bucket",
            Self::Read => "s3:GetObject (and s3:ListBucket on the bucket, or an absent object looks like a denied one)",
            Self::Write | Self::WriteNew => "s3:PutObject and s3:AbortMultipartUpload",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::Delete => "s3:DeleteObject",
            Self::Restore => "s3:RestoreObject",
        }
    }
}

/// Where an error happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Of the object or prefix.
    pub(super) uri: &'a str,
    pub(super) bucket: &'a str,
    /// Of the S3 compatible. None for AWS.
    pub(super) endpoint: Option<&'a str>,
}

impl Place<'_> {
    /// The error of any request.
    pub(super) fn failure<E>(&self, action: Action, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(region) = bucket_region(error).filter(|_| matches!(status(error), Some(301 | 307 | 400))) {
            return self.other_region(action, region);
        }
        match (status(error), error.code()) {
            (_, Some(code)) => self.refused(action, code, status(error), error.message()),
            (Some(404), None) => self.refused(action, "NoSuchKey", Some(404), None),
            (Some(401), None) => self.refused(action, "InvalidAccessKeyId", Some(401), None),
            (Some(403), None) => self.refused(action, "AccessDenied", Some(403), None),
            (Some(301), None) => {
                self.refused(action, "PermanentRedirect", Some(301), Some("the bucket is in another region"))
            }
            (Some(status), None) => {
                self.refused(action, &format!("status {status}"), Some(status), Some(&innermost(error)))
            }
            (None, None) => match credentials_source(Some(error)) {
                Some(error) => self.no_credentials(action, error),
                None => self.unreachable(action, &innermost(error)),
            },
        }
    }

    /// An answer with S3's error code, its status and its message.
    ///
    /// The code decides what it means. For an unknown code the status does: a server error (5xx, or an error in the body of a
    /// success) is transient; of the others, a failed read is about this object, and a retry of anything else would fail again.
    pub(super) fn refused(&self, action: Action, code: &str, status: Option<u16>, said: Option<&str>) -> StoreError {
        let words =
            said.filter(|said| !said.is_empty()).map_or_else(|| code.to_owned(), |said| format!("{code}: {said}"));
        let error = |kind, hint: &str| {
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            self.error(kind, action, &words, hint)
        };
        let credentials = |hint| error(StoreErrorKind::Credentials, hint);
        match code {
            "NoSuchBucket" => self.no_bucket(action),
            "NoSuchKey" | "NotFound" | "NoSuchVersion" => {
                self.error(StoreErrorKind::NotFound, action, "there is no such object", None)
            }
            "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "Forbidden" | "UnauthorizedAccess" => {
                error(StoreErrorKind::AccessDenied, &format!("the credentials in use need {}", action.permission()))
            }
            "InvalidAccessKeyId"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "AccountProblem"
            | "NotSignedUp"
            | "InvalidSecurity" => credentials(
                "check AWS_ACCESS_KEY_ID or the profile in use, and that `endpoint` in [store] is the store they belong to",
            ),
            "SignatureDoesNotMatch" | "IncompleteSignature" => {
                credentials("check AWS_SECRET_ACCESS_KEY or the profile in use, and this machine's clock")
            }
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired" => {
                credentials("renew the session's credentials (`aws sso login`, or a fresh AWS_SESSION_TOKEN)")
            }
            "RequestTimeTooSkewed" => credentials("set this machine's clock"),
            "AuthorizationHeaderMalformed" => credentials("check `region` in [store]: it is not the bucket's"),
            "InvalidObjectState" => error(
                StoreErrorKind::Archived,
                "the object is in an archive storage class: restore it, or leave it out with `exclude`",
            ),
            "NotImplemented" if action == Action::WriteNew => error(
                StoreErrorKind::Refused,
                "this store has no conditional puts (If-None-Match), which commits need: use another for [output]",
            ),
            "EntityTooLarge" | "InvalidRequest" if action == Action::Copy => {
                error(StoreErrorKind::Refused, "S3 copies at most 5 GiB in one request")
            }
            // The message says what: a customer's key (SSE-C) is missing in the request or wrong.
            "InvalidRequest" | "InvalidArgument" if action == Action::Read => {
                error(StoreErrorKind::Unreadable, "an object that is encrypted with a customer's key cannot be read")
            }
            code if is_transient(code) => error(StoreErrorKind::Transient, ""),
            code if code.starts_with("KMS.") && action == Action::Read => error(
                StoreErrorKind::Unreadable,
                "check the KMS key that encrypts the object: its state, and kms:Decrypt for the credentials in use",
            ),
            "NotImplemented" => error(StoreErrorKind::Refused, ""),
            _ => error(kind_by_status(action, status), ""),
        }
    }

    /// The bucket does not exist.
    pub(super) fn no_bucket(&self, action: Action) -> StoreError {
        let hint = match self.endpoint {
            Some(endpoint) => {
                format!(
                    "check the bucket's name (`{}`) in the job's uri, and `endpoint` ({endpoint}) in [store]",
                    self.bucket
                )
            }
            None => format!(
                "check the bucket's name (`{}`) in the job's uri, and `endpoint` in [store] if it is not on AWS",
                self.bucket
            ),
        };
        self.error(StoreErrorKind::NoRoot, action, "the bucket does not exist", Some(hint))
    }

    /// The bucket is in another region than the configured one.
    pub(super) fn other_region(&self, action: Action, region: &str) -> StoreError {
        let reason = format!("the bucket is in the region {region}");
        self.error(StoreErrorKind::NoRoot, action, &reason, Some(format!("set `region = \"{region}\"` in [store]")))
    }

    /// There was no answer.
    pub(super) fn unreachable(&self, action: Action, said: &str) -> StoreError {
        let hint = if said.contains("certificate") {
            "check the endpoint's certificate; name a file of your own authorities in SSL_CERT_FILE".to_owned()
        } else {
            let endpoint = match self.endpoint {
                Some(endpoint) => format!("`endpoint` ({endpoint}) in [store]"),
                None => "`endpoint` and `region` in [store]".to_owned(),
            };
            format!("check {endpoint}, the network, and HTTP_PROXY, HTTPS_PROXY and NO_PROXY where there is a proxy")
        };
        self.error(StoreErrorKind::Transient, action, &format!("no answer from the endpoint ({said})"), Some(hint))
    }

    /// The object has another version than at the beginning of the read.
    pub(super) fn changed(&self) -> StoreError {
        self.error(StoreErrorKind::Changed, Action::Read, "it was replaced during the read", None)
    }

    /// The answer is invalid.
    pub(super) fn invalid_answer(&self, said: &str) -> StoreError {
        self.error(StoreErrorKind::Transient, Action::Read, said, None)
    }

    /// A retry would fail again.
    pub(super) fn permanent(&self, said: &str) -> StoreError {
        self.error(StoreErrorKind::Refused, Action::Read, said, None)
    }

    fn no_credentials(&self, action: Action, error: &CredentialsError) -> StoreError {
        let said = match error {
            CredentialsError::CredentialsNotLoaded(_) => {
                "looked in the environment, the profile, for a web identity, and for a task's and an instance's role"
                    .to_owned()
            }
            // On one line.
            error => innermost(error).replace('\n', "; "),
        };
        // After the first request there were credentials: a provider that is slow to renew them (an instance's role) will do
        // so later.
        let kind = match error {
            CredentialsError::ProviderTimedOut(_) if action != Action::Open => StoreErrorKind::Transient,
            _ => StoreErrorKind::Credentials,
        };
        let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where there is an instance's \
                    or a task's role";
        self.error(kind, action, &format!("no credentials ({said})"), Some(hint.to_owned()))
    }

    fn error(&self, kind: StoreErrorKind, action: Action, reason: &str, hint: Option<String>) -> StoreError {
        StoreError { kind, message: format!("failed to {} {}: {reason}", action.verb(), self.uri), hint }
    }
}

/// Whether the code means that a retry may succeed. Some of these come with status 4xx, or 200 with the error in the body.
fn is_transient(code: &str) -> bool {
    const CODES: [&str; 19] = [
        "BadDigest",
        "BandwidthLimitExceeded",
        "Busy",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "KMS.InternalException",
        "KMS.KMSInternalException",
        "KMS.ThrottlingException",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
    ];
    CODES.contains(&code)
}

fn kind_by_status(action: Action, status: Option<u16>) -> StoreErrorKind {
    match status {
        Some(501 | 505) => StoreErrorKind::Refused,
        // With status 200, the body was not what was requested.
        None | Some(200..=299 | 408 | 425 | 429 | 500..) => StoreErrorKind::Transient,
        Some(_) if action == Action::Read => StoreErrorKind::Unreadable,
        Some(_) => StoreErrorKind::Refused,
    }
}

/// The status of the answer, if there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The bucket's region, which S3 sends with its errors.
pub(super) fn bucket_region<E>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.raw_response().and_then(|response| response.headers().get("x-amz-bucket-region"))
}

/// Whether the store may have carried out the request although it did not say so.
pub(super) fn may_have_arrived<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: Error + 'static,
{
    match status(error) {
        Some(status) => !(300..500).contains(&status),
        None => match error {
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
            SdkError::DispatchFailure(failure) => {
                !failure.is_user() && credentials_source(failure.as_connector_error()).is_none()
            }
            _ => false,
        },
    }
}

/// The message of the innermost error: "Connection refused" and not "dispatch failure".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn credentials_source<E: Error + 'static>(error: Option<&E>) -> Option<&CredentialsError> {
    let mut error: Option<&(dyn Error + 'static)> = error.map(|error| error as _);
    while let Some(link) = error {
        if let Some(found) = link.downcast_ref() {
            return Some(found);
        }
        error = link.source();
    }
    None
}
