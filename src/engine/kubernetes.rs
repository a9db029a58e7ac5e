//! Kubernetes: an Indexed Job of tasks, and a Job whose pod waits for their commit records and then seals. Kubernetes
//! has no dependencies between Jobs, so the seal observes the output, which is the only shared state. It publishes when
//! every shard is committed, or whatever is committed when the tasks' deadline has passed.
//!
//! The objects are built from Kubernetes' own types and submitted with `kubectl`, which knows the user's clusters,
//! contexts and credentials, and whose version matches the cluster.

mod template;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvFromSource, EnvVar,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretEnvSource,
    SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio::process::Command;

use super::queue::Counts;
use super::{Submission, Submitted};
use crate::error::{Error, Result};
use crate::job::engine::Kubernetes;
use crate::run::RunId;
use template::PodTemplate;

/// Maximum number of indexes in a Job. Kubernetes supports ten times as many, but with other limits.
const TASKS_MAX: u32 = 10_000;

/// Retention of finished Jobs, so that they can be inspected.
const KEEP_SECONDS: i32 = 7 * 24 * 3600;

/// Directory of the job file in the pods, mounted from the ConfigMap.
const JOB_FOLDER: &str = "/etc/vidindex";
const JOB_FILE: &str = "job.toml";

/// Memory of the seal at most. It does not grow with the index.
const SEAL_MEMORY: &str = "1Gi";

const GPU: &str = "nvidia.com/gpu";

/// See [`super::submit`].
///
/// The image must contain the models at the same paths relative to its working directory, and have `vidindex` as its entry point.
/// The job file is elsewhere in the pods, so its paths are given again as arguments.
pub(super) async fn submit(submission: &Submission<'_>, dry_run: bool) -> Result<Submitted> {
    let file = submission.job_file.display();
    let settings = submission.job.engine.kubernetes.as_ref().ok_or_else(|| {
        Error::usage(format!("{file}: the section [engine.kubernetes] is missing")).with_hint(
            "add it, for example:\n    [engine.kubernetes]\n    image = \"registry.example/vidindex:1\"\n    gpus = 1",
        )
    })?;
    for (key, path) in submission.job.local_paths() {
        // Other absolute paths may be in the image, or come from a volume.
        let is_personal = std::env::home_dir()
            .is_some_and(|home| home.components().count() > 1 && Path::new(&path).starts_with(home));
        if is_personal && settings.pod_template.is_none() {
            return Err(Error::usage(format!("{file}: {key}: no image has {path}, which is in your home directory")).with_hint(
                "put it into the image, and name it relative to the working directory, or mount a volume with pod_template",
            ));
        }
    }
    let job_text = std::fs::read_to_string(&submission.job_file)
        .map_err(|error| Error::usage(format!("failed to read the job file {file}: {error}")))?;
    let template = settings.pod_template.as_deref().map(PodTemplate::read).transpose()?;
    let objects = Objects { submission, settings, template };
    let jobs = [objects.work()?, objects.seal()?];
    let mut job_file = objects.job_file(job_text);
    let (job_file_text, jobs_text) = (yaml(&[&job_file])?, yaml(&[&jobs[0], &jobs[1]])?);
    let all = format!("{job_file_text}---\n{jobs_text}");
    if dry_run {
        return Ok(Submitted::shown(vec![all.trim_end().to_owned()]));
    }
    // Objects of an earlier submission of this run would conflict.
    kubectl(&["delete", "--ignore-not-found", "-f", "-"], &all).await?;
    let created = kubectl(&["create", "-f", "-"], &jobs_text).await?;
    // The job file comes after the Jobs, which own it, so that it disappears together with them. Until then, their pods wait.
    job_file.metadata.owner_references = Some(owners(&listed(submission.job, submission.run).await?));
    let created_file = kubectl(&["create", "-f", "-"], &yaml(&[&job_file])?).await?;
    let namespace = settings.namespace.as_ref().map(|name| format!(" --namespace {name}")).unwrap_or_default();
    let mut lines: Vec<_> = created.lines().chain(created_file.lines()).map(str::to_owned).collect();
    let label = format!("{LABEL}={}", submission.run);
    lines.push(format!("watch   kubectl get jobs,pods{namespace} -l {label}"));
    lines.push(format!("stop    kubectl delete jobs,configmaps{namespace} -l {label}"));
    let jobs = jobs.into_iter().filter_map(|job| job.metadata.name).collect();
    Ok(Submitted { lines, jobs })
}

