# Values of the stack for users and other tools.

output "input_uri" {
  description = "Location of the videos."
  value       = local.input_uri
}

output "output_uri" {
  description = "Location of the tables."
  value       = local.output_uri
}

output "repository_url" {
  description = "Repository for the images, with the tags RELEASE-cpu and RELEASE-cuda."
  value       = aws_ecr_repository.this.repository_url
}

output "submit" {
  description = "The command that starts a run now."
  value       = "aws batch submit-job --region ${var.region} --job-name ${var.name}-plan --job-queue ${aws_batch_job_queue.coordinate.name} --job-definition ${aws_batch_job_definition.this["plan"].name}"
}

output "job_settings" {
  description = "The --set options for `vidindex submit --engine aws-batch` from another machine."
  value       = local.job_settings
}

output "job_role_arns" {
  description = "The roles of plan, work and seal, for the policies of buckets and keys in other accounts."
  value       = { for job, role in aws_iam_role.job : job => role.arn }
}

output "alarm_topic_arn" {
  description = "The SNS topic for failures, to which you can add subscriptions."
  value       = aws_sns_topic.alarms.arn
}

output "glue_database" {
  description = "The database of the tables videos, actions, persons and thumbnails."
  value       = aws_glue_catalog_database.this.name
}
