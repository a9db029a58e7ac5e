# Invalid settings are rejected before anything is created.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  region  = "eu-central-1"
  release = "0.1.0"
}

# One plan, because each loads the provider. It must report all of these, and nothing else.
run "each_setting_is_checked" {
  command = plan
  expect_failures = [
    var.alarm_emails, var.first_day, var.input_bucket, var.input_prefix, var.job, var.kms_key_arn, var.log_retention_days,
    var.name, var.partition_columns, var.region, var.release, var.schedule, var.subnet_ids, var.vpc_cidr,
    var.work,
  ]

  variables {
    alarm_emails       = ["archive"]
    first_day          = "2026-13-01"
    input_bucket       = "s3://archive"
    input_prefix       = "2026"
    job                = "/home/me/job.toml"
    kms_key_arn        = "alias/archive"
    log_retention_days = 31
    name               = "Video_Index"
    partition_columns  = [{ name = "dt" }]
    region             = "eu-central-1a"
    release            = "latest"
    schedule           = "cron(0 3 * * *)"
    subnet_ids         = ["default"]
    vpc_cidr           = "10.0.0.0/28"
    work               = { gpus = 3 }
  }
}

run "tables_do_not_lie_among_the_videos_and_a_job_is_tried_ten_times_at_most" {
  command         = plan
  expect_failures = [var.output_prefix, var.work]

  variables {
    input_bucket  = "archive"
    output_bucket = "archive"
    work          = { attempts = 11 }
  }
}

run "a_task_must_fit_and_a_prefix_is_no_pattern" {
  command         = plan
  expect_failures = [var.output_prefix, var.work_max_vcpus]

  variables {
    output_prefix  = "*/"
    work_max_vcpus = 2
  }
}
