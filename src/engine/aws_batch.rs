//! AWS Batch: an array job, and a job that seals after every task has succeeded. Batch retries the tasks of lost
//! machines. It has no dependency on the end of a job regardless of its result, so if a task fails permanently, the
//! seal fails as well. The committed shards are then published by the next plan, or by `vidindex seal` without `--run`, which
//! the stack of `terraform/` submits when an array has failed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_batch::Client;
use aws_sdk_batch::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_batch::config::timeout::TimeoutConfig;
use aws_sdk_batch::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_batch::error::{BoxError, DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_batch::operation::submit_job::builders::SubmitJobFluentBuilder;
use aws_sdk_batch::types::{
    ArrayProperties, ContainerOverrides, EvaluateOnExit, JobDependency, JobStatus, JobTimeout, ResourceRequirement,
    ResourceType, RetryAction, RetryStrategy,
};

use super::queue::Counts;
use super::{Submission, Submitted};
use crate::error::{Error, Result};
use crate::job::engine::AwsBatch;
use crate::store::{self, StoreConfig};

/// Maximum size of an array. The minimum is two.
const ARRAY_MAX: u32 = 10_000;

/// Limit for a response, without the SDK's retries.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// See [`super::submit`].
///
/// The image must contain the job file and the models at the same paths relative to its working directory, and have
/// `vidindex` as its entry point.
pub(super) async fn submit(submission: &Submission<'_>, dry_run: bool) -> Result<Submitted> {
    let settings = submission.job.engine.aws_batch.as_ref().ok_or_else(|| {
        Error::usage(format!("{}: the section [engine.aws-batch] is missing", submission.job_file.display())).with_hint(
            "add it, for example:\n    [engine.aws-batch]\n    queue = \"vidindex-gpu\"\n    job_definition = \"vidindex\"",
        )
    })?;
    let batch = Batch { client: client(&submission.job.output_store()).await, submission, settings };
    if dry_run {
        return Ok(Submitted::shown(vec![shown(batch.work()).await?, shown(batch.seal("ARRAY")).await?]));
    }
    let tasks = batch.tasks();
    let array = hand_in(batch.work()).await?;
    let sealing = hand_in(batch.seal(&array)).await.map_err(|error| {
        Error::failed(format!("the tasks were submitted as Batch job {array}, but submitting the seal failed: {error}"))
            .with_hint(format!("when they have finished, run: vidindex {}", batch.arguments("seal").join(" ")))
    })?;
    let lines = vec![
        format!("tasks   Batch job {array}: {tasks} for {} shards", submission.shards),
        format!(
            "seal    Batch job {sealing}, after every task has succeeded; otherwise `vidindex seal` publishes what is committed"
        ),
        format!("watch   aws batch describe-jobs --jobs {array} {sealing}"),
        format!("stop    aws batch terminate-job --reason stopped --job-id {array}"),
    ];
    Ok(Submitted { lines, jobs: vec![array, sealing] })
}

/// Counts the waiting and running jobs among these. Batch forgets a job a week after its end.
pub(super) async fn counts(store: &StoreConfig, jobs: &[String]) -> Result<Counts> {
    let described = client(store).await.describe_jobs().set_jobs(Some(jobs.to_vec())).send().await;
    let described = described.map_err(|error| {
        let said = error.message().map_or_else(|| DisplayErrorContext(&error).to_string(), str::to_owned);
        Error::failed(format!("AWS Batch: {said}")).with_hint("the permission batch:DescribeJobs is required")
    })?;
    let mut counts = Counts::default();
    for job in described.jobs() {
        let tasks = job.array_properties().and_then(|array| array.status_summary());
        let alone = [(job.status().map_or("", JobStatus::as_str).to_owned(), 1)].into();
        for (status, tasks) in tasks.filter(|tasks| !tasks.is_empty()).unwrap_or(&alone) {
            let tasks = u32::try_from(*tasks).unwrap_or(0);
            match status.as_str() {
                "SUBMITTED" | "PENDING" | "RUNNABLE" => counts.pending += tasks,
                "STARTING" | "RUNNING" => counts.running += tasks,
                _ => {}
            }
        }
    }
    Ok(counts)
}

struct Batch<'a> {
    client: Client,
    submission: &'a Submission<'a>,
    settings: &'a AwsBatch,
}

