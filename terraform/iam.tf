# Permissions. `plan` reads the input and writes the output; `work` reads the input and writes only below `_vidindex/`;
# `seal` cannot access the input. No job can access the rest of either bucket.

locals {
  output_below = "${local.output_bucket_arn}/${var.output_prefix}"

  # Per job: the ARNs of the objects that it may read, and of those that it may write and delete.
  access = {
    plan = {
      read = concat(
        ["${local.input_bucket_arn}/${var.input_prefix}*", "${local.output_below}*"],
        var.inventory == null ? [] : ["arn:${local.partition}:s3:::${var.inventory.bucket}/${var.inventory.prefix}*"],
      )
      write = ["${local.output_below}*"] # it publishes what earlier runs committed
    }
    work = {
      read  = ["${local.input_bucket_arn}/${var.input_prefix}*", "${local.output_below}_vidindex/*"]
      write = ["${local.output_below}_vidindex/*"]
    }
    seal = {
      read  = ["${local.output_below}*"]
      write = ["${local.output_below}*"]
    }
  }

  # Per bucket: the prefix whose keys may be listed.
  lists = {
    plan = concat(
      [{ bucket = local.input_bucket_arn, prefix = var.input_prefix }, { bucket = local.output_bucket_arn, prefix = var.output_prefix }],
      var.inventory == null ? [] : [{ bucket = "arn:${local.partition}:s3:::${var.inventory.bucket}", prefix = var.inventory.prefix }],
    )
    work = [{ bucket = local.input_bucket_arn, prefix = var.input_prefix }, { bucket = local.output_bucket_arn, prefix = "${var.output_prefix}_vidindex/" }]
    seal = [{ bucket = local.output_bucket_arn, prefix = var.output_prefix }]
  }
}

# ---- the jobs --------------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "tasks_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }

    # Tasks of other accounts cannot assume the role.
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role" "job" {
  for_each = local.access

  name               = "${var.name}-${var.region}-${each.key}"
  description        = "Permissions of a ${each.key} job of ${var.name}"
  assume_role_policy = data.aws_iam_policy_document.tasks_assume.json
}

data "aws_iam_policy_document" "job" {
  for_each = local.access

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = each.value.read
  }

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = each.value.write
  }

  # Requests without a prefix are allowed: S3 needs this permission to report that a bucket exists, and that an object does
  # not (404 instead of 403).
  dynamic "statement" {
    for_each = local.lists[each.key]

    content {
      actions   = ["s3:ListBucket"]
      resources = [statement.value.bucket]

      dynamic "condition" {
        for_each = statement.value.prefix == "" ? [] : [statement.value.prefix]

        content {
          test     = "StringLikeIfExists"
          variable = "s3:prefix"
          values   = ["${condition.value}*"]
        }
      }
    }
  }

  # Permissions for incomplete uploads cannot be limited to a prefix.
  dynamic "statement" {
    for_each = each.key == "work" ? [] : [local.output_bucket_arn]

    content {
      sid       = "FindUnfinishedUploads"
      actions   = ["s3:ListBucketMultipartUploads"]
      resources = [statement.value]
    }
  }

  dynamic "statement" {
    for_each = each.key == "plan" ? [1] : []

    content {
      sid     = "Submit"
      actions = ["batch:SubmitJob"]

      resources = flatten([
        aws_batch_job_queue.work.arn,
        aws_batch_job_queue.coordinate.arn,
        [for job in ["work", "seal"] : [
          "arn:${local.partition}:batch:${var.region}:${local.account}:job-definition/${var.name}-${job}",
          "arn:${local.partition}:batch:${var.region}:${local.account}:job-definition/${var.name}-${job}:*",
        ]],
      ])
    }
  }

  # The tag with the run's id.
  dynamic "statement" {
    for_each = each.key == "plan" ? [1] : []

    content {
      sid       = "TagSubmitted"
      actions   = ["batch:TagResource"]
      resources = ["arn:${local.partition}:batch:${var.region}:${local.account}:job/*"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Decrypt"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${split(":", statement.value)[3]}.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role_policy" "job" {
  for_each = local.access

  name   = "job"
  role   = aws_iam_role.job[each.key].id
  policy = data.aws_iam_policy_document.job[each.key].json
}

# ---- container start -------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "execution_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "execution" {
  name               = "${var.name}-${var.region}-execution"
  description        = "Permissions of ECS to start a job of ${var.name}: pull its image, write its log"
  assume_role_policy = data.aws_iam_policy_document.execution_assume.json
}

data "aws_iam_policy_document" "execution" {
  #checkov:skip=CKV_AWS_356:GetAuthorizationToken does not support resources.
  statement {
    sid       = "LogInToRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }

  statement {
    sid       = "PullImage"
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.this.arn]
  }

  statement {
    sid       = "WriteLogs"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = [for group in aws_cloudwatch_log_group.this : "${group.arn}:*"]
  }
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.execution.json
}

# ---- the instances ---------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "instance_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "instance" {
  name               = "${var.name}-${var.region}-instance"
  description        = "Permissions of an instance of ${var.name}: join its ECS cluster"
  assume_role_policy = data.aws_iam_policy_document.instance_assume.json
}

resource "aws_iam_role_policy_attachment" "instance" {
  role       = aws_iam_role.instance.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
}

resource "aws_iam_instance_profile" "instance" {
  name = aws_iam_role.instance.name
  role = aws_iam_role.instance.name
}

# ---- the schedule ----------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "scheduler_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["scheduler.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_scheduler_schedule_group.this.arn]
    }
  }
}

resource "aws_iam_role" "scheduler" {
  name               = "${var.name}-${var.region}-scheduler"
  description        = "Permissions of the schedule of ${var.name}: submit the plan"
  assume_role_policy = data.aws_iam_policy_document.scheduler_assume.json
}

data "aws_iam_policy_document" "scheduler" {
  statement {
    sid     = "SubmitPlan"
    actions = ["batch:SubmitJob"]

    resources = [
      aws_batch_job_queue.coordinate.arn,
      aws_batch_job_definition.this["plan"].arn_prefix,
      "${aws_batch_job_definition.this["plan"].arn_prefix}:*",
    ]
  }
}

resource "aws_iam_role_policy" "scheduler" {
  name   = "scheduler"
  role   = aws_iam_role.scheduler.id
  policy = data.aws_iam_policy_document.scheduler.json
}

# ---- the event ---------------------------------------------------------------------------------------------------------

data "aws_iam_policy_document" "events_assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.tasks_failed.arn]
    }
  }
}

resource "aws_iam_role" "events" {
  name               = "${var.name}-${var.region}-events"
  description        = "Permissions of the rule of ${var.name} about failed tasks: submit the seal"
  assume_role_policy = data.aws_iam_policy_document.events_assume.json
}

data "aws_iam_policy_document" "events" {
  statement {
    sid     = "SubmitSeal"
    actions = ["batch:SubmitJob"]

    resources = [
      aws_batch_job_queue.coordinate.arn,
      aws_batch_job_definition.this["seal"].arn_prefix,
      "${aws_batch_job_definition.this["seal"].arn_prefix}:*",
    ]
  }
}

resource "aws_iam_role_policy" "events" {
  name   = "events"
  role   = aws_iam_role.events.id
  policy = data.aws_iam_policy_document.events.json
}
