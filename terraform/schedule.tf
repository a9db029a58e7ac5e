# The schedule of runs: EventBridge Scheduler submits the plan. Without a schedule, use `terraform output submit`.

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
