#!/usr/bin/env python3
"""Looks at a stack that was applied to an emulator, as AWS would see it: applied.py ENDPOINT <outputs.json

What the mocked tests cannot see is here: the policies' text as IAM has it, decided about by IAM's own rules for the
requests that the jobs make and for some that they must not make, and what can be submitted to the queues.
"""

import fnmatch
import json
import sys

import boto3

endpoint, outputs = sys.argv[1], {name: output["value"] for name, output in json.load(sys.stdin).items()}


def client(service):
    return boto3.client(
        service, endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


def as_list(value):
    return value if isinstance(value, list) else [value]


def allows(statements, action, resource, context):
    """IAM's decision, as far as these policies go: only Allow, wildcards, and the operators that occur."""
    for statement in statements:
        assert statement["Effect"] == "Allow" and not {"NotAction", "NotResource"} & statement.keys(), statement
        if not any(fnmatch.fnmatchcase(action, pattern) for pattern in as_list(statement["Action"])):
            continue
        if not any(fnmatch.fnmatchcase(resource, pattern) for pattern in as_list(statement["Resource"])):
            continue
        if all(
            (key not in context and operator.endswith("IfExists"))
            or (key in context and any(fnmatch.fnmatchcase(context[key], pattern) for pattern in as_list(patterns)))
            for operator, condition in statement.get("Condition", {}).items()
            for key, patterns in condition.items()
        ):
            return True
    return False


iam = client("iam")
policies = {}
for job, arn in outputs["job_role_arns"].items():
    role = arn.rsplit("/", 1)[1]
    assert not iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"], role
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policies[job] = [s for name in names for s in as_list(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"])]

bucket = {side: f"arn:aws:s3:::{outputs[f'{side}_uri'].split('/')[2]}" for side in ("input", "output")}
batch_arn = "arn:aws:batch:eu-central-1:123456789012"
video, table, attempt = f"{bucket['input']}/a.mp4", f"{bucket['output']}/videos/dt=2026-11-01/part.parquet", f"{bucket['output']}/_vidindex/runs/r/parts/0/a/x"
requests = [
    # job, action, resource, context
    ("plan work", "s3:GetObject", video, {}),
    ("", "s3:PutObject", video, {}),
    ("", "s3:DeleteObject", video, {}),
    ("", "s3:GetObject", "arn:aws:s3:::another/a.mp4", {}),
    ("", "s3:PutObject", "arn:aws:s3:::another/a.mp4", {}),
    ("plan seal", "s3:GetObject", table, {}),
    ("plan seal", "s3:PutObject", table, {}),
    ("plan seal", "s3:DeleteObject", table, {}),
    ("plan work seal", "s3:GetObject", attempt, {}),
    ("plan work seal", "s3:PutObject", attempt, {}),
    ("plan work seal", "s3:DeleteObject", attempt, {}),
    ("plan work seal", "s3:AbortMultipartUpload", attempt, {}),
    ("plan work", "s3:ListBucket", bucket["input"], {}),
    ("plan work seal", "s3:ListBucket", bucket["output"], {}),  # HeadBucket
    ("plan work seal", "s3:ListBucket", bucket["output"], {"s3:prefix": "_vidindex/runs/r/"}),
    ("plan seal", "s3:ListBucket", bucket["output"], {"s3:prefix": "videos/"}),
    ("plan seal", "s3:ListBucketMultipartUploads", bucket["output"], {}),
    ("", "s3:PutBucketPolicy", bucket["output"], {}),
    ("", "s3:DeleteObjectVersion", table, {}),
    ("plan", "batch:SubmitJob", f"{batch_arn}:job-queue/vidindex-work", {}),
    ("plan", "batch:SubmitJob", f"{batch_arn}:job-queue/vidindex-coordinate", {}),
    ("plan", "batch:SubmitJob", f"{batch_arn}:job-definition/vidindex-work", {}),
    ("plan", "batch:SubmitJob", f"{batch_arn}:job-definition/vidindex-seal:3", {}),
    ("", "batch:SubmitJob", f"{batch_arn}:job-definition/vidindex-plan", {}),
    ("plan", "batch:TagResource", f"{batch_arn}:job/0a1b", {}),
    ("", "batch:TagResource", f"{batch_arn}:job-queue/vidindex-work", {}),
    ("", "batch:SubmitJob", f"{batch_arn}:job-queue/another", {}),
    ("", "iam:PassRole", "arn:aws:iam::123456789012:role/another", {}),
]
for who, action, resource, context in requests:
    for job, statements in policies.items():
        allowed = allows(statements, action, resource, context)
        assert allowed == (job in who.split()), f"{job} {'may' if allowed else 'may not'} {action} {resource} {context}"

# The jobs that `vidindex submit` submits, with the names that the plan gets.
batch = client("batch")
settings = outputs["job_settings"]
work = batch.submit_job(
    jobName="work",
    jobQueue=settings["engine.aws-batch.queue"],
    jobDefinition=settings["engine.aws-batch.job_definition"],
    arrayProperties={"size": 3},
)
batch.submit_job(
    jobName="seal",
    jobQueue=settings["engine.aws-batch.seal_queue"],
    jobDefinition=settings["engine.aws-batch.seal_job_definition"],
    dependsOn=[{"jobId": work["jobId"]}],
)
plan = batch.describe_job_definitions(jobDefinitionName="vidindex-plan", status="ACTIVE")["jobDefinitions"]
command = max(plan, key=lambda definition: definition["revision"])["containerProperties"]["command"]
assert command[:4] == ["submit", "jobs/s3.toml", "--engine", "aws-batch"], command
for key, value in settings.items():
    assert f"{key}={value}" in command, (key, command)

target = client("scheduler").get_schedule(Name="plan", GroupName="vidindex")["Target"]
scheduled = json.loads(target["Input"])
batch.submit_job(jobName=scheduled["JobName"], jobQueue=scheduled["JobQueue"], jobDefinition=scheduled["JobDefinition"])

# What EventBridge submits after tasks have failed.
seal = client("events").list_targets_by_rule(Rule="vidindex-tasks-failed")["Targets"][0]
batch.submit_job(jobName=seal["BatchParameters"]["JobName"], jobQueue=seal["Arn"], jobDefinition=seal["BatchParameters"]["JobDefinition"])

tables = {table["Name"]: table for table in client("glue").get_tables(DatabaseName=outputs["glue_database"])["TableList"]}
assert sorted(tables) == ["actions", "persons", "thumbnails", "videos"], tables
print(f"{len(requests) * len(policies)} decisions about rights, the chain of jobs, {len(tables)} tables: as meant")
