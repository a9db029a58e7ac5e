//! What S3's refusals and the network's mean to the caller, and what there is to check: every message names the
//! operation and the object, every hint a thing that the user can look at.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::{StoreError, StoreErrorKind};

/// What was being done, for the message and for the permission that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The first question.
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
    /// A removal.
    Delete,
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
        }
    }

    fn permission(self) -> &'static str {
        match self {
            Self::Open | Self::List => "s3:ListBucket on the bucket",
            Self::Read => "s3:GetObject (and s3:ListBucket on the bucket, or an absent object looks like a denied one)",
            Self::Write | Self::WriteNew => "s3:PutObject and s3:AbortMultipartUpload",
            Self::Copy => "s3:GetObject and s3:PutObject",
            Self::Delete => "s3:DeleteObject",
        }
    }
}

/// Where it happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// Of the object or prefix.
    pub(super) uri: &'a str,
    /// Its bucket.
    pub(super) bucket: &'a str,
    /// The S3 compatible's, or none for AWS.
    pub(super) endpoint: Option<&'a str>,
}

impl Place<'_> {
    /// Any failure of a request.
    pub(super) fn failure<E>(&self, action: Action, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let Some(region) = bucket_region(error).filter(|_| matches!(status(error), Some(301 | 307 | 400))) {
            return self.other_region(action, region);
        }
        match (status(error), error.code()) {
            (_, Some(code)) => self.refused(action, code, error.message()),
            (Some(404), None) => self.refused(action, "NoSuchKey", None),
            (Some(401 | 403), None) => self.refused(action, "AccessDenied", None),
            (Some(301), None) => self.refused(action, "PermanentRedirect", Some("the bucket is in another region")),
            (Some(status), None) => self.refused(action, &format!("status {status}"), Some(&innermost(error))),
            (None, None) => match credentials_failure(error) {
                Some(said) => self.no_credentials(action, &said),
                None => self.unreachable(action, &innermost(error)),
            },
        }
    }

    /// A refusal with S3's code and its own words.
    pub(super) fn refused(&self, action: Action, code: &str, said: Option<&str>) -> StoreError {
        let words =
            said.filter(|said| !said.is_empty()).map_or_else(|| code.to_owned(), |said| format!("{code}: {said}"));
        let denied = |hint: String| self.error(StoreErrorKind::AccessDenied, action, &words, Some(hint));
        match code {
            "NoSuchBucket" => self.no_bucket(action),
            "NoSuchKey" | "NotFound" => self.error(StoreErrorKind::NotFound, action, "there is no such object", None),
            "AccessDenied" | "AllAccessDisabled" | "Forbidden" | "UnauthorizedAccess" => {
                denied(format!("the credentials in use need {}", action.permission()))
            }
            "InvalidAccessKeyId" | "InvalidClientTokenId" => denied(
                "check AWS_ACCESS_KEY_ID or the profile in use, and that `endpoint` in [store] is the store they belong to"
                    .to_owned(),
            ),
            "SignatureDoesNotMatch" => {
                denied("check AWS_SECRET_ACCESS_KEY or the profile in use, and this machine's clock".to_owned())
            }
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "InvalidToken" | "RequestExpired" => {
                denied("renew the session's credentials (`aws sso login`, or a fresh AWS_SESSION_TOKEN)".to_owned())
            }
            "RequestTimeTooSkewed" => denied("set this machine's clock".to_owned()),
            "AuthorizationHeaderMalformed" => denied("check `region` in [store]: it is not the bucket's".to_owned()),
            "InvalidObjectState" => {
                denied("the object is in an archive storage class: restore it, or leave it out with `exclude`".to_owned())
            }
            "NotImplemented" if action == Action::WriteNew => self.error(
                StoreErrorKind::Other,
                action,
                &words,
                Some("this store has no conditional puts (If-None-Match), which commits need: use another for [output]".to_owned()),
            ),
            "EntityTooLarge" | "InvalidRequest" if action == Action::Copy => {
                self.error(StoreErrorKind::Other, action, &words, Some("S3 copies at most 5 GiB in one request".to_owned()))
            }
            _ => self.error(StoreErrorKind::Other, action, &words, None),
        }
    }

    /// The bucket is not there.
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

    /// The bucket is in another region than the one that was set.
    pub(super) fn other_region(&self, action: Action, region: &str) -> StoreError {
        let reason = format!("the bucket is in the region {region}");
        self.error(StoreErrorKind::NoRoot, action, &reason, Some(format!("set `region = \"{region}\"` in [store]")))
    }

    /// No answer.
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
        self.error(StoreErrorKind::Unreachable, action, &format!("no answer from the endpoint ({said})"), Some(hint))
    }

    /// A body that broke off more often than is tried.
    pub(super) fn broken_off(&self, said: &str) -> StoreError {
        self.unreachable(Action::Read, said)
    }

    /// Another version than the one that the read began with.
    pub(super) fn changed(&self) -> StoreError {
        self.error(StoreErrorKind::Changed, Action::Read, "it was replaced meanwhile", None)
    }

    /// Something that S3 does not say and ought not to happen.
    pub(super) fn told(&self, said: &str) -> StoreError {
        self.error(StoreErrorKind::Other, Action::Read, said, None)
    }

    fn no_credentials(&self, action: Action, said: &str) -> StoreError {
        self.error(
            StoreErrorKind::AccessDenied,
            action,
            &format!("no credentials ({said})"),
            Some("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run where there is an instance's or a task's role".to_owned()),
        )
    }

    fn error(&self, kind: StoreErrorKind, action: Action, reason: &str, hint: Option<String>) -> StoreError {
        StoreError { kind, message: format!("failed to {} {}: {reason}", action.verb(), self.uri), hint }
    }
}

/// Of the answer, where there was one.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The bucket's region, which S3 tells with its refusals.
pub(super) fn bucket_region<E>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.raw_response().and_then(|response| response.headers().get("x-amz-bucket-region"))
}

/// Whether the request may have reached the store though no answer came back.
pub(super) fn answer_lost<E>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => true,
        SdkError::DispatchFailure(failure) => {
            !failure.is_user() && credentials_source(failure.as_connector_error()).is_none()
        }
        _ => false,
    }
}

/// The words of the error that the others wrap: "Connection refused" and not "dispatch failure".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// In one line: the chain's own account of an empty search has one for each place.
fn credentials_failure<E>(error: &SdkError<E, HttpResponse>) -> Option<String>
where
    E: Error + 'static,
{
    credentials_source(Some(error)).map(|error| match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            "looked in the environment, the profile, for a web identity, and for a task's and an instance's role"
                .to_owned()
        }
        error => innermost(error).replace('\n', "; "),
    })
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
