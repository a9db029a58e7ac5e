# Storage: an input and an output bucket, unless they exist already, and the image repository.

locals {
  input_bucket  = coalesce(var.input_bucket, "${var.name}-input-${local.account}-${var.region}")
  output_bucket = coalesce(var.output_bucket, "${var.name}-output-${local.account}-${var.region}")

  made_buckets = merge(
    var.input_bucket == null ? { input = local.input_bucket } : {},
    var.output_bucket == null ? { output = local.output_bucket } : {},
  )

  # Refer to the resource if there is one, so that it is created before it is used.
  input_bucket_arn  = var.input_bucket == null ? aws_s3_bucket.this["input"].arn : "arn:${local.partition}:s3:::${var.input_bucket}"
  output_bucket_arn = var.output_bucket == null ? aws_s3_bucket.this["output"].arn : "arn:${local.partition}:s3:::${var.output_bucket}"

  input_uri  = "s3://${local.input_bucket}/${var.input_prefix}"
  output_uri = "s3://${local.output_bucket}/${var.output_prefix}"
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:Use an account-wide trail or logging bucket for access logs, rather than another bucket per stack.
  #checkov:skip=CKV_AWS_144:Videos have their own backup, and tables can be rebuilt from them.
  #checkov:skip=CKV_AWS_145:Encrypted with S3's key, or with kms_key_arn if it is set.
  #checkov:skip=CKV2_AWS_62:Nothing consumes events, because the schedule starts runs.
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

# Videos and tables that were overwritten or deleted by mistake are kept for thirty days.
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

  # Parts of uploads whose worker was killed: listings do not show them, but they cost money.
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
  #checkov:skip=CKV_AWS_136:The image contains public files and the user's job files; ECR's default encryption is sufficient.
  name                 = var.name
  image_tag_mutability = "IMMUTABLE" # so that a retry runs the same image

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
        description  = "delete untagged images after a week"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "keep the latest twenty release images"
        selection    = { tagStatus = "tagged", tagPatternList = ["*"], countType = "imageCountMoreThan", countNumber = 20 }
        action       = { type = "expire" }
      },
    ]
  })
}
