//! A bucket of videos on an S3 server, and a job that indexes it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::s3::{S3Server, environment};
use super::{Scratch, said, tables, vidindex};

/// An S3 server.
pub(crate) trait Endpoint {
    /// `http://127.0.0.1:PORT`
    fn endpoint(&self) -> String;
}

impl Endpoint for S3Server {
    fn endpoint(&self) -> String {
        S3Server::endpoint(self)
    }
}

/// A server with a bucket of videos, and a job that indexes it.
pub(crate) struct Bucket<S = S3Server> {
    pub(crate) server: S,
    pub(crate) scratch: Scratch,
    pub(crate) job: PathBuf,
}

impl Bucket {
    /// [`Bucket::on`] a new server, or `None` if no server can be started.
    pub(crate) fn with_videos(scratch: Scratch) -> Option<Self> {
        Some(Self::on(S3Server::start()?, scratch))
    }
}

impl<S: Endpoint> Bucket<S> {
    /// [`Bucket::with_models`] with the small models.
    pub(crate) fn on(server: S, scratch: Scratch) -> Self {
        let models = scratch.small_models();
        Self::with_models(server, scratch, &models)
    }

    /// Uploads `videos/` of the scratch directory to `archive/clips/`. `models` are the job's sections for models.
    pub(crate) fn with_models(server: S, scratch: Scratch, models: &str) -> Self {
        let job = scratch.path("s3.toml");
        let text = format!(
            "[input]\nuri = \"s3://archive/clips/\"\n[output]\nuri = \"s3://index/run/\"\n{models}[run]\ndevice = \"cpu\"\n{}",
            format_args!("[store]\nendpoint = \"{}\"\nregion = \"us-east-1\"\n", server.endpoint())
        );
        std::fs::write(&job, text).unwrap();
        let bucket = Self { server, scratch, job };
        bucket.copy("new", &bucket.scratch.videos(), "s3://archive/clips/");
        bucket
    }

    /// Uses boto3, an independent S3 client: `new` creates the buckets `archive` and `index` and uploads a folder, `file` uploads
    /// a folder, `tree` downloads a prefix.
    pub(crate) fn copy(&self, what: &str, folder: &Path, uri: &str) {
        let script = "
import boto3, os, pathlib, sys
what, folder, uri, endpoint = sys.argv[1:]
bucket, prefix = uri.removeprefix('s3://').split('/', 1)
s3 = boto3.client('s3', endpoint_url=endpoint, region_name='us-east-1')
if what == 'new':
    for name in ['archive', 'index']:
        s3.create_bucket(Bucket=name)
if what in ['new', 'file']:
    for path in filter(pathlib.Path.is_file, pathlib.Path(folder).rglob('*')):
        s3.upload_file(str(path), bucket, prefix + path.relative_to(folder).as_posix())
else:
    for page in s3.get_paginator('list_objects_v2').paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get('Contents', []):
            to = pathlib.Path(folder) / item['Key'].removeprefix(prefix)
            to.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, item['Key'], str(to))
";
        let python = super::python().unwrap();
        let mut command = Command::new(python);
        command.args(["-c", script, what, folder.to_str().unwrap(), uri, &self.server.endpoint()]).envs(environment());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

    pub(crate) fn vidindex(&self, args: &[&str], code: i32) -> std::process::Output {
        let mut command = vidindex([args[0].as_ref(), self.job.as_os_str()]);
        let output = command.args(&args[1..]).envs(environment()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        output
    }

    /// Downloads the index and returns its folder.
    pub(crate) fn index(&self) -> PathBuf {
        let folder = self.scratch.path("downloaded");
        self.copy("tree", &folder, "s3://index/run/");
        folder
    }
}

/// Sorted rows without the columns that differ between a directory and a bucket.
pub(crate) fn comparable(index: &Path, table: &str) -> Vec<String> {
    let mut lines: Vec<String> = tables::rows(index, table)
        .into_iter()
        .map(|mut row| {
            let name = row["uri"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            for column in [
                "uri",
                "video_id",
                "etag",
                "last_modified",
                "run_id",
                "shard",
                "indexed_at",
                "decode_seconds",
                "inference_seconds",
            ] {
                row.remove(column);
            }
            format!("{name} {}", serde_json::Value::Object(row))
        })
        .collect();
    lines.sort();
    lines
}