impl Batch<'_> {
    fn tasks(&self) -> u32 {
        self.submission.tasks(self.settings.tasks, ARRAY_MAX)
    }

    fn arguments(&self, subcommand: &str) -> Vec<String> {
        self.submission.arguments(subcommand, &self.submission.job_file)
    }

    fn work(&self) -> SubmitJobFluentBuilder {
        let settings = self.settings;
        let amounts = [
            (ResourceType::Gpu, settings.gpus.map(u64::from)),
            (ResourceType::Vcpu, settings.vcpus.map(u64::from)),
            (ResourceType::Memory, settings.memory_mib),
        ];
        let resources = amounts.into_iter().filter_map(|(kind, amount)| {
            Some(ResourceRequirement::builder().r#type(kind).value(amount?.to_string()).build())
        });
        let overrides = ContainerOverrides::builder()
            .set_command(Some(self.arguments("work")))
            .set_resource_requirements(Some(resources.collect()))
            .build();
        // Batch does not support an array of one. A task without an array's variables processes every shard.
        let tasks = i32::try_from(self.tasks()).ok().filter(|tasks| *tasks > 1);
        self.request("work", &settings.queue, &settings.job_definition)
            .container_overrides(overrides)
            .set_array_properties(tasks.map(|tasks| ArrayProperties::builder().size(tasks).build()))
            .set_timeout(
                settings
                    .timeout_seconds
                    .and_then(|seconds| i32::try_from(seconds).ok())
                    .map(|seconds| JobTimeout::builder().attempt_duration_seconds(seconds).build()),
            )
    }

    fn seal(&self, array: &str) -> SubmitJobFluentBuilder {
        let settings = self.settings;
        let queue = settings.seal_queue.as_ref().unwrap_or(&settings.queue);
        let definition = settings.seal_job_definition.as_ref().unwrap_or(&settings.job_definition);
        self.request("seal", queue, definition)
            .container_overrides(ContainerOverrides::builder().set_command(Some(self.arguments("seal"))).build())
            .depends_on(JobDependency::builder().job_id(array).build())
    }

    /// The common part of the tasks' and the seal's request.
    fn request(&self, subcommand: &str, queue: &str, definition: &str) -> SubmitJobFluentBuilder {
        let run = self.submission.run.as_str();
        self.client
            .submit_job()
            .job_name(format!("vidindex-{run}-{subcommand}"))
            .job_queue(queue)
            .job_definition(definition)
            .retry_strategy(self.retries())
            .tags("vidindex:run", run)
            .propagate_tags(true)
    }

    /// Ends the job for failures that a retry cannot fix: a wrong configuration (2), and a seal with missing shards or
    /// failed videos (3). Lost hosts, signals and exit code 1 (such as a store that does not respond) are retried.
    fn retries(&self) -> RetryStrategy {
        let rule = |action| EvaluateOnExit::builder().action(action);
        let rules = [
            rule(RetryAction::Retry).on_status_reason("Host EC2*").build(),
            rule(RetryAction::Exit).on_exit_code("2").build(),
            rule(RetryAction::Exit).on_exit_code("3").build(),
            rule(RetryAction::Exit).on_reason("CannotPullContainerError*").build(),
            rule(RetryAction::Retry).on_reason("*").build(),
        ];
        RetryStrategy::builder()
            .attempts(i32::try_from(self.settings.attempts).unwrap_or(1))
            .set_evaluate_on_exit(Some(rules.into()))
            .build()
    }
}

/// The region comes from the environment, or from the store if that is on AWS.
async fn client(store: &StoreConfig) -> Client {
    let region = store.region.clone().filter(|_| store.endpoint.is_none());
    let sdk = store::sdk_config(&StoreConfig { region, ..StoreConfig::default() }).await;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ANSWER_TIMEOUT).build();
    Client::from_conf(aws_sdk_batch::config::Builder::from(&sdk).timeout_config(timeouts).build())
}

/// Submits a job and returns its id.
async fn hand_in(request: SubmitJobFluentBuilder) -> Result<String> {
    let submitted = request.send().await.map_err(|error| {
        let said = match error.message() {
            Some(said) => said.to_owned(),
            None => DisplayErrorContext(&error).to_string(),
        };
        let hint = match &error {
            SdkError::ServiceError(_) => {
                "the settings come from [engine.aws-batch] in the job file, the region from AWS_REGION or the profile; \
                 the permissions batch:SubmitJob and batch:TagResource are required"
            }
            _ => "credentials and region come from the environment or the profile (AWS_PROFILE, AWS_REGION)",
        };
        Error::failed(format!("AWS Batch: {said}")).with_hint(hint)
    })?;
    let id = submitted.job_id().filter(|id| !id.is_empty());
    id.map(str::to_owned).ok_or_else(|| Error::failed("AWS Batch returned no job id"))
}

/// The body of the request as it would be sent.
async fn shown(request: SubmitJobFluentBuilder) -> Result<String> {
    let capture = Capture::default();
    // The request always ends with the capture's own error.
    let _ = request.customize().interceptor(capture.clone()).send().await;
    let body = capture.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    let value = serde_json::from_slice::<serde_json::Value>(&body.unwrap_or_default());
    let text = value.and_then(|value| serde_json::to_string_pretty(&value));
    text.map_err(|error| Error::failed(format!("failed to show the request for AWS Batch: {error}")))
}

/// Captures the body of a request, and stops the request before it is sent.
#[derive(Debug, Clone, Default)]
struct Capture(Arc<Mutex<Option<Vec<u8>>>>);

impl Intercept for Capture {
    fn name(&self) -> &'static str {
        "Capture"
    }

    fn read_after_serialization(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.request().body().bytes().map(<[u8]>::to_vec);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = body;
        Err("captured".into())
    }
}
