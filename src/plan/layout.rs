//! The partition columns of an index. Engines can query its files as one table only when all have the same.

use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::Store;
use crate::tables::Table;

/// Checks that the job's files would have the partition columns that the output's files have.
///
/// # Errors
/// [`Error::Usage`] when they differ; the store's error when the output cannot be listed.
pub(crate) async fn check(job: &Job, output: &dyn Store) -> Result<()> {
    let Some((there, wanted)) = mismatch(job, output).await? else { return Ok(()) };
    let names = |columns: &[String]| columns.join(", ");
    Err(Error::usage(format!(
        "the files in {} are partitioned by {}, and those of this job would be by {}: engines cannot query both as one table",
        output.uri(""),
        names(&there),
        names(&wanted)
    ))
    .with_hint(
        "set output.uri to a new place, or input.partition to what the index was made with (--reindex does not help, as \
         it keeps the files that are there)",
    ))
}

/// The partition columns of the output's files and those of the job, when they differ.
pub(crate) async fn mismatch(job: &Job, output: &dyn Store) -> Result<Option<(Vec<String>, Vec<String>)>> {
    let names = job.input.partition.iter().flat_map(|partition| partition.names());
    let wanted: Vec<String> = names.chain([DAY]).map(str::to_owned).collect();
    // All files have the same, so the first one suffices.
    let mut files = output.list(&format!("{}/", Table::Videos));
    while let Some(file) = files.try_next().await? {
        if let Some(there) = columns_of(&file.key) {
            return Ok((there != wanted).then_some((there, wanted)));
        }
    }
    Ok(None)
}

/// The last partition column of every table, after the job's own.
const DAY: &str = "dt";

/// The partition columns in the key of a file of `videos`; none when vidindex would not have put it there.
fn columns_of(key: &str) -> Option<Vec<String>> {
    let (folders, name) = key.split_once('/')?.1.rsplit_once('/')?;
    let columns: Option<Vec<_>> = folders.split('/').map(|folder| Some(folder.split_once('=')?.0.to_owned())).collect();
    columns.filter(|columns| name.ends_with(".parquet") && columns.last().is_some_and(|last| last == DAY))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::plan::testing::job;
    use crate::store::memory::MemoryStore;

    async fn refusal(partition: Option<&str>, files: &[&str]) -> Option<String> {
        let output = MemoryStore::bucket("s3://index/");
        files.iter().for_each(|key| output.insert(key, ""));
        let mut job = job();
        job.input.partition = partition.map(|pattern| pattern.to_owned().try_into().unwrap());
        check(&job, &output).await.err().map(|error| error.to_string())
    }

    #[tokio::test]
    async fn other_partition_columns_than_those_that_are_there_are_refused() {
        let (camera, both) = (Some("(?<camera>c[^/]*)/"), Some("(?<camera>c[^/]*)/(?<hour>h[^/]*)/"));
        let plain = ["videos/dt=2026-11-01/part-r-000000.parquet"];
        let by_camera = ["videos/camera=c1/dt=2026-11-01/part-r-000000.parquet"];
        for (partition, files) in [(None, &plain), (camera, &by_camera)] {
            assert_eq!(refusal(partition, files).await, None);
        }
        for (partition, files, said) in [
            (camera, &plain, "are partitioned by dt, and those of this job would be by camera, dt"),
            (None, &by_camera, "are partitioned by camera, dt, and those of this job would be by dt"),
            (both, &by_camera, "by camera, dt, and those of this job would be by camera, hour, dt"),
            (Some("(?<Camera>c[^/]*)/"), &by_camera, "by camera, dt, and those of this job would be by Camera, dt"),
        ] {
            let refused = refusal(partition, files).await.unwrap();
            assert!(refused.contains(said), "{refused}");
        }
        // Nothing there yet, or nothing that vidindex put there.
        assert_eq!(refusal(camera, &[]).await, None);
        assert_eq!(refusal(camera, &["videos/a.parquet", "videos/x=1/a.parquet", "videos/dt=1/a.txt"]).await, None);
    }
}
