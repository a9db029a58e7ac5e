# AWS Batch: two compute environments with a queue each, and the definitions of the three jobs of a run. The schedule or
# a user submits `plan`, which submits the array of `work`, followed by `seal`.

locals {
  jobs = {
    plan = merge(local.coordinator, {
      command = concat(
        ["submit", var.job, "--engine", "aws-batch"],
        flatten([for key, value in local.job_settings : ["--set", "${key}=${value}"]]),
      )
    })
    # `plan` sets the commands of these two jobs when it submits them. By its own command, `seal` publishes what unfinished runs
    # committed.
    work = merge(var.work, { image = var.work.gpus > 0 ? "cuda" : "cpu", command = ["work", "--help"] })
    seal = merge(local.coordinator, { command = ["seal", var.job, "--set", "output.uri=${local.output_uri}"] })
  }

  # An m6i.large minus the memory of the host's own processes.
  coordinator = { image = "cpu", gpus = 0, vcpus = 2, memory_mib = 7000, attempts = 3, timeout_hours = 12 }

  # Values of this stack that override the job file.
  job_settings = {
    "input.uri"                            = local.input_uri
    "output.uri"                           = local.output_uri
    "engine.aws-batch.queue"               = "${var.name}-work"
    "engine.aws-batch.job_definition"      = "${var.name}-work"
    "engine.aws-batch.seal_queue"          = "${var.name}-coordinate"
    "engine.aws-batch.seal_job_definition" = "${var.name}-seal"
    "engine.aws-batch.attempts"            = tostring(var.work.attempts)
  }

  # The first matching rule applies. Without a match, Batch retries: exit 1 (such as a store that does not respond), 130 and
  # 143 (stopped by a signal, as before a spot interruption), and crashes.
  retries = [
    { on_status_reason = "Host EC2*", action = "RETRY" },         # the machine was lost
    { on_exit_code = "2", action = "EXIT" },                      # wrong usage or configuration
    { on_exit_code = "3", action = "EXIT" },                      # finished, but some videos failed and would fail again
    { on_reason = "CannotPullContainerError*", action = "EXIT" }, # the image does not exist
  ]
}

resource "aws_batch_job_definition" "this" {
  for_each = local.jobs

  name                  = "${var.name}-${each.key}"
  type                  = "container"
  platform_capabilities = ["EC2"]
  propagate_tags        = true

  container_properties = jsonencode({
    image            = "${aws_ecr_repository.this.repository_url}:${var.release}-${each.value.image}"
    command          = each.value.command
    jobRoleArn       = aws_iam_role.job[each.key].arn
    executionRoleArn = aws_iam_role.execution.arn

    resourceRequirements = concat(
      [
        { type = "VCPU", value = tostring(each.value.vcpus) },
        { type = "MEMORY", value = tostring(each.value.memory_mib) },
      ],
      each.value.gpus > 0 ? [{ type = "GPU", value = tostring(each.value.gpus) }] : [],
    )

    environment = [
      { name = "AWS_REGION", value = var.region },
      { name = "VIDINDEX_LOG_FORMAT", value = "json" },
    ]

    # Only /tmp is writable, and its content is deleted with the container.
    readonlyRootFilesystem = true
    privileged             = false
    user                   = "10001:10001"
    volumes                = [{ name = "scratch", host = {} }]
    mountPoints            = [{ sourceVolume = "scratch", containerPath = "/tmp", readOnly = false }]
    # An init process that forwards signals and reaps orphaned decoders.
    linuxParameters = { initProcessEnabled = true }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this[each.key].name
        "awslogs-region"        = var.region
        "awslogs-stream-prefix" = each.key
      }
    }
  })

  retry_strategy {
    attempts = each.value.attempts

    dynamic "evaluate_on_exit" {
      for_each = local.retries

      content {
        action           = evaluate_on_exit.value.action
        on_status_reason = try(evaluate_on_exit.value.on_status_reason, null)
        on_exit_code     = try(evaluate_on_exit.value.on_exit_code, null)
        on_reason        = try(evaluate_on_exit.value.on_reason, null)
      }
    }
  }

  timeout {
    attempt_duration_seconds = floor(each.value.timeout_hours * 3600)
  }
}