fn owners(jobs: &[Job]) -> Vec<OwnerReference> {
    let owner = |job: &Job| {
        Some(OwnerReference {
            api_version: "batch/v1".to_owned(),
            kind: "Job".to_owned(),
            name: job.metadata.name.clone()?,
            uid: job.metadata.uid.clone()?,
            ..OwnerReference::default()
        })
    };
    jobs.iter().filter_map(owner).collect()
}

/// Counts the waiting and running pods of the run.
pub(super) async fn counts(job: &crate::job::Job, run: &RunId) -> Result<Counts> {
    Ok(count(&listed(job, run).await?))
}

/// The Jobs of the run in the cluster.
async fn listed(job: &crate::job::Job, run: &RunId) -> Result<Vec<Job>> {
    let label = format!("--selector={LABEL}={run}");
    let namespace = job.engine.kubernetes.as_ref().and_then(|settings| settings.namespace.as_ref());
    let namespace = namespace.map(|name| format!("--namespace={name}"));
    let arguments: Vec<&str> =
        ["get", "jobs", "--output=json", &label].into_iter().chain(namespace.as_deref()).collect();
    let listed = kubectl(&arguments, "").await?;
    parse(&listed).map_err(|error| Error::failed(format!("kubectl: failed to parse its list of Jobs: {error}")))
}

fn parse(listed: &str) -> Result<Vec<Job>, serde_json::Error> {
    /// The format in which `kubectl` lists objects of any kind.
    #[derive(serde::Deserialize)]
    struct Jobs {
        items: Vec<Job>,
    }
    Ok(serde_json::from_str::<Jobs>(listed)?.items)
}

fn count(jobs: &[Job]) -> Counts {
    jobs.iter().map(count_job).fold(Counts::default(), |sum, job| Counts {
        pending: sum.pending + job.pending,
        running: sum.running + job.running,
    })
}

/// An unfinished Job has indexes that are still to come, and pods that are ready or not ready yet.
fn count_job(job: &Job) -> Counts {
    let number = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let Some(status) = &job.status else { return Counts { pending: 1, running: 0 } };
    let ends = |kind: &str| kind == "Complete" || kind == "Failed";
    if status.conditions.iter().flatten().any(|condition| ends(&condition.type_) && condition.status == "True") {
        return Counts::default();
    }
    let completions = job.spec.as_ref().and_then(|spec| spec.completions).or(Some(1));
    let running = number(status.ready);
    let over = number(status.succeeded) + running;
    Counts { pending: number(completions).saturating_sub(over), running }
}

/// Label on every object of the run, with the run's id as its value.
const LABEL: &str = "vidindex/run";

struct Objects<'a> {
    submission: &'a Submission<'a>,
    settings: &'a Kubernetes,
    template: Option<PodTemplate>,
}

