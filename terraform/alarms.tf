# Notifications: a job that failed permanently, a queue that is stuck, a schedule that could not submit.

resource "aws_sns_topic" "alarms" {
  #checkov:skip=CKV_AWS_26:Messages contain a job's name and why it ended; EventBridge and CloudWatch cannot publish with the AWS-managed key.
  name = "${var.name}-alarms"
}

resource "aws_sns_topic_subscription" "email" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

data "aws_iam_policy_document" "alarms" {
  statement {
    sid       = "PublishFromThisAccount"
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.alarms.arn]

    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com", "cloudwatch.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"

      values = concat(
        [for rule in aws_cloudwatch_event_rule.this : rule.arn],
        [for alarm in aws_cloudwatch_metric_alarm.this : alarm.arn],
      )
    }
  }
}

resource "aws_sns_topic_policy" "alarms" {
  arn    = aws_sns_topic.alarms.arn
  policy = data.aws_iam_policy_document.alarms.json
}

locals {
  queues = [aws_batch_job_queue.work.arn, aws_batch_job_queue.coordinate.arn]

  rules = {
    # One event per array job, not one per task.
    failed = {
      description = "A job failed after all its attempts"
      type        = "Batch Job State Change"
      detail      = { status = ["FAILED"], jobQueue = local.queues, arrayProperties = { index = [{ exists = false }] } }
      text        = "Job <name> (<id>) failed: <reason> Its log is below /vidindex/${var.name}/ in CloudWatch Logs; `vidindex status` tells how far the run got. A seal that ended with exit code 3 is done: some videos failed, and their rows say why."
    }
    # For example no capacity, a quota of 0 for these instances, or a network without outbound access.
    blocked = {
      description = "The first job of a queue cannot start"
      type        = "Batch Job Queue Blocked"
      detail      = { jobQueue = local.queues }
      text        = "Job <name> (<id>) cannot start: <reason>"
    }
  }

  alarms = {
    failed = {
      description = "Jobs of ${var.name} failed within the hour"
      namespace   = "AWS/Events"
      metric_name = "TriggeredRules"
      dimensions  = { RuleName = aws_cloudwatch_event_rule.this["failed"].name }
    }
    schedule = {
      description = "The schedule of ${var.name} could not submit a run"
      namespace   = "AWS/Scheduler"
      metric_name = "InvocationDroppedCount"
      dimensions  = { ScheduleGroup = aws_scheduler_schedule_group.this.name }
    }
  }
}

resource "aws_cloudwatch_event_rule" "this" {
  for_each = local.rules

  name        = "${var.name}-${each.key}"
  description = each.value.description

  event_pattern = jsonencode({
    source        = ["aws.batch"]
    "detail-type" = [each.value.type]
    detail        = each.value.detail
  })
}

resource "aws_cloudwatch_event_target" "this" {
  for_each = local.rules

  rule = aws_cloudwatch_event_rule.this[each.key].name
  arn  = aws_sns_topic.alarms.arn

  input_transformer {
    input_paths = {
      name   = "$.detail.jobName"
      id     = "$.detail.jobId"
      reason = "$.detail.statusReason"
    }
    input_template = "\"${each.value.text}\""
  }
}

# In addition to the mails, an alarm state for dashboards.
resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric_name
  dimensions          = each.value.dimensions
  statistic           = "Sum"
  period              = 3600
  evaluation_periods  = 1
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  treat_missing_data  = "notBreaching"

  # The rule above already sends a mail about failed jobs.
  alarm_actions = each.key == "failed" ? [] : [aws_sns_topic.alarms.arn]
}