resource "aws_cloudwatch_log_group" "this" {
  #checkov:skip=CKV_AWS_158:Encrypted with CloudWatch's key, or with kms_key_arn if it is set.
  #checkov:skip=CKV_AWS_338:The result for each video is in its row; logs are only needed for a few days of debugging.
  for_each = toset(["plan", "work", "seal"])

  name              = "/vidindex/${var.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

# ---- queues and machines ---------------------------------------------------------------------------------------------

resource "aws_batch_job_queue" "work" {
  name     = "${var.name}-work"
  state    = "ENABLED"
  priority = 1

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.work.arn
  }
}

resource "aws_batch_job_queue" "coordinate" {
  name     = "${var.name}-coordinate"
  state    = "ENABLED"
  priority = 1

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.coordinate.arn
  }
}

# Without a service role, Batch creates and uses its service-linked role, which allows in-place updates.
resource "aws_batch_compute_environment" "work" {
  compute_environment_name_prefix = "${var.name}-work-"
  type                            = "MANAGED"

  compute_resources {
    type                = var.work_spot ? "SPOT" : "EC2"
    allocation_strategy = var.work_spot ? "SPOT_PRICE_CAPACITY_OPTIMIZED" : "BEST_FIT_PROGRESSIVE"
    instance_type       = var.work_instance_types
    min_vcpus           = 0
    max_vcpus           = var.work_max_vcpus
    instance_role       = aws_iam_instance_profile.instance.arn
    subnets             = local.subnet_ids
    security_group_ids  = [aws_security_group.instances.id]
    tags                = { Name = "${var.name}-work" }

    ec2_configuration {
      image_type = var.work.gpus > 0 ? "ECS_AL2023_NVIDIA" : "ECS_AL2023"
    }

    launch_template {
      launch_template_id = aws_launch_template.this.id
      version            = aws_launch_template.this.latest_version
    }
  }

  lifecycle {
    create_before_destroy = true # a queue refers to it
  }

  depends_on = [aws_iam_role_policy_attachment.instance]
}

resource "aws_batch_compute_environment" "coordinate" {
  compute_environment_name_prefix = "${var.name}-coordinate-"
  type                            = "MANAGED"

  compute_resources {
    type                = "EC2"
    allocation_strategy = "BEST_FIT_PROGRESSIVE"
    instance_type       = var.coordinator_instance_types
    min_vcpus           = 0
    max_vcpus           = 16
    instance_role       = aws_iam_instance_profile.instance.arn
    subnets             = local.subnet_ids
    security_group_ids  = [aws_security_group.instances.id]
    tags                = { Name = "${var.name}-coordinate" }

    ec2_configuration {
      image_type = "ECS_AL2023"
    }

    launch_template {
      launch_template_id = aws_launch_template.this.id
      version            = aws_launch_template.this.latest_version
    }
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [aws_iam_role_policy_attachment.instance]
}

resource "aws_launch_template" "this" {
  name_prefix            = "${var.name}-"
  description            = "Batch instances of ${var.name}"
  update_default_version = true

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  block_device_mappings {
    device_name = "/dev/xvda"

    ebs {
      volume_type           = "gp3"
      volume_size           = var.disk_gib
      encrypted             = true
      delete_on_termination = true
    }
  }

  # Two minutes before a spot interruption, tasks get SIGTERM and have most of that time to end.
  user_data = base64encode(<<-END
    MIME-Version: 1.0
    Content-Type: multipart/mixed; boundary="=="

    --==
    Content-Type: text/x-shellscript; charset="us-ascii"

    #!/bin/sh
    printf '%s\n' ECS_ENABLE_SPOT_INSTANCE_DRAINING=true ECS_CONTAINER_STOP_TIMEOUT=100s >>/etc/ecs/ecs.config
    --==--
  END
  )
}