impl Objects<'_> {
    fn job_file(&self, text: String) -> ConfigMap {
        ConfigMap {
            metadata: self.metadata("job"),
            data: Some(BTreeMap::from([(JOB_FILE.to_owned(), text)])),
            immutable: Some(true),
            ..ConfigMap::default()
        }
    }

    fn work(&self) -> Result<Job> {
        let settings = self.settings;
        let tasks = self.submission.tasks(settings.tasks, TASKS_MAX);
        let quantity = |name: &str, amount: &Option<String>| Some((name.to_owned(), Quantity(amount.clone()?)));
        let gpus = settings.gpus.map(|gpus| (GPU.to_owned(), Quantity(gpus.to_string())));
        let cpus = quantity("cpu", &settings.cpus);
        let scratch = quantity("ephemeral-storage", &settings.scratch);
        let memory = quantity("memory", &settings.memory);
        let container = Container {
            env: Some(vec![EnvVar {
                name: "VIDINDEX_TASKS".to_owned(),
                value: Some(tasks.to_string()),
                value_from: None,
            }]),
            resources: Some(ResourceRequirements {
                // Pods may also use processors that nobody else needs.
                requests: Some(cpus.into_iter().chain(memory.clone()).chain(scratch).collect()),
                limits: Some(memory.into_iter().chain(gpus).collect()),
                claims: None,
            }),
            ..self.container("work", vec![])
        };
        let mut pod = self.pod(container);
        pod.node_selector = Some(settings.node_selector.clone());
        let gpu_nodes = settings.gpus.map(|_| toleration(GPU, None, Some("NoSchedule")));
        pod.tolerations =
            Some(settings.tolerations.iter().map(|taint| asked_toleration(taint)).chain(gpu_nodes).collect());
        let spec = JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: i32::try_from(tasks).ok(),
            parallelism: i32::try_from(settings.at_once.unwrap_or(tasks).min(tasks)).ok(),
            backoff_limit_per_index: i32::try_from(settings.attempts - 1).ok(),
            max_failed_indexes: settings.max_failed_tasks.and_then(|count| i32::try_from(count).ok()),
            active_deadline_seconds: Some(settings.deadline_seconds.into()),
            ..self.spec(pod, "work", false)?
        };
        Ok(Job { metadata: self.metadata("work"), spec: Some(spec), status: None })
    }

    fn seal(&self) -> Result<Job> {
        let wait = ["--wait".to_owned(), self.settings.deadline_seconds.to_string()];
        let container = Container {
            resources: Some(ResourceRequirements {
                requests: Some(BTreeMap::from([
                    ("cpu".to_owned(), Quantity("100m".to_owned())),
                    ("memory".to_owned(), Quantity("256Mi".to_owned())),
                ])),
                limits: Some(BTreeMap::from([("memory".to_owned(), Quantity(SEAL_MEMORY.to_owned()))])),
                ..ResourceRequirements::default()
            }),
            ..self.container("seal", wait.to_vec())
        };
        let spec = JobSpec {
            backoff_limit: i32::try_from(self.settings.attempts - 1).ok(),
            ..self.spec(self.pod(container), "seal", true)?
        };
        Ok(Job { metadata: self.metadata("seal"), spec: Some(spec), status: None })
    }

    /// The local paths of the job, as this process and the pods see them.
    fn paths(&self) -> Vec<String> {
        let paths = self.submission.job.local_paths().into_iter();
        paths.flat_map(|(key, path)| ["--set".to_owned(), format!("{key}={path}")]).collect()
    }

    fn metadata(&self, what: &str) -> ObjectMeta {
        ObjectMeta {
            // Names must be in lower case.
            name: Some(format!("vidindex-{}-{what}", self.submission.run).to_lowercase()),
            namespace: self.settings.namespace.clone(),
            labels: Some(self.labels()),
            ..ObjectMeta::default()
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let run = self.submission.run.to_string();
        BTreeMap::from([("app.kubernetes.io/name".to_owned(), "vidindex".to_owned()), (LABEL.to_owned(), run)])
    }

    fn spec(&self, pod: PodSpec, container: &str, is_seal: bool) -> Result<JobSpec> {
        let pod = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some(self.labels()), ..ObjectMeta::default() }),
            spec: Some(pod),
        };
        let template = match &self.template {
            Some(template) => template.over(pod, container, is_seal)?,
            None => pod,
        };
        Ok(JobSpec {
            pod_failure_policy: Some(failure_policy(container)),
            ttl_seconds_after_finished: Some(KEEP_SECONDS),
            template,
            ..JobSpec::default()
        })
    }

    fn pod(&self, container: Container) -> PodSpec {
        let job_file = ConfigMapVolumeSource {
            name: self.metadata("job").name.unwrap_or_default(),
            ..ConfigMapVolumeSource::default()
        };
        PodSpec {
            containers: vec![container],
            // Required by the failure policy: the Job retries, not the kubelet.
            restart_policy: Some("Never".to_owned()),
            service_account_name: self.settings.service_account.clone(),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            volumes: Some(vec![
                Volume { name: "job".to_owned(), config_map: Some(job_file), ..Volume::default() },
                Volume {
                    name: "scratch".to_owned(),
                    empty_dir: Some(EmptyDirVolumeSource {
                        size_limit: self.settings.scratch.clone().map(Quantity),
                        ..EmptyDirVolumeSource::default()
                    }),
                    ..Volume::default()
                },
            ]),
            ..PodSpec::default()
        }
    }

    fn container(&self, subcommand: &str, more: Vec<String>) -> Container {
        let job_file = format!("{JOB_FOLDER}/{JOB_FILE}");
        let mount = |name: &str, path: &str, read_only| VolumeMount {
            name: name.to_owned(),
            mount_path: path.to_owned(),
            read_only,
            ..VolumeMount::default()
        };
        let environment = self.settings.secret.as_ref().map(|name| {
            let secret = SecretEnvSource { name: name.clone(), optional: None };
            vec![EnvFromSource { secret_ref: Some(secret), ..EnvFromSource::default() }]
        });
        Container {
            name: subcommand.to_owned(),
            image: Some(self.settings.image.clone()),
            args: Some([self.submission.arguments(subcommand, job_file.as_ref()), self.paths(), more].concat()),
            env_from: environment,
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(vec![mount("job", JOB_FOLDER, Some(true)), mount("scratch", "/tmp", None)]),
            ..Container::default()
        }
    }
}

