//! A run on Kubernetes: the manifests are validated against the published schemas and the rules that are not in them,
//! and the pods' commands are run locally, as their containers would run them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{self, Scratch, run, said, stderr, stdout, tables, test_video, vidindex};

const TABLES: [&str; 3] = ["videos", "actions", "persons"];

const ENGINE: &str = "[engine.kubernetes]\nimage = \"registry.example/vidindex:1\"\nnamespace = \"video\"\n\
                      service_account = \"indexer\"\nsecret = \"s3\"\ngpus = 1\ncpus = \"3500m\"\nmemory = \"16Gi\"\n\
                      tasks = 2\nat_once = 8\ndeadline_seconds = 120\nnode_selector = [\"pool=spot\"]\n\
                      tolerations = [\"spot=true:NoSchedule\", \"example.com/batch\"]\n\
                      scratch = \"50Gi\"\nmax_failed_tasks = 1\n";

const TEMPLATE: &str = "\
apiVersion: v1
kind: Pod
metadata: {annotations: {example.com/cost-center: '42'}}
spec:
  imagePullSecrets: [{name: registry}]
  initContainers:
  - {name: models, image: registry.example/aws-cli, args: [s3, sync, 's3://models', /models], volumeMounts: [{name: models, mountPath: /models}]}
  volumes: [{name: models, emptyDir: {}}]
  containers:
  - {name: vidindex, env: [{name: VIDINDEX_LOG_FORMAT, value: json}], volumeMounts: [{name: models, mountPath: /models}]}
";

/// Validates YAML documents against the schemas of the oldest and the newest version, without unknown fields, and
/// prints them as JSON.
const VALIDATE: &str = r#"
import json, sys, yaml
import kubernetes_validate
documents = list(yaml.safe_load_all(sys.stdin))
for document in documents:
    for version in ["1.29", kubernetes_validate.latest_version()]:
        kubernetes_validate.validate(document, version, strict=True)
print(json.dumps(documents))
"#;

