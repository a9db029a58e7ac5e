//! The partition columns of an index. Query engines can read its files as one table only if all files have the same
//! columns.

use futures::TryStreamExt;

use crate::error::{Error, Result};
use crate::job::Job;
use crate::store::Store;
use crate::tables::Table;

/// Checks that the job's files would have the same partition columns as the files in the output.
///
/// # Errors
/// [`Error::Usage`] if they differ; the store's error if the output cannot be listed.
pub(crate) async fn check(job: &Job, output: &dyn Store) -> Result<()> {
    let Some((there, wanted)) = mismatch(job, output).await? else { return Ok(()) };
    let names = |columns: &[String]| columns.join(", ");
    Err(Error::usage(format!(
        "the files in {} are partitioned by {}, but this job would partition by {}: query engines cannot read both as one table",
        output.uri(""),
        names(&there),
        names(&wanted)
    ))
    .with_hint(
        "set output.uri to a new location, or input.partition to the one of the index (--reindex does not help, because \
         it keeps the existing files)",
    ))
}

/// The partition columns of the output's files and those of the job, if they differ.
pub(crate) async fn mismatch(job: &Job, output: &dyn Store) -> Result<Option<(Vec<String>, Vec<String>)>> {
    let names = job.input.partition.iter().flat_map(|partition| partition.names());
    let wanted: Vec<String> = names.chain([DAY]).map(str::to_owned).collect();
    // All files have the same columns, so checking one suffices.
    let mut files = output.list(&format!("{}/", Table::Videos));
    while let Some(file) = files.try_next().await? {
        if let Some(there) = columns_of(&file.key) {
            return Ok((there != wanted).then_some((there, wanted)));
        }
    }
    Ok(None)
}

/// The last partition column of every table, after the job's own columns.
const DAY: &str = "dt";

/// The partition columns in the key of a file of `videos`. `None` if vidindex would not have chosen this key.
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
    async fn partition_columns_that_differ_from_the_index_are_refused() {
        let (camera, both) = (Some("(?<camera>c[^/]*)/"), Some("(?<camera>c[^/]*)/(?<hour>h[^/]*)/"));
        let plain = ["videos/dt=2026-11-01/part-r-000000.parquet"];
        let by_camera = ["videos/camera=c1/dt=2026-11-01/part-r-000000.parquet"];
        for (partition, files) in [(None, &plain), (camera, &by_camera)] {
            assert_eq!(refusal(partition, files).await, None);
        }
        for (partition, files, said) in [
            (camera, &plain, "are partitioned by dt, but this job would partition by camera, dt"),
            (None, &by_camera, "are partitioned by camera, dt, but this job would partition by dt"),
            (both, &by_camera, "by camera, dt, but this job would partition by camera, hour, dt"),
            (Some("(?<Camera>c[^/]*)/"), &by_camera, "by camera, dt, but this job would partition by Camera, dt"),
        ] {
            let refused = refusal(partition, files).await.unwrap();
            assert!(refused.contains(said), "{refused}");
        }
        // An empty output, or files that vidindex did not write.
        assert_eq!(refusal(camera, &[]).await, None);
        assert_eq!(refusal(camera, &["videos/a.parquet", "videos/x=1/a.parquet", "videos/dt=1/a.txt"]).await, None);
    }
}
