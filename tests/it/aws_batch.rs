//! A run on AWS Batch: the requests are validated against the service's API model and sent to a mock server, and the
//! submitted commands are run locally, as the containers would run them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::s3::{FOREIGN_VARIABLES, S3Server, environment};
use crate::support::{self, Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

const TABLES: [&str; 3] = ["videos", "actions", "persons"];

const ENGINE: &str = "[engine.aws-batch]\nqueue = \"tasks\"\njob_definition = \"vidindex\"\nseal_queue = \"seals\"\n\
                      gpus = 1\nvcpus = 4\nmemory = \"15 GiB\"\ntimeout_seconds = 7200\n";

/// Creates two queues and a job definition on the server. Its jobs succeed immediately, without containers.
const SET_UP: &str = r#"
import boto3, json, sys, urllib.request
endpoint = sys.argv[1]
config = json.dumps({"batch": {"use_docker": False}}).encode()
urllib.request.urlopen(urllib.request.Request(endpoint + "/moto-api/config", config, {"Content-Type": "application/json"}))
client = lambda name: boto3.client(name, "eu-west-1", endpoint_url=endpoint)
role = client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
batch = client("batch")
batch.create_compute_environment(computeEnvironmentName="machines", type="UNMANAGED", serviceRole=role)
for queue in ["tasks", "seals"]:
    batch.create_job_queue(jobQueueName=queue, state="ENABLED", priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": "machines"}])
batch.register_job_definition(jobDefinitionName="vidindex", type="container", containerProperties={"image": "vidindex",
    "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "512"}]})
"#;

/// Prints the server's jobs as JSON, by name.
const DESCRIBE: &str = r#"
import boto3, json, sys
batch = boto3.client("batch", "eu-west-1", endpoint_url=sys.argv[1])
ids = [j["jobId"] for q in ["tasks", "seals"] for s in ["SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"]
       for j in batch.list_jobs(jobQueue=q, jobStatus=s)["jobSummaryList"]]
print(json.dumps({j["jobName"]: j for j in batch.describe_jobs(jobs=ids)["jobs"] if not "arrayProperties" in j or "index" not in j["arrayProperties"]}, default=str))
"#;

/// Validates each request against the service's API model: names, types, required members, ranges and enum values.
const VALIDATE: &str = r#"
import json, re, sys
from botocore.session import get_session
from botocore.validate import ParamValidator
shape = get_session().get_service_model("batch").operation_model("SubmitJob").input_shape
def enums(shape, value):
    if shape.type_name == "structure":
        for name, inner in value.items(): enums(shape.members[name], inner)
    elif shape.type_name == "list":
        for inner in value: enums(shape.member, inner)
    elif getattr(shape, "enum", None):
        assert value in shape.enum, (value, shape.enum)
text, decoder, count = sys.stdin.read().strip(), json.JSONDecoder(), 0
while text:
    body, end = decoder.raw_decode(text)
    text, count = text[end:].strip(), count + 1
    report = ParamValidator().validate(body, shape)
    assert not report.has_errors(), report.generate_report()
    enums(shape, body)
    assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,127}", body["jobName"])
    assert len(body["retryStrategy"]["evaluateOnExit"]) <= 5
    assert all("action" in rule and len(rule) > 1 for rule in body["retryStrategy"]["evaluateOnExit"])
print(count)
"#;

fn python(program: &str, argument: &str) -> Option<Command> {
    let mut python = Command::new(support::python()?);
    python.args(["-c", program, argument]).envs(environment());
    Some(python)
}

/// An archive of this many videos, and its job, with one shard per video.
fn archive(videos: usize) -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    for i in 0..videos {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[run]\ndevice = \"cpu\"\nshard_bytes = 1\n{ENGINE}", scratch.small_models()));
    (scratch, job)
}

fn submit(job: &Path, endpoint: &str, args: &[&str]) -> Output {
    let mut command = vidindex(["submit".as_ref(), job.as_os_str()]);
    for name in FOREIGN_VARIABLES {
        command.env_remove(name);
    }
    command.args(["--engine", "aws-batch"]).args(args).envs(environment());
    command.env("AWS_REGION", "eu-west-1").env("AWS_ENDPOINT_URL_BATCH", endpoint).output().unwrap()
}

#[test]
fn a_submitted_run_is_an_array_job_and_a_seal_job_whose_commands_index_the_archive() {
    let Some(server) = S3Server::start() else { return };
    let Some(mut set_up) = python(SET_UP, &server.endpoint()) else { return };
    let output = set_up.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let (scratch, job) = archive(3);
    let submitted = submit(&job, &server.endpoint(), &["--set", "persons.iou=0.5"]);
    assert!(submitted.status.success(), "{}", said(&submitted));
    let id = stdout(&submitted);

    // All jobs of the server have ended, but `status` still queries them.
    let mut status = vidindex(["status".as_ref(), job.as_os_str(), "--run".as_ref(), id.as_ref(), "--json".as_ref()]);
    let status = status.envs(environment()).env("AWS_REGION", "eu-west-1");
    let status = status.env("AWS_ENDPOINT_URL_BATCH", server.endpoint()).output().unwrap();
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["engine"]["engine"], &status["engine"]["problem"]), (&json!("aws-batch"), &Value::Null));
    assert!(status["engine"]["pending"].is_u64() && status["engine"]["running"].is_u64(), "{status:#}");

    let described = python(DESCRIBE, &server.endpoint()).unwrap().output().unwrap();
    assert!(described.status.success(), "{}", said(&described));
    let jobs: Value = serde_json::from_slice(&described.stdout).unwrap();
    let [work, seal] = ["work", "seal"].map(|name| &jobs[format!("vidindex-{id}-{name}")]);
    assert_eq!(work["arrayProperties"]["size"], 3, "{jobs:#}");
    assert!(work["jobQueue"].as_str().unwrap().ends_with("/tasks"), "{work:#}");
    assert!(seal["jobQueue"].as_str().unwrap().ends_with("/seals"), "{seal:#}");
    assert_eq!(work["timeout"]["attemptDurationSeconds"], 7200, "{work:#}");
    assert_eq!(seal["dependsOn"][0]["jobId"], work["jobId"], "{seal:#}");

    let command = |job: &Value| -> Vec<String> { serde_json::from_value(job["container"]["command"].clone()).unwrap() };
    for index in ["0", "1", "2"] {
        let mut task = vidindex(command(work));
        task.env("AWS_BATCH_JOB_ARRAY_INDEX", index).env("AWS_BATCH_JOB_ARRAY_SIZE", "3");
        let output = task.env("AWS_BATCH_JOB_ATTEMPT", "1").output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let committed = std::fs::read_dir(scratch.index().join("_vidindex/runs").join(&id).join("shards")).unwrap();
    assert_eq!(committed.count(), 3, "each task commits one shard");
    let sealed = vidindex(command(seal)).env("AWS_BATCH_JOB_ATTEMPT", "1").output().unwrap();
    assert!(sealed.status.success(), "{}", said(&sealed));
    let expected = scratch.path("expected");
    run(&job, &["--set", "persons.iou=0.5", "--set", &format!("output.uri={}", expected.display())], 0);
    for table in TABLES {
        assert_eq!(tables::stable_rows(&scratch.index(), table), tables::stable_rows(&expected, table), "{table}");
    }
}