/// The documents, or `None` after a message that the test is skipped.
fn validated(yaml: &[u8]) -> Option<Vec<Value>> {
    let mut python = Command::new(support::python()?);
    python.args(["-c", VALIDATE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(yaml).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Checks the spec of a Job against the rules that are not in the schemas.
fn assert_valid(job: &Value) {
    let pod = &job["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never", "a failure policy requires it: {job:#}");
    let names: Vec<&Value> = pod["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    let rules = job["podFailurePolicy"]["rules"].as_array().unwrap();
    assert!(rules.len() <= 20);
    for rule in rules {
        let action = rule["action"].as_str().unwrap();
        assert!(["FailJob", "FailIndex", "Ignore", "Count"].contains(&action), "{rule}");
        assert!(action != "FailIndex" || job.get("backoffLimitPerIndex").is_some(), "{rule}");
        assert!(
            rule.get("onExitCodes").is_some() != rule.get("onPodConditions").is_some(),
            "exactly one of the two: {rule}"
        );
        if let Some(codes) = rule.get("onExitCodes") {
            assert!(["In", "NotIn"].contains(&codes["operator"].as_str().unwrap()), "{rule}");
            assert!(names.contains(&&codes["containerName"]), "{rule}");
            let values: Vec<i64> = serde_json::from_value(codes["values"].clone()).unwrap();
            assert!(values.is_sorted_by(|a, b| a < b) && !values.contains(&0), "{rule}");
        }
        for condition in rule["onPodConditions"].as_array().into_iter().flatten() {
            assert!(["True", "False", "Unknown"].contains(&condition["status"].as_str().unwrap()), "{rule}");
        }
    }
    if let Some(mode) = job.get("completionMode") {
        assert_eq!(mode, "Indexed");
        assert!(job["completions"].as_u64().is_some_and(|count| (1..=100_000).contains(&count)));
        assert!(job.get("backoffLimit").is_none(), "each index has its own limit");
    } else {
        assert!(job.get("backoffLimitPerIndex").is_none(), "only an Indexed Job can have it");
    }
    for toleration in pod["tolerations"].as_array().into_iter().flatten() {
        let operator = toleration["operator"].as_str().unwrap();
        assert!(["Exists", "Equal"].contains(&operator), "{toleration}");
        assert!(operator == "Equal" || toleration.get("value").is_none(), "{toleration}");
        let effect = toleration.get("effect").map_or("NoSchedule", |effect| effect.as_str().unwrap());
        assert!(["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect), "{toleration}");
    }
    let volumes: Vec<&Value> = pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for container in pod["containers"].as_array().unwrap() {
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        let mounts = container["volumeMounts"].as_array().unwrap();
        assert!(mounts.iter().all(|mount| volumes.contains(&&mount["name"])), "{container:#}");
        assert!(mounts.iter().any(|mount| mount["mountPath"] == "/tmp"), "scratch files need a writable folder");
        let resources = &container["resources"];
        assert!(resources["requests"].get("nvidia.com/gpu").is_none(), "the limit of GPUs is also their request");
    }
}

/// An archive of three videos, and its job, with one shard per video.
fn archive() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    for i in 0..3 {
        test_video(&scratch.videos().join(format!("{i}.mp4")), "160x120", "25", 3.0, &["-pix_fmt", "yuv420p"]);
    }
    let job = scratch.job(&format!("{}[run]\ndevice = \"cpu\"\nshard_bytes = 1\n{ENGINE}", scratch.small_models()));
    (scratch, job)
}

fn submit(job: &Path, args: &[&str]) -> Command {
    let mut command = vidindex(["submit".as_ref(), job.as_os_str()]);
    command.args(["--engine", "kubernetes"]).args(args);
    command
}

#[test]
fn the_manifests_are_valid_and_their_commands_index_the_archive() {
    let (scratch, job) = archive();
    let planned = vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap();
    let id = stdout(&planned);
    let template = scratch.path("pod.yaml");
    std::fs::write(&template, TEMPLATE).unwrap();
    let text = std::fs::read_to_string(&job).unwrap();
    std::fs::write(&job, format!("{text}pod_template = {:?}\n", template.display().to_string())).unwrap();
    let dry_run = submit(&job, &["--dry-run", "--run", &id]).output().unwrap();
    assert!(dry_run.status.success(), "{}", said(&dry_run));
    let Some(manifests) = validated(&dry_run.stdout) else { return };
    let [file, work, seal] = &manifests[..] else { panic!("{manifests:#?}") };
    for manifest in &manifests {
        assert_eq!(manifest["metadata"]["namespace"], "video");
        assert_eq!(manifest["metadata"]["labels"]["vidindex/run"], id);
        let name = manifest["metadata"]["name"].as_str().unwrap();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= 52 && name.chars().all(allowed), "{name}");
    }
    [work, seal].iter().for_each(|job| assert_valid(&job["spec"]));
    assert_eq!(work["spec"]["completions"], 2);
    assert_eq!(work["spec"]["parallelism"], 2);
    assert_eq!(work["spec"]["backoffLimitPerIndex"], 2);
    let actions: Vec<&Value> =
        work["spec"]["podFailurePolicy"]["rules"].as_array().unwrap().iter().map(|rule| &rule["action"]).collect();
    assert_eq!(actions, ["Ignore", "Ignore", "FailJob", "Count"]);
    let pod = &work["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({"pool": "spot"}));
    assert_eq!(
        pod["tolerations"][0],
        json!({"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    );
    assert_eq!(pod["tolerations"][1], json!({"key": "example.com/batch", "operator": "Exists"}));
    assert_eq!(work["spec"]["maxFailedIndexes"], 1);
    assert_eq!(pod["containers"][0]["resources"]["requests"]["ephemeral-storage"], "50Gi");
    assert_eq!(pod["volumes"][1]["emptyDir"]["sizeLimit"], "50Gi");
    assert_eq!(pod["initContainers"][0]["name"], "models");
    for job in [work, seal] {
        let template = &job["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"]["example.com/cost-center"], "42");
        assert_eq!(template["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    }
    let of_seal = &seal["spec"]["template"]["spec"];
    assert!(
        of_seal.get("initContainers").is_none() && of_seal["containers"][0]["resources"]["limits"]["memory"] == "1Gi"
    );
    assert_eq!(pod["containers"][0]["resources"]["limits"], json!({"memory": "16Gi", "nvidia.com/gpu": "1"}));
    assert_eq!(pod["volumes"][0]["configMap"]["name"], file["metadata"]["name"]);

    // The seal starts together with the tasks, like its pod.
    let mounted = scratch.path("mounted.toml");
    std::fs::write(&mounted, file["data"]["job.toml"].as_str().unwrap()).unwrap();
    let container = |job: &Value| {
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        let args: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
        let path = mounted.to_str().unwrap();
        let mut command = vidindex(args.iter().map(|arg| if arg == "/etc/vidindex/job.toml" { path } else { arg }));
        for variable in container["env"].as_array().into_iter().flatten() {
            command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
        }
        command.stderr(Stdio::piped());
        command
    };
    let sealing = container(seal).spawn().unwrap();
    let tasks = ["0", "1"].map(|index| container(work).env("JOB_COMPLETION_INDEX", index).spawn().unwrap());
    for process in tasks.into_iter().chain([sealing]) {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    let expected = scratch.path("expected");
    run(&job, &["--set", &format!("output.uri={}", expected.display())], 0);
    for table in TABLES {
        assert_eq!(tables::stable_rows(&scratch.index(), table), tables::stable_rows(&expected, table), "{table}");
    }
}

#[test]
fn seal_stops_waiting_after_the_given_time() {
    let (_scratch, job) = archive();
    let id = stdout(&vidindex(["plan".as_ref(), job.as_os_str()]).output().unwrap());
    let sealed = vidindex(["seal".as_ref(), job.as_os_str()]).args(["--run", &id, "--wait", "2"]).output().unwrap();
    assert_eq!(sealed.status.code(), Some(3), "{}", said(&sealed));
    assert!(stderr(&sealed).contains("missing    shards [0, 1, 2]"), "{}", said(&sealed));
}

#[test]
fn the_cron_job_example_is_valid() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs/kubernetes-cron.yaml");
    let Some(documents) = validated(&std::fs::read(file).unwrap()) else { return };
    let spec = &documents[0]["spec"];
    assert!(["Allow", "Forbid", "Replace"].contains(&spec["concurrencyPolicy"].as_str().unwrap()));
    assert_eq!(spec["schedule"].as_str().unwrap().split(' ').count(), 5);
    assert_valid(&spec["jobTemplate"]["spec"]);
}

#[test]
fn kubectl_gets_the_manifests_that_a_dry_run_prints() {
    use std::os::unix::fs::PermissionsExt;
    let (scratch, job) = archive();
    let missing = submit(&job, &[]).env("PATH", "/nowhere").output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("kubectl: failed to run"), "{}", said(&missing));
    // Keeps what it is given, and has created Jobs since.
    let bin = scratch.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let jobs = r#"{"items": [{"metadata": {"name": "w", "uid": "1-2"}}, {"metadata": {"name": "s", "uid": "3-4"}}]}"#;
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{0}/calls\ncat >>{0}/$1.yaml\n[ $1 != get ] || echo '{jobs}'\n",
        bin.display()
    );
    std::fs::write(bin.join("kubectl"), script).unwrap();
    std::fs::set_permissions(bin.join("kubectl"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let submitted = submit(&job, &[]).env("PATH", path).output().unwrap();
    assert!(submitted.status.success(), "{}", said(&submitted));
    let dry_run = submit(&job, &["--dry-run", "--run", &stdout(&submitted)]).output().unwrap();
    let given = |call: &str| std::fs::read_to_string(bin.join(format!("{call}.yaml"))).unwrap();
    assert_eq!(given("delete").trim(), stdout(&dry_run));
    // The Jobs come first, and own the job file.
    let shown = stdout(&dry_run);
    let (file, jobs) = shown.split_once("---\n").unwrap();
    let created = given("create");
    let (before, after) = created.split_at(jobs.len());
    assert_eq!(before, jobs);
    let owned: Vec<&str> = after.trim_start().lines().filter(|line| !file.contains(line)).map(str::trim).collect();
    let owner = |name, uid| {
        ["- apiVersion: batch/v1".to_owned(), "kind: Job".to_owned(), format!("name: {name}"), format!("uid: {uid}")]
    };
    assert_eq!(owned[0], "ownerReferences:");
    assert_eq!(owned[1..], [owner("w", "1-2"), owner("s", "3-4")].concat(), "{after}");
    let id = stdout(&submitted).lines().last().unwrap().to_owned();
    let calls = std::fs::read_to_string(bin.join("calls")).unwrap();
    assert_eq!(
        calls,
        format!(
            "delete --ignore-not-found -f -\ncreate -f -\nget jobs --output=json --selector=vidindex/run={id} \
             --namespace=video\ncreate -f -\n"
        )
    );
}
