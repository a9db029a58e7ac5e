# The jobs as Batch gets them: retries, resources, and writable paths.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  region   = "eu-central-1"
  release  = "0.1.0"
  schedule = "cron(0 3 * * ? *)"
}

run "lost_hosts_are_tried_again_and_bad_configuration_is_not" {
  assert {
    condition = alltrue([
      for definition in aws_batch_job_definition.this : [
        for rule in one(definition.retry_strategy).evaluate_on_exit :
        join(" ", compact([rule.action, rule.on_status_reason, rule.on_exit_code, rule.on_reason]))
      ] == ["RETRY Host EC2*", "EXIT 2", "EXIT 3", "EXIT CannotPullContainerError*"]
    ])
    error_message = "The order matters: a lost host comes first. Batch retries what matches no rule (exit 1, 130, 143, a crash)."
  }

  assert {
    condition     = { for job, definition in aws_batch_job_definition.this : job => one(definition.retry_strategy).attempts } == { plan = 3, seal = 3, work = 5 }
    error_message = "The number of attempts differs from the setting."
  }

  assert {
    condition     = { for job, definition in aws_batch_job_definition.this : job => one(definition.timeout).attempt_duration_seconds } == { plan = 43200, seal = 43200, work = 86400 }
    error_message = "Every job must have a timeout."
  }
}

run "a_task_has_a_gpu_and_cannot_write_to_its_image" {
  assert {
    condition = jsondecode(aws_batch_job_definition.this["work"].container_properties).resourceRequirements == [
      { type = "VCPU", value = "4" }, { type = "MEMORY", value = "14000" }, { type = "GPU", value = "1" },
    ]
    error_message = "A task must get the resources of `work`."
  }

  assert {
    condition     = endswith(jsondecode(aws_batch_job_definition.this["work"].container_properties).image, "/vidindex:0.1.0-cuda") && endswith(jsondecode(aws_batch_job_definition.this["seal"].container_properties).image, "/vidindex:0.1.0-cpu")
    error_message = "Tasks with a GPU must run the CUDA image, others the CPU image."
  }

  assert {
    condition = alltrue([
      for definition in aws_batch_job_definition.this : alltrue([
        jsondecode(definition.container_properties).readonlyRootFilesystem,
        !jsondecode(definition.container_properties).privileged,
        jsondecode(definition.container_properties).user == "10001:10001",
        [for mount in jsondecode(definition.container_properties).mountPoints : mount.containerPath] == ["/tmp"],
      ])
    ])
    error_message = "A job must run as an unprivileged user and write only to /tmp."
  }

  assert {
    condition     = one(aws_batch_compute_environment.work.compute_resources).type == "SPOT" && one(one(aws_batch_compute_environment.work.compute_resources).ec2_configuration).image_type == "ECS_AL2023_NVIDIA"
    error_message = "Tasks must run on spot instances with NVIDIA's driver."
  }

  assert {
    condition     = one(aws_batch_compute_environment.coordinate.compute_resources).type == "EC2" && one(aws_batch_compute_environment.coordinate.compute_resources).min_vcpus == 0
    error_message = "Coordinators must run on demand, without idle instances."
  }

  assert {
    condition     = strcontains(base64decode(aws_launch_template.this.user_data), "ECS_ENABLE_SPOT_INSTANCE_DRAINING=true") && strcontains(base64decode(aws_launch_template.this.user_data), "\n--==--\n")
    error_message = "A task must be notified before its instance ends."
  }
}

run "without_gpus_tasks_run_the_small_image_on_plain_machines" {
  variables {
    work                = { gpus = 0, vcpus = 8, memory_mib = 15000, attempts = 10 }
    work_spot           = false
    work_instance_types = ["c7i", "m7i"]
  }

  assert {
    condition     = strcontains(aws_batch_job_definition.this["work"].container_properties, "0.1.0-cpu") && !strcontains(aws_batch_job_definition.this["work"].container_properties, "GPU")
    error_message = "A task without GPUs must not request any."
  }

  assert {
    condition     = one(aws_batch_compute_environment.work.compute_resources).type == "EC2" && one(one(aws_batch_compute_environment.work.compute_resources).ec2_configuration).image_type == "ECS_AL2023"
    error_message = "Machines without GPUs must not use the GPU image."
  }
}