#[test]
fn a_dry_run_prints_requests_that_are_valid_in_the_services_api_model() {
    use std::io::Write;
    let Some(mut validate) = python(VALIDATE, "") else { return };
    let (scratch, job) = archive(3);
    let unreachable = "http://127.0.0.1:1";
    let dry_run = submit(&job, unreachable, &["--dry-run"]);
    assert!(dry_run.status.success(), "{}", said(&dry_run));
    assert!(!scratch.index().exists(), "nothing was written");
    // A single task is a plain job, not an array.
    let single = submit(&job, unreachable, &["--dry-run", "--set", "engine.aws-batch.tasks=1"]);
    let requests: Vec<Value> =
        serde_json::Deserializer::from_slice(&single.stdout).into_iter().map(Result::unwrap).collect();
    assert!(requests[0].get("arrayProperties").is_none(), "{}", said(&single));
    let resources = [("GPU", "1"), ("VCPU", "4"), ("MEMORY", "15360")];
    let resources = resources.map(|(kind, value)| json!({"type": kind, "value": value}));
    assert_eq!(requests[0]["containerOverrides"]["resourceRequirements"], json!(resources));
    let rules = requests[0]["retryStrategy"]["evaluateOnExit"].as_array().unwrap();
    assert_eq!(rules[0], json!({"onStatusReason": "Host EC2*", "action": "RETRY"}));
    assert!(rules.contains(&json!({"onExitCode": "2", "action": "EXIT"})));
    assert_eq!(rules.last().unwrap(), &json!({"onReason": "*", "action": "RETRY"}));

    validate.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut validating = validate.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = validating.stdin.take().unwrap();
    stdin.write_all(&dry_run.stdout).unwrap();
    stdin.write_all(&single.stdout).unwrap();
    drop(stdin);
    let output = validating.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "4", "{}", said(&output));
}

#[test]
fn a_missing_section_and_an_unreachable_service_are_reported() {
    let (_scratch, job) = archive(1);
    let failed = submit(&job, "http://127.0.0.1:1", &[]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    assert!(stderr(&failed).contains("AWS Batch: "), "{}", said(&failed));
    let text = std::fs::read_to_string(&job).unwrap();
    std::fs::write(&job, text.replace(ENGINE, "")).unwrap();
    let failed = submit(&job, "http://127.0.0.1:1", &["--dry-run"]);
    assert_eq!(failed.status.code(), Some(2), "{}", said(&failed));
    assert!(stderr(&failed).contains("[engine.aws-batch] is missing"), "{}", said(&failed));
}