/// A pod that was evicted or stopped does not count as an attempt. A wrong configuration (2), and a seal with missing
/// shards or failed videos (3), end the Job, because a retry fixes neither. Everything else (1, killed) counts as an
/// attempt.
fn failure_policy(container: &str) -> PodFailurePolicy {
    let rule = |action: &str| PodFailurePolicyRule { action: action.to_owned(), ..PodFailurePolicyRule::default() };
    let codes = |values: &[i32]| {
        Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(container.to_owned()),
            operator: "In".to_owned(),
            values: values.to_vec(),
        })
    };
    let disrupted =
        PodFailurePolicyOnPodConditionsPattern { type_: "DisruptionTarget".to_owned(), status: "True".to_owned() };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule { on_pod_conditions: Some(vec![disrupted]), ..rule("Ignore") },
            PodFailurePolicyRule { on_exit_codes: codes(&[130, 143]), ..rule("Ignore") },
            PodFailurePolicyRule { on_exit_codes: codes(&[2, 3]), ..rule("FailJob") },
            PodFailurePolicyRule { on_exit_codes: codes(&[1]), ..rule("Count") },
        ],
    }
}

/// `key[=value][:Effect]`, as `kubectl taint` writes a taint.
fn asked_toleration(taint: &str) -> Toleration {
    let (taint, effect) = taint.split_once(':').map_or((taint, None), |(taint, effect)| (taint, Some(effect)));
    let (key, value) = taint.split_once('=').map_or((taint, None), |(key, value)| (key, Some(value)));
    toleration(key, value, effect)
}

fn toleration(key: &str, value: Option<&str>, effect: Option<&str>) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some(if value.is_some() { "Equal" } else { "Exists" }.to_owned()),
        value: value.map(str::to_owned),
        effect: effect.map(str::to_owned),
        toleration_seconds: None,
    }
}

fn yaml<T: serde::Serialize>(objects: &[&T]) -> Result<String> {
    let documents: Result<Vec<_>, _> = objects.iter().map(serde_norway::to_string).collect();
    let documents =
        documents.map_err(|error| Error::failed(format!("failed to write the objects for Kubernetes: {error}")))?;
    Ok(documents.join("---\n"))
}

async fn kubectl(arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new("kubectl");
    command.args(arguments);
    super::tool::run(
        command,
        input,
        "submit from a machine where kubectl is installed, on the PATH and logged in to the cluster",
        "the settings come from [engine.kubernetes] in the job file; --dry-run shows the objects",
    )
    .await
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn pods_are_counted_as_kubectl_lists_them() {
        let job = |spec: &str, status: &str| {
            format!("{{\"apiVersion\": \"batch/v1\", \"kind\": \"Job\", \"spec\": {spec}, \"status\": {status}}}")
        };
        let list = |jobs: &[String]| {
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"metadata\": {{}}, \"items\": [{}]}}",
                jobs.join(", ")
            )
        };
        let template = "\"template\": {\"metadata\": {}, \"spec\": {\"containers\": []}}";
        let tasks = format!("{{\"completions\": 8, {template}}}");
        let seal = format!("{{{template}}}");
        let count = |listed: &str| count(&parse(listed).unwrap());
        assert_eq!(count(&list(&[])), Counts::default());
        // Two of eight run, one is finished; the seal waits for a machine.
        let both = [
            job(&tasks, "{\"active\": 3, \"ready\": 2, \"succeeded\": 1}"),
            job(&seal, "{\"active\": 1, \"ready\": 0}"),
        ];
        assert_eq!(count(&list(&both)), Counts { pending: 6, running: 2 });
        let failed = "{\"failed\": 1, \"conditions\": [{\"type\": \"Failed\", \"status\": \"True\"}]}";
        assert_eq!(count(&list(&[job(&tasks, failed)])), Counts::default());
    }
}
