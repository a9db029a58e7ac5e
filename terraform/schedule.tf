# When runs begin: EventBridge Scheduler submits the plan. Without a schedule, `terraform output submit` does by hand.

resource "aws_scheduler_schedule_group" "this" {
  name = var.name
}

resource "aws_scheduler_schedule" "this" {
  #checkov:skip=CKV_AWS_297:It holds the names of a queue and of a job, and no secret.
  count = var.schedule == null ? 0 : 1

  name                         = "plan"
  description                  = "Indexes what is new in ${local.input_uri}"
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

    # A submission that came too late is left to the next.
    retry_policy {
      maximum_event_age_in_seconds = 3600
      maximum_retry_attempts       = 10
    }
  }

  depends_on = [aws_iam_role_policy.scheduler]
}
