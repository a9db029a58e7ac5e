# Invalid settings are rejected before anything is created.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  region  = "eu-central-1"
  release = "0.1.0"
}

run "a_region_is_no_zone" {
  command         = plan
  expect_failures = [var.region]

  variables {
    region = "eu-central-1a"
  }
}

run "a_name_must_fit_into_a_buckets" {
  command         = plan
  expect_failures = [var.name]

  variables {
    name = "Video_Index"
  }
}

run "a_release_is_not_latest" {
  command         = plan
  expect_failures = [var.release]

  variables {
    release = "latest"
  }
}

run "a_bucket_is_no_address" {
  command         = plan
  expect_failures = [var.input_bucket]

  variables {
    input_bucket = "s3://archive"
  }
}

run "a_prefix_ends_in_a_slash" {
  command         = plan
  expect_failures = [var.input_prefix]

  variables {
    input_prefix = "2026"
  }
}

run "a_prefix_is_no_pattern" {
  command         = plan
  expect_failures = [var.output_prefix]

  variables {
    output_prefix = "*/"
  }
}

run "tables_do_not_lie_among_the_videos" {
  command         = plan
  expect_failures = [var.output_prefix]

  variables {
    input_bucket  = "archive"
    output_bucket = "archive"
  }
}

run "a_key_is_no_alias" {
  command         = plan
  expect_failures = [var.kms_key_arn]

  variables {
    kms_key_arn = "alias/archive"
  }
}

run "a_cron_has_six_fields" {
  command         = plan
  expect_failures = [var.schedule]

  variables {
    schedule = "cron(0 3 * * *)"
  }
}

run "a_job_is_a_file_of_the_image" {
  command         = plan
  expect_failures = [var.job]

  variables {
    job = "/home/me/job.toml"
  }
}

run "a_task_has_whole_gpus" {
  command         = plan
  expect_failures = [var.work]

  variables {
    work = { gpus = 3 }
  }
}

run "a_task_must_fit" {
  command         = plan
  expect_failures = [var.work_max_vcpus]

  variables {
    work_max_vcpus = 2
  }
}

run "a_job_is_tried_ten_times_at_most" {
  command         = plan
  expect_failures = [var.work]

  variables {
    work = { attempts = 11 }
  }
}

run "logs_are_kept_for_a_time_that_cloudwatch_knows" {
  command         = plan
  expect_failures = [var.log_retention_days]

  variables {
    log_retention_days = 31
  }
}

run "a_day_is_a_day" {
  command         = plan
  expect_failures = [var.first_day]

  variables {
    first_day = "2026-13-01"
  }
}

run "dt_is_taken" {
  command         = plan
  expect_failures = [var.partition_columns]

  variables {
    partition_columns = [{ name = "dt" }]
  }
}

run "a_mail_has_an_address" {
  command         = plan
  expect_failures = [var.alarm_emails]

  variables {
    alarm_emails = ["archive"]
  }
}

run "a_subnet_has_an_id" {
  command         = plan
  expect_failures = [var.subnet_ids]

  variables {
    subnet_ids = ["default"]
  }
}

run "a_network_has_room_for_its_zones" {
  command         = plan
  expect_failures = [var.vpc_cidr]

  variables {
    vpc_cidr = "10.0.0.0/28"
  }
}
