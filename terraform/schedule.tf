# What starts without anybody's command: the plan, by a schedule (without one, use `terraform output submit`), and the seal of a run
# whose tasks failed, by an event.

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
}

resource "aws_scheduler_schedule" "this" {
  #checkov:skip=CKV_AWS_297:It contains the names of a queue and a job, and no secrets.
  count = var.schedule == null ? 0 : 1

  name                         = "plan"
  description                  = "Indexes new videos in ${local.input_uri}"
  group_name                   = aws_scheduler_schedule_group.this.name
  schedule_expression          = var.schedule
  schedule_expression_timezone = var.schedule_timezone

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = "arn:${local.partition}:scheduler:::aws-sdk:batch:submitJob"
    role_arn = aws_iam_role.scheduler.arn

    input = jsonencode({
      JobName       = "${var.name}-plan"
      JobQueue      = aws_batch_job_queue.coordinate.arn
      JobDefinition = aws_batch_job_definition.this["plan"].name # its latest revision
    })

    # A submission that is too late is skipped; the next one follows.
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 10
    }
  }

  depends_on = [aws_iam_role_policy.scheduler]
}

# Batch does not start a seal that depends on an array with a failed task. What the other tasks committed is published anyway.
resource "aws_cloudwatch_event_rule" "tasks_failed" {
  name        = "${var.name}-tasks-failed"
  description = "Tasks failed after all their attempts, so the seal that depends on them does not start"

  event_pattern = jsonencode({
    source        = ["aws.batch"]
    "detail-type" = ["Batch Job State Change"]
    # One event per array job, not one per task.
    detail = {
      status          = ["FAILED"]
      jobQueue        = [aws_batch_job_queue.work.arn]
      arrayProperties = { index = [{ exists = false }] }
    }
  })
}

resource "aws_cloudwatch_event_target" "seal" {
  rule     = aws_cloudwatch_event_rule.tasks_failed.name
  arn      = aws_batch_job_queue.coordinate.arn
  role_arn = aws_iam_role.events.arn

  batch_target {
    job_name       = "${var.name}-seal"
    job_definition = aws_batch_job_definition.this["seal"].arn
  }

  depends_on = [aws_iam_role_policy.events]
}
