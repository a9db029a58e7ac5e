//! JSON records in a store: small objects that are read whole or not at all.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{Store, StoreError, StoreErrorKind, StoreResult};

/// Reads of a record that breaks off in the middle, before it is taken for what is really there.
const READS_MAX: usize = 5;

/// The text of a JSON record, or none where there is no such object.
///
/// Writers put records whole, so one that breaks off was cut on its way here, by a gateway that hides it: it is read
/// again.
///
/// # Errors
/// As [`Store::get`], and `Transient` where the record breaks off each time.
pub(crate) async fn get_record(store: &dyn Store, key: &str) -> StoreResult<Option<Bytes>> {
    let mut delays =
        ExponentialBuilder::new().with_min_delay(Duration::from_millis(200)).with_max_times(READS_MAX - 1).build();
    loop {
        let body = match store.get(key).await {
            Ok(body) => body,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // What is wrong in another way is whole, and not for this function to judge.
        if !serde_json::from_slice::<IgnoredAny>(&body).is_err_and(|error| error.is_eof()) {
            return Ok(Some(body));
        }
        let Some(delay) = delays.next() else {
            return Err(StoreError {
                kind: StoreErrorKind::Transient,
                message: format!("failed to read {}: it breaks off after {} bytes", store.uri(key), body.len()),
                hint: Some("if it is like that in the store, delete it: the next run writes it anew".to_owned()),
            });
        };
        tracing::warn!(uri = store.uri(key), bytes = body.len(), "a record breaks off, reading it again");
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
