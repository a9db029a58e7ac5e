# Buckets are created and private, or not changed; the catalogue has the tables' columns and paths.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  region  = "eu-central-1"
  release = "0.1.0"
}

run "made_buckets_are_closed" {
  assert {
    condition = { for name, bucket in aws_s3_bucket.this : name => bucket.bucket } == {
      input  = "vidindex-input-123456789012-eu-central-1"
      output = "vidindex-output-123456789012-eu-central-1"
    }
    error_message = "There must be two buckets with globally unique names."
  }

  assert {
    condition     = alltrue([for block in aws_s3_bucket_public_access_block.this : block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets])
    error_message = "A bucket can be made public."
  }

  assert {
    condition     = alltrue([for rules in aws_s3_bucket_lifecycle_configuration.this : anytrue([for rule in rules.rule : length(rule.abort_incomplete_multipart_upload) == 1])])
    error_message = "Parts of incomplete uploads are never deleted."
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket.this : bucket.force_destroy != true])
    error_message = "A non-empty bucket must not be deleted with the stack."
  }
}

run "existing_buckets_are_left_alone" {
  variables {
    input_bucket  = "archive"
    output_bucket = "index"
    output_prefix = "vidindex/"
  }

  assert {
    condition     = length(aws_s3_bucket.this) + length(aws_s3_bucket_policy.this) + length(aws_s3_bucket_lifecycle_configuration.this) == 0
    error_message = "An existing bucket is changed."
  }

  assert {
    condition     = output.output_uri == "s3://index/vidindex/" && aws_glue_catalog_table.this["actions"].storage_descriptor[0].location == "s3://index/vidindex/actions/"
    error_message = "The tables must be below the prefix."
  }
}

run "a_model_must_be_named_until_all_are_known" {
  assert {
    condition     = aws_glue_catalog_table.this["actions"].parameters["projection.model.type"] == "injected"
    error_message = "Unknown models must be taken from the query."
  }

  assert {
    condition     = [for key in aws_glue_catalog_table.this["videos"].partition_keys : "${key.name} ${key.type}"] == ["dt date"]
    error_message = "Videos must not have a model in their path."
  }
}

run "the_jobs_columns_come_before_the_day" {
  variables {
    partition_columns = [{ name = "camera", values = ["cam-1", "cam-2"] }, { name = "site" }]
    action_models     = ["slowfast-r50-01234567"]
  }

  assert {
    condition     = [for key in aws_glue_catalog_table.this["actions"].partition_keys : key.name] == ["model", "camera", "site", "dt"]
    error_message = "The columns must be in the order of the path."
  }

  assert {
    condition = { for key, value in aws_glue_catalog_table.this["actions"].parameters : key => value if startswith(key, "projection.") } == {
      "projection.enabled"       = "true"
      "projection.model.type"    = "enum"
      "projection.model.values"  = "slowfast-r50-01234567"
      "projection.camera.type"   = "enum"
      "projection.camera.values" = "cam-1,cam-2"
      "projection.site.type"     = "injected"
      "projection.dt.type"       = "date"
      "projection.dt.format"     = "yyyy-MM-dd"
      "projection.dt.range"      = "2006-03-14,NOW"
    }
    error_message = "The projection properties differ from the path."
  }

  assert {
    condition = alltrue([
      for table in aws_glue_catalog_table.this :
      table.parameters["spark.sql.sources.provider"] == "parquet" && table.storage_descriptor[0].ser_de_info[0].parameters.path == table.storage_descriptor[0].location
    ])
    error_message = "Spark must discover the partitions below the table's path."
  }
}
