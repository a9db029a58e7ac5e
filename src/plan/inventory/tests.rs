//! Tests with reports that are generated in the format of S3 and read from a directory.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::Write;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::Compression;
use ::parquet::file::properties::WriterProperties;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use chrono::{DateTime, Utc};
use flate2::write::GzEncoder;
use tempfile::TempDir;

use super::*;
use crate::store::memory::MemoryStore;

const SCHEMA: &str = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag";

/// Key as in the file, whether it is the latest version, whether it is a delete marker.
type Version<'a> = (&'a str, bool, bool);

fn gzipped(versions: &[Version]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (key, latest, marker) in versions {
        let size = if *marker { "" } else { "10" };
        let line = format!(
            "\"archive\",\"{key}\",\"v1\",\"{latest}\",\"{marker}\",\"{size}\",\"2026-11-01T12:00:00.000Z\",\"e{key}\"\n"
        );
        encoder.write_all(line.as_bytes()).unwrap();
    }
    encoder.finish().unwrap()
}

fn columnar(versions: &[Version], compression: Compression) -> Vec<u8> {
    let time = "2026-11-01T12:00:00Z".parse::<DateTime<Utc>>().unwrap().timestamp_millis();
    let flags = |of: fn(&Version) -> bool| Arc::new(BooleanArray::from_iter(versions.iter().map(|v| Some(of(v)))));
    let etags: StringArray = versions.iter().map(|v| (!v.2).then(|| format!("e{}", v.0))).collect();
    let batch = RecordBatch::try_from_iter([
        ("bucket", Arc::new(StringArray::from_iter_values(versions.iter().map(|_| "archive"))) as ArrayRef),
        ("key", Arc::new(StringArray::from_iter_values(versions.iter().map(|v| v.0)))),
        ("is_latest", flags(|v| v.1)),
        ("is_delete_marker", flags(|v| v.2)),
        ("size", Arc::new(versions.iter().map(|v| (!v.2).then_some(10)).collect::<Int64Array>())),
        (
            "last_modified_date",
            Arc::new(TimestampMillisecondArray::from_value(time, versions.len()).with_timezone("UTC")),
        ),
        ("e_tag", Arc::new(etags)),
    ])
    .unwrap();
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// Writes a report to a directory with the layout of a bucket. Returns the manifest's path.
fn report(format: &str, files: &[Vec<u8>]) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let config = folder.path().join("reports/archive/daily");
    std::fs::create_dir_all(config.join("data")).unwrap();
    std::fs::create_dir_all(config.join("2026-11-02T01-00Z")).unwrap();
    let files: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(n, bytes)| {
            std::fs::write(config.join(format!("data/{n}")), bytes).unwrap();
            let md5: String = Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            serde_json::json!({"key": format!("reports/archive/daily/data/{n}"), "size": bytes.len(), "MD5checksum": md5})
        })
        .collect();
    let manifest = serde_json::json!({
        "sourceBucket": "archive", "destinationBucket": "arn:aws:s3:::reports", "version": "2016-11-30",
        "creationTimestamp": "1793581200000", "fileFormat": format, "fileSchema": SCHEMA, "files": files,
    });
    let path = config.join("2026-11-02T01-00Z/manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

async fn listed(uri: &str, input: &str) -> Result<BTreeSet<(String, String)>> {
    let scratch = TempDir::new().unwrap();
    let (objects, _) = list(uri, &StoreConfig::default(), &MemoryStore::bucket(input), scratch.path()).await?;
    let objects: Vec<ObjectMeta> = objects.try_collect().await?;
    assert!(objects.iter().all(|o| o.size_bytes == 10 && o.last_modified.to_rfc3339() == "2026-11-01T12:00:00+00:00"));
    let count = objects.len();
    let set: BTreeSet<_> = objects.into_iter().map(|object| (object.key, object.etag)).collect();
    assert_eq!(set.len(), count);
    Ok(set)
}

fn pairs(expected: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    expected.iter().map(|(key, etag)| ((*key).to_owned(), (*etag).to_owned())).collect()
}

#[tokio::test]
async fn the_latest_versions_below_the_input_are_listed_from_every_file_of_a_csv_report() {
    let files = [
        gzipped(&[("2026/a+b%2C.mp4", true, false), ("2026/old.mp4", false, false), ("2026/gone.mp4", true, true)]),
        gzipped(&[("2025/x.mp4", true, false), ("2026/c.mp4", true, false)]),
        gzipped(&[]),
    ];
    let (_folder, uri) = report("CSV", &files);
    let below = listed(&uri, "s3://archive/2026/").await.unwrap();
    assert_eq!(below, pairs(&[("a b,.mp4", "e2026/a+b%2C.mp4"), ("c.mp4", "e2026/c.mp4")]));
    assert_eq!(listed(&uri, "s3://archive/").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_parquet_report_is_read_in_the_compressions_that_s3_uses() {
    let versions = [
        ("2026/a+b%2C.mp4", true, false),
        ("2026/old.mp4", false, false),
        ("2026/gone.mp4", true, true),
        ("x", true, false),
    ];
    for compression in [Compression::SNAPPY, Compression::GZIP(Default::default()), Compression::UNCOMPRESSED] {
        let (_folder, uri) = report("Parquet", &[columnar(&versions, compression)]);
        let below = listed(&uri, "s3://archive/2026/").await.unwrap();
        assert_eq!(below, pairs(&[("a+b%2C.mp4", "e2026/a+b%2C.mp4")]));
    }
}

#[tokio::test]
async fn more_objects_than_fit_the_buffers_come_exactly_once() {
    let files: Vec<_> = (0..9)
        .map(|file| {
            let keys: Vec<_> = (0..7000).map(|n| format!("{file}/{n}.mp4")).collect();
            gzipped(&keys.iter().map(|key| (key.as_str(), true, false)).collect::<Vec<_>>())
        })
        .collect();
    let (_folder, uri) = report("CSV", &files);
    assert_eq!(listed(&uri, "s3://archive/").await.unwrap().len(), 9 * 7000);
}

#[tokio::test]
async fn errors_of_a_report_name_the_problem_and_the_fix() {
    let refused = async |uri: &str, input: &str| {
        let error = listed(uri, input).await.unwrap_err();
        format!("{error}\n{}", error.hint().unwrap_or_default())
    };
    let file = gzipped(&[("a.mp4", true, false)]);
    let (folder, uri) = report("CSV", std::slice::from_ref(&file));
    let said = refused(&uri, "s3://another/").await;
    assert!(said.contains("is of the bucket archive") && said.contains("input.uri to s3://archive/"), "{said}");
    let data = folder.path().join("reports/archive/daily/data/0");
    std::fs::write(&data, &file[..file.len() - 1]).unwrap();
    let said = refused(&uri, "s3://archive/").await;
    assert!(said.contains("data/0 is not the file that its manifest names"), "{said}");
    std::fs::remove_file(&data).unwrap();
    assert!(refused(&uri, "s3://archive/").await.contains("in none of the directories above it"));

    let (_folder, uri) = report("ORC", &[file]);
    let said = refused(&uri, "s3://archive/").await;
    assert!(said.contains("has the format ORC, which is not supported\nset the output format"), "{said}");
    let (_folder, uri) = report("CSV", &[gzipped(&[("a%FF.mp4", true, false)])]);
    assert!(refused(&uri, "s3://archive/").await.contains("line 1: key \"a%FF.mp4\""));
    let (_folder, uri) = report("Parquet", &[b"not parquet".to_vec()]);
    assert!(refused(&uri, "s3://archive/").await.contains("failed to list from the inventory"));
    std::fs::write(&uri, "{}").unwrap();
    assert!(refused(&uri, "s3://archive/").await.contains("set input.inventory to the address"));
}