run "the_schedule_submits_the_plan_which_knows_the_stack" {
  assert {
    condition     = slice(jsondecode(aws_batch_job_definition.this["plan"].container_properties).command, 0, 4) == ["submit", "jobs/s3.toml", "--engine", "aws-batch"]
    error_message = "The plan job must run `vidindex submit`."
  }

  assert {
    condition = alltrue([
      for setting in [
        "input.uri=s3://vidindex-input-123456789012-eu-central-1/", "output.uri=s3://vidindex-output-123456789012-eu-central-1/",
        "engine.aws-batch.queue=vidindex-work", "engine.aws-batch.seal_job_definition=vidindex-seal",
      ] : contains(jsondecode(aws_batch_job_definition.this["plan"].container_properties).command, setting)
    ])
    error_message = "The plan must get the buckets and queues of this stack."
  }

  assert {
    condition     = keys(jsondecode(one(aws_scheduler_schedule.this[0].target).input)) == ["JobDefinition", "JobName", "JobQueue"]
    error_message = "The schedule's input must be a SubmitJob request."
  }
}

run "no_schedule_unless_asked_for" {
  variables {
    schedule = null
  }

  assert {
    condition     = length(aws_scheduler_schedule.this) == 0
    error_message = "Without a schedule, runs must only start by hand."
  }
}

run "the_seal_of_a_run_with_failed_tasks_publishes_what_the_others_committed" {
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.tasks_failed.event_pattern).detail == { status = ["FAILED"], jobQueue = [aws_batch_job_queue.work.arn], arrayProperties = { index = [{ exists = false }] } }
    error_message = "The event must come once per array of tasks, and never for a seal."
  }

  assert {
    condition     = aws_cloudwatch_event_target.seal.arn == aws_batch_job_queue.coordinate.arn && one(aws_cloudwatch_event_target.seal.batch_target).job_definition == aws_batch_job_definition.this["seal"].arn
    error_message = "The event must submit the seal."
  }

  assert {
    condition     = jsondecode(aws_batch_job_definition.this["seal"].container_properties).command == ["seal", "jobs/s3.toml", "--set", "output.uri=s3://vidindex-output-123456789012-eu-central-1/"]
    error_message = "Without a run, the seal must publish what unfinished runs of this stack committed."
  }
}

run "failures_of_whole_jobs_are_told" {
  variables {
    alarm_emails = ["archive@example.org"]
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.this["failed"].event_pattern).detail == { status = ["FAILED"], jobQueue = local.queues, arrayProperties = { index = [{ exists = false }] } }
    error_message = "There must be one mail per array job, and none for jobs of other stacks."
  }

  assert {
    condition     = one(values(aws_sns_topic_subscription.email)).endpoint == "archive@example.org"
    error_message = "Nobody is notified."
  }

  assert {
    condition = alltrue([
      for target in aws_cloudwatch_event_target.this :
      can(jsondecode(replace(one(target.input_transformer).input_template, "/<[a-z]+>/", "x")))
    ])
    error_message = "A message must be a JSON string."
  }
}

run "nobody_reaches_the_instances" {
  assert {
    condition     = length(aws_security_group.instances.ingress) == 0 && aws_vpc_security_group_egress_rule.https.from_port == 443 && aws_vpc_security_group_egress_rule.https.to_port == 443
    error_message = "Only outbound HTTPS must be allowed."
  }

  assert {
    condition     = [for zone in local.zones : aws_subnet.this[zone].cidr_block] == ["10.64.0.0/19", "10.64.32.0/19", "10.64.96.0/19"]
    error_message = "There must be a subnet in each zone, with the address range of its letter."
  }
}

run "given_subnets_are_used_as_they_are" {
  variables {
    subnet_ids = ["subnet-0a", "subnet-0b"]
  }

  assert {
    condition     = length(aws_vpc.this) == 0 && one(aws_batch_compute_environment.work.compute_resources).subnets == toset(["subnet-0a", "subnet-0b"])
    error_message = "No network must be created if subnets are given."
  }
}
