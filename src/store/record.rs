//! JSON records in a store: small objects that are read whole or not at all.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{Store, StoreError, StoreErrorKind, StoreResult};

/// Reads of a record that is cut off, before it is assumed to be like that in the store.
const READS_MAX: usize = 5;

/// The text of a JSON record, or none if there is no such object.
///
/// Records are written whole. If one is cut off, a gateway lost the rest and hid that, so the record is read again.
///
/// # Errors
/// As [`Store::get`], and `Transient` if the record is cut off each time.
pub(crate) async fn get_record(store: &dyn Store, key: &str) -> StoreResult<Option<Bytes>> {
    let mut delays =
        ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_max_times(READS_MAX - 1).build();
    loop {
        let body = match store.get(key).await {
            Ok(body) => body,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A record with another mistake is complete. The caller checks it.
        if !serde_json::from_slice::<IgnoredAny>(&body).is_err_and(|error| error.is_eof()) {
            return Ok(Some(body));
        }
        let Some(delay) = delays.next() else {
            return Err(StoreError {
                kind: StoreErrorKind::Transient,
                message: format!("failed to read {}: it is cut off after {} bytes", store.uri(key), body.len()),
                hint: Some(
                    "if the object in the store is cut off too, delete it: the next run writes it again".to_owned(),
                ),
            });
        };
        tracing::warn!(uri = store.uri(key), bytes = body.len(), "a record is cut off, reading it again");
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::faulty::{FaultyStore, ReadFault};
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn a_record_that_was_cut_on_its_way_is_read_again() {
        let objects = MemoryStore::bucket("s3://index/");
        objects.insert("record.json", "{\"a\": 1}");
        let store = FaultyStore::new(objects).failing_reads([Some(ReadFault::CutOff(4)), Some(ReadFault::CutOff(0))]);
        assert_eq!(get_record(&store, "record.json").await.unwrap().unwrap(), "{\"a\": 1}");
        assert_eq!(get_record(&store, "absent.json").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_record_that_breaks_off_in_the_store_is_an_outage() {
        let store = MemoryStore::bucket("s3://index/");
        store.insert("record.json", "{\"a\"");
        let error = get_record(&store, "record.json").await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Transient);
        assert!(error.message.contains("s3://index/record.json"), "{error}");
    }
}
