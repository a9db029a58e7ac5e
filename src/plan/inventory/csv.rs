//! Data files of a report in gzipped CSV. They have no header; the manifest's schema gives the columns. Keys are
//! percent-encoded.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufReader;

use ::csv::{ByteRecord, ReaderBuilder};
use chrono::{DateTime, Utc};
use flate2::read::MultiGzDecoder;
use percent_encoding::percent_decode;

use super::{Batches, archived, version_id};
use crate::store::ObjectMeta;

/// Positions of the fields that are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    key: usize,
    size: usize,
    last_modified: usize,
    etag: usize,
    /// Only in reports that include this field.
    storage_class: Option<usize>,
    /// Only in reports of all versions.
    version_id: Option<usize>,
    is_latest: Option<usize>,
    is_delete_marker: Option<usize>,
}

impl Columns {
    /// Parses the manifest's `fileSchema`: `Bucket, Key, Size, ...`. The error names the missing field.
    pub(super) fn of(schema: &str) -> Result<Self, String> {
        let find = |name: &str| schema.split(',').position(|column| column.trim() == name);
        let required = |name: &str| find(name).ok_or_else(|| format!("it has no field {name}"));
        Ok(Self {
            key: required("Key")?,
            size: required("Size")?,
            last_modified: required("LastModifiedDate")?,
            etag: required("ETag")?,
            storage_class: find("StorageClass"),
            version_id: find("VersionId"),
            is_latest: find("IsLatest"),
            is_delete_marker: find("IsDeleteMarker"),
        })
    }
}

/// Reads the whole file, or until the receiver is gone.
pub(super) fn read(file: File, columns: &Columns, batches: &mut Batches) -> Result<(), String> {
    let decoder = MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file));
    let mut reader = ReaderBuilder::new().has_headers(false).buffer_capacity(1 << 18).from_reader(decoder);
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
        let line = || record.position().map_or(0, |position| position.line());
        let object = object(&record, columns, batches).map_err(|problem| format!("line {}: {problem}", line()))?;
        if let Some(object) = object
            && !batches.push(object)
        {
            break;
        }
    }
    Ok(())
}

/// Returns `None` for objects that no longer exist or are not below the input.
fn object(record: &ByteRecord, columns: &Columns, batches: &Batches) -> Result<Option<ObjectMeta>, String> {
    let is = |column: Option<usize>, value: &str| {
        column.and_then(|column| record.get(column)).is_some_and(|field| field.eq_ignore_ascii_case(value.as_bytes()))
    };
    if is(columns.is_latest, "false") || is(columns.is_delete_marker, "true") {
        return Ok(None);
    }
    let field = |column: usize, name: &str| {
        let field = record.get(column).ok_or_else(|| format!("no {name}"))?;
        std::str::from_utf8(field).map_err(|error| format!("{name}: {error}"))
    };
    let key = decoded(field(columns.key, "Key")?)?;
    let Some(key) = batches.key(&key) else { return Ok(None) };
    let (size, modified) = (field(columns.size, "Size")?, field(columns.last_modified, "LastModifiedDate")?);
    let last_modified = modified.parse::<DateTime<Utc>>().map_err(|error| format!("time {modified:?}: {error}"))?;
    Ok(Some(ObjectMeta {
        key: key.to_owned(),
        size_bytes: size.parse().map_err(|error| format!("size {size:?}: {error}"))?,
        etag: field(columns.etag, "ETag")?.trim_matches('"').to_owned(),
        version_id: columns.version_id.map(|id| field(id, "VersionId")).transpose()?.and_then(version_id),
        last_modified,
        archived: columns.storage_class.map(|class| field(class, "StorageClass")).transpose()?.and_then(archived),
    }))
}

/// Decodes a key like a URL's query: a plus is a space, and a literal plus is `%2B`.
fn decoded(key: &str) -> Result<Cow<'_, str>, String> {
    if !key.contains(['%', '+']) {
        return Ok(Cow::Borrowed(key));
    }
    let spaced = key.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8();
    decoded.map(|key| Cow::Owned(key.into_owned())).map_err(|error| format!("key {key:?}: {error}"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_s3_encodes_them() {
        for (encoded, key) in [
            ("plain/a-1_2.mp4", "plain/a-1_2.mp4"),
            ("a+b%2Bc%25d.mp4", "a b+c%d.mp4"),
            ("%E6%97%A5%E6%9C%AC/%22quoted%22%2C.mp4", "日本/\"quoted\",.mp4"),
        ] {
            assert_eq!(decoded(encoded).unwrap(), key);
        }
        assert!(decoded("%FF.mp4").is_err());
    }

    #[test]
    fn a_missing_field_is_named() {
        assert_eq!(Columns::of("Bucket, Key, Size, LastModifiedDate").unwrap_err(), "it has no field ETag");
        assert_eq!(Columns::of("Bucket,Key,ETag,LastModifiedDate,Size").unwrap().size, 4);
    }
}
