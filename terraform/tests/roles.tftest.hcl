# Each role has exactly the permissions that its job needs.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  region        = "eu-central-1"
  release       = "0.1.0"
  input_bucket  = "archive"
  input_prefix  = "2026/"
  output_bucket = "index"
  output_prefix = "vidindex/"
}

run "rights_end_at_the_prefixes" {
  assert {
    condition = local.access == {
      plan = { read = ["arn:aws:s3:::archive/2026/*", "arn:aws:s3:::index/vidindex/*"], write = ["arn:aws:s3:::index/vidindex/*"] }
      work = { read = ["arn:aws:s3:::archive/2026/*", "arn:aws:s3:::index/vidindex/_vidindex/*"], write = ["arn:aws:s3:::index/vidindex/_vidindex/*"] }
      seal = { read = ["arn:aws:s3:::index/vidindex/*"], write = ["arn:aws:s3:::index/vidindex/*"] }
    }
    error_message = "A job reads or writes elsewhere: ${jsonencode(local.access)}"
  }

  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.job : [
        for statement in document.statement : (
          length(setintersection(statement.actions, ["s3:PutObject", "s3:DeleteObject"])) == 0
          || alltrue([for resource in statement.resources : startswith(resource, "arn:aws:s3:::index/vidindex/")])
        )
      ]
    ]))
    error_message = "A role may write outside of the output prefix."
  }

  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.job : [
        for statement in document.statement : [
          for action in statement.actions : contains([
            "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts",
            "s3:ListBucket", "s3:ListBucketMultipartUploads", "batch:SubmitJob", "batch:TagResource",
          ], action)
        ]
      ]
    ]))
    error_message = "A role has an action that no job needs."
  }

  assert {
    condition = alltrue(flatten([
      for document in data.aws_iam_policy_document.job : [
        for statement in document.statement : [for resource in statement.resources : resource != "*"]
      ]
    ]))
    error_message = "A job's role has all permissions."
  }

  assert {
    condition = toset(flatten([
      for document in data.aws_iam_policy_document.job : [
        for statement in document.statement : [for condition in statement.condition : "${condition.test} ${condition.variable} ${join(" ", condition.values)}"]
        if contains(statement.actions, "s3:ListBucket")
      ]
    ])) == toset([for prefix in ["2026/*", "vidindex/*", "vidindex/_vidindex/*"] : "StringLikeIfExists s3:prefix ${prefix}"])
    error_message = "A bucket can be listed outside of the prefixes."
  }

  assert {
    condition     = [for job, document in data.aws_iam_policy_document.job : job if anytrue([for statement in document.statement : contains(statement.actions, "batch:SubmitJob")])] == ["plan"]
    error_message = "Only the plan may submit jobs."
  }

  assert {
    condition = toset(flatten([for statement in data.aws_iam_policy_document.job["plan"].statement : statement.resources if contains(statement.actions, "batch:SubmitJob")])) == toset([
      aws_batch_job_queue.work.arn,
      aws_batch_job_queue.coordinate.arn,
      "arn:aws:batch:eu-central-1:123456789012:job-definition/vidindex-work",
      "arn:aws:batch:eu-central-1:123456789012:job-definition/vidindex-work:*",
      "arn:aws:batch:eu-central-1:123456789012:job-definition/vidindex-seal",
      "arn:aws:batch:eu-central-1:123456789012:job-definition/vidindex-seal:*",
    ])
    error_message = "The plan must only submit work and seal to this stack's queues."
  }
}

run "whole_buckets_are_listed_without_a_condition" {
  variables {
    input_prefix  = ""
    output_prefix = ""
  }

  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.job["seal"].statement :
      length(statement.condition) == 0 if contains(statement.actions, "s3:ListBucket")
    ])
    error_message = "Without a prefix, there must be no prefix condition."
  }

  assert {
    condition     = local.access.work.write == ["arn:aws:s3:::index/_vidindex/*"]
    error_message = "A worker must only write below _vidindex/, even if the whole bucket is the output."
  }
}

run "an_inventory_can_be_read_by_the_plan_alone" {
  variables {
    inventory = { bucket = "reports", prefix = "archive/daily/" }
  }

  assert {
    condition     = contains(local.access.plan.read, "arn:aws:s3:::reports/archive/daily/*")
    error_message = "The plan cannot read the inventory."
  }

  assert {
    condition     = !strcontains(jsonencode([local.access.work, local.access.seal]), "reports")
    error_message = "Only the plan may read the inventory."
  }
}

run "a_key_is_used_through_s3_alone" {
  variables {
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/0a1b"
  }

  assert {
    condition = alltrue([
      for document in data.aws_iam_policy_document.job : one([
        for statement in document.statement : one(statement.condition).values if contains(statement.actions, "kms:Decrypt")
      ]) == tolist(["s3.eu-central-1.amazonaws.com"])
    ])
    error_message = "Jobs must use the key only for objects in S3."
  }
}

run "roles_are_assumed_by_their_service_alone" {
  assert {
    condition = alltrue([
      for document, service in {
        tasks_assume     = [data.aws_iam_policy_document.tasks_assume, "ecs-tasks.amazonaws.com"]
        execution_assume = [data.aws_iam_policy_document.execution_assume, "ecs-tasks.amazonaws.com"]
        instance_assume  = [data.aws_iam_policy_document.instance_assume, "ec2.amazonaws.com"]
        scheduler_assume = [data.aws_iam_policy_document.scheduler_assume, "scheduler.amazonaws.com"]
      } : one(one(service[0].statement).principals).identifiers == toset([service[1]])
    ])
    error_message = "A role can be assumed by another."
  }

  assert {
    condition = one(data.aws_iam_policy_document.scheduler.statement).actions == toset(["batch:SubmitJob"]) && one(data.aws_iam_policy_document.scheduler.statement).resources == toset([
      aws_batch_job_queue.coordinate.arn,
      aws_batch_job_definition.this["plan"].arn_prefix,
      "${aws_batch_job_definition.this["plan"].arn_prefix}:*",
    ])
    error_message = "The schedule may only submit the plan."
  }
}
