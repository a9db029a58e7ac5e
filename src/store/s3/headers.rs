//! Headers that the settings of a store add to requests, before they are signed.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use crate::store::{Encryption, StoreConfig};

/// Adds who pays, and how written objects are encrypted.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    requester_pays: bool,
    encryption: Option<Encryption>,
    kms_key: Option<String>,
}

impl Headers {
    pub(super) fn of(config: &StoreConfig) -> Self {
        Self {
            requester_pays: config.requester_pays.unwrap_or(false),
            encryption: config.encryption,
            kms_key: config.kms_key.clone(),
        }
    }

    /// The headers of a request with this method and query string.
    fn for_request(&self, method: &str, query: &str) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if self.requester_pays {
            headers.push(("x-amz-request-payer", "requester".to_owned()));
        }
        let names = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        // The parts of an upload are encrypted as its beginning says.
        let writes = method == "PUT" && !names("partNumber") || method == "POST" && names("uploads");
        if let Some(encryption) = self.encryption.filter(|_| writes) {
            headers.push(("x-amz-server-side-encryption", encryption.as_str().to_owned()));
            let key = self.kms_key.iter().map(|key| ("x-amz-server-side-encryption-aws-kms-key-id", key.clone()));
            headers.extend(key);
        }
        headers
    }
}

impl Intercept for Headers {
    fn name(&self) -> &'static str {
        "headers of the store's settings"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let query = request.uri().split_once('?').map_or("", |(_, query)| query).to_owned();
        for (name, value) in self.for_request(request.method(), &query) {
            request.headers_mut().insert(name, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_say_who_pays_and_only_what_creates_an_object_says_how_it_is_encrypted() {
        let headers = Headers {
            requester_pays: true,
            encryption: Some(Encryption::Kms),
            kms_key: Some("alias/index".to_owned()),
        };
        for (method, query, encrypted) in [
            ("GET", "list-type=2", false),
            ("HEAD", "", false),
            ("PUT", "x-id=PutObject", true),
            ("PUT", "partNumber=3&uploadId=u", false),
            ("POST", "uploads", true),
            ("POST", "uploadId=u", false),
            ("POST", "delete", false),
        ] {
            let names: Vec<_> = headers.for_request(method, query).into_iter().map(|(name, _)| name).collect();
            let mut expected = vec!["x-amz-request-payer"];
            if encrypted {
                expected.extend(["x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"]);
            }
            assert_eq!(names, expected, "{method} {query}");
        }
        assert_eq!(Headers::of(&StoreConfig::default()).for_request("PUT", ""), []);
    }
}
