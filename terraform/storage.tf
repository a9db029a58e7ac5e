# Where videos, tables and images lie: an input and an output bucket, unless they are there already, and the repository.

locals {
  input_bucket  = coalesce(var.input_bucket, "${var.name}-input-${local.account}-${var.region}")
  output_bucket = coalesce(var.output_bucket, "${var.name}-output-${local.account}-${var.region}")

  made_buckets = merge(
    var.input_bucket == null ? { input = local.input_bucket } : {},
    var.output_bucket == null ? { output = local.output_bucket } : {},
  )

  # By the resource where there is one, so that nothing is used before it is there.
  input_bucket_arn  = var.input_bucket == null ? aws_s3_bucket.this["input"].arn : "arn:${local.partition}:s3:::${var.input_bucket}"
  output_bucket_arn = var.output_bucket == null ? aws_s3_bucket.this["output"].arn : "arn:${local.partition}:s3:::${var.output_bucket}"

  input_uri  = "s3://${local.input_bucket}/${var.input_prefix}"
  output_uri = "s3://${local.output_bucket}/${var.output_prefix}"
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Who wants access logs has an account's trail or a logging bucket of their own; one more bucket per stack is not it.
  #checkov:skip=CKV_AWS_144:Videos have their own backup, and tables can be made again from them.
  #checkov:skip=CKV_AWS_145:Encrypted by S3's key, or by kms_key_arn where one is given.
  #checkov:skip=CKV2_AWS_62:Nothing waits for events: runs begin by the schedule.
  for_each = local.made_buckets

  bucket = each.value
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

# A video or a table that was overwritten or deleted by mistake is there for thirty days more.
resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  # Parts of an upload whose worker was killed: no listing shows them, and they are paid for.
  rule {
    id     = "incomplete-uploads"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}

    expiration {
      expired_object_delete_marker = true
    }

    noncurrent_version_expiration {
      noncurrent_days = 30
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

data "aws_iam_policy_document" "encrypted_transport" {
  for_each = aws_s3_bucket.this

  statement {
    sid       = "EncryptedTransportAlone"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [each.value.arn, "${each.value.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  policy = data.aws_iam_policy_document.encrypted_transport[each.key].json

  depends_on = [aws_s3_bucket_public_access_block.this]
}

# ---- images ----------------------------------------------------------------------------------------------------------

resource "aws_ecr_repository" "this" {
  #checkov:skip=CKV_AWS_136:What the image holds is public or the user's own job files; ECR's own encryption does.
  name                 = var.name
  image_tag_mutability = "IMMUTABLE" # a run that is tried again runs what it ran before

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  repository = aws_ecr_repository.this.name

  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "untagged images go after a week"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "of releases the latest twenty images stay"
        selection    = { tagStatus = "tagged", tagPatternList = ["*"], countType = "imageCountMoreThan", countNumber = 20 }
        action       = { type = "expire" }
      },
    ]
  })
}
