//! The user's pod template: a manifest that is laid over the pods of a run, for what only a cluster's users know: labels and
//! annotations, secrets of the registry, variables, volumes and init containers.

use std::path::Path;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The name of the container in a template that stands for the run's own containers.
const CONTAINER: &str = "vidindex";

/// What is only meant for tasks, and not for the seal, which needs neither a GPU nor models.
const ONLY_FOR_TASKS: [&str; 5] = ["affinity", "initContainers", "nodeSelector", "runtimeClassName", "tolerations"];

/// A template that was checked.
#[derive(Debug)]
pub(super) struct PodTemplate(Value);

impl PodTemplate {
    /// Reads the manifest of a Pod in YAML.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::usage(format!("failed to read the pod template {name}: {error}")))?;
        Self::parse(&text).map_err(|problem| {
            Error::usage(format!("the pod template {name}: {problem}"))
                .with_hint("it is the manifest of a Pod; its container `vidindex` stands for the containers of the run")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut manifest: Value = serde_norway::from_str(text).map_err(|error| error.to_string())?;
        let fields = manifest.as_object_mut().ok_or("it is not a manifest")?;
        if fields.remove("kind").is_some_and(|kind| kind != "Pod" && kind != "PodTemplate") {
            return Err("its kind is not Pod".to_owned());
        }
        fields.remove("apiVersion");
        let typed: PodTemplateSpec = serde_json::from_value(manifest.clone()).map_err(|error| error.to_string())?;
        let typed = serde_json::to_value(typed).map_err(|error| error.to_string())?;
        if let Some(field) = unknown(&manifest, &typed, "") {
            return Err(format!("unknown field `{field}`"));
        }
        let container = containers(&manifest).find(|container| container["name"] == CONTAINER);
        let decided = ["args", "command", "image"]
            .into_iter()
            .find(|field| container.is_some_and(|own| own.get(field).is_some()));
        if let Some(field) = decided {
            return Err(format!("`{field}` of the container `{CONTAINER}` cannot be set: vidindex does"));
        }
        if manifest["spec"].get("restartPolicy").is_some() {
            return Err("`spec.restartPolicy` cannot be set: vidindex does".to_owned());
        }
        Ok(Self(manifest))
    }

    /// Lays the template over a pod with this container.
    pub(super) fn over(&self, pod: PodTemplateSpec, container: &str, is_seal: bool) -> Result<PodTemplateSpec> {
        let mut over = self.0.clone();
        if let Some(spec) = over["spec"].as_object_mut() {
            if is_seal {
                ONLY_FOR_TASKS.iter().for_each(|field| _ = spec.remove(*field));
            }
            let own = spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten();
            for own in own.filter(|own| own["name"] == CONTAINER) {
                own["name"] = json!(container);
                if let Some(own) = own.as_object_mut().filter(|_| is_seal) {
                    own.remove("resources");
                }
            }
        }
        let merged = serde_json::to_value(pod).and_then(|mut pod| {
            lay_over(&mut pod, over);
            serde_json::from_value(pod)
        });
        merged.map_err(|error| Error::failed(format!("failed to apply the pod template: {error}")))
    }
}

fn containers(manifest: &Value) -> impl Iterator<Item = &Value> {
    manifest["spec"]["containers"].as_array().into_iter().flatten()
}

/// The path of a field that the types of Kubernetes do not have.
fn unknown(given: &Value, typed: &Value, path: &str) -> Option<String> {
    match (given, typed) {
        (Value::Object(given), typed) => given.iter().filter(|(_, value)| !is_empty(value)).find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match typed.get(key) {
                Some(typed) => unknown(value, typed, &path),
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(typed)) => given
            .iter()
            .zip(typed)
            .enumerate()
            .find_map(|(at, (given, typed))| unknown(given, typed, &format!("{path}[{at}]"))),
        _ => None,
    }
}

/// Whether the types of Kubernetes may leave the value out.
fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

/// Merges `over` into `base`. Elements of lists that have a name (of mounts: a path) are merged with those of the same name, others
/// are added.
fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(over)) => {
            for value in over {
                let name = |value: &Value| value.get("mountPath").or(value.get("name")).cloned();
                let same =
                    name(&value).and_then(|own| base.iter_mut().find(|other| name(other).as_ref() == Some(&own)));
                match same {
                    Some(same) => lay_over(same, value),
                    None => base.push(value),
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEMPLATE: &str = "
apiVersion: v1
kind: Pod
metadata:
  labels: {team: video}
spec:
  imagePullSecrets: [{name: registry}]
  nodeSelector: {pool: gpu}
  initContainers: [{name: models, image: aws-cli, args: [s3, sync]}]
  volumes: [{name: models, emptyDir: {}}]
  containers:
  - name: vidindex
    env: [{name: VIDINDEX_TASKS, value: '7'}, {name: HTTPS_PROXY, value: 'http://proxy'}]
    resources: {limits: {memory: 32Gi}}
    volumeMounts: [{name: models, mountPath: /models}]
";

    fn pod() -> PodTemplateSpec {
        let pod = json!({
            "metadata": {"labels": {"app": "vidindex"}},
            "spec": {"restartPolicy": "Never", "volumes": [{"name": "job", "emptyDir": {}}], "containers": [{
                "name": "work", "image": "vidindex:1", "args": ["work"],
                "env": [{"name": "VIDINDEX_TASKS", "value": "2"}],
                "resources": {"limits": {"memory": "16Gi", "nvidia.com/gpu": "1"}},
                "volumeMounts": [{"name": "job", "mountPath": "/etc/vidindex"}],
            }]},
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_template_adds_to_the_pods_of_tasks_and_its_values_win() {
        let template = PodTemplate::parse(TEMPLATE).unwrap();
        let pod = serde_json::to_value(template.over(pod(), "work", false).unwrap()).unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"app": "vidindex", "team": "video"}));
        let spec = &pod["spec"];
        assert_eq!((&spec["nodeSelector"]["pool"], &spec["restartPolicy"]), (&json!("gpu"), &json!("Never")));
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 2);
        assert_eq!(spec["initContainers"][0]["name"], "models");
        let [container] = &spec["containers"].as_array().unwrap()[..] else { panic!("{spec:#}") };
        assert_eq!((&container["name"], &container["args"]), (&json!("work"), &json!(["work"])));
        assert_eq!(container["env"][0], json!({"name": "VIDINDEX_TASKS", "value": "7"}));
        assert_eq!(container["resources"]["limits"], json!({"memory": "32Gi", "nvidia.com/gpu": "1"}));
        assert_eq!(container["volumeMounts"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_seal_gets_neither_the_nodes_nor_the_resources_of_tasks() {
        let template = PodTemplate::parse(TEMPLATE).unwrap();
        let pod = serde_json::to_value(template.over(pod(), "work", true).unwrap()).unwrap();
        assert!(pod["spec"].get("nodeSelector").is_none() && pod["spec"].get("initContainers").is_none());
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["resources"]["limits"]["memory"], "16Gi");
        assert_eq!(container["env"][1]["name"], "HTTPS_PROXY");
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    }

    #[test]
    fn mistakes_in_a_template_are_named() {
        for (text, problem) in [
            ("kind: Job", "its kind is not Pod"),
            ("- 1", "it is not a manifest"),
            ("spec: {nodeSelektor: {a: b}}", "unknown field `spec.nodeSelektor`"),
            ("spec: {containers: [{name: vidindex, enw: [{}]}]}", "unknown field `spec.containers[0].enw`"),
            ("spec: {containers: [{name: vidindex, args: [x]}]}", "`args` of the container `vidindex` cannot be set"),
            ("spec: {restartPolicy: Always}", "`spec.restartPolicy` cannot be set"),
            ("spec: {priority: high}", "invalid type"),
        ] {
            let error = PodTemplate::parse(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
