# The tables in Glue's catalogue, for Athena and for Spark. New partitions, which `seal` adds with every run, need neither a
# crawler nor registration:
#
# - Athena projects them: it derives the possible paths from the properties `projection.*`.
# - Spark does not support projection. `spark.sql.sources.provider` makes the table a native one: Spark reads columns and
#   partitions from the files below `path`.
#
# A crawler would run late and guess types again. If partitions were registered in the catalogue, `seal` would need
# additional permissions.

locals {
  # The columns of the files. tests/it/aws_stack.rs compares them with src/tables.
  columns = jsondecode(file("${path.module}/tables.json"))

  # The columns in the path, in order.
  partition_columns = {
    for table in keys(local.columns) : table => concat(
      contains(["videos", "thumbnails"], table) ? [] : [{ name = "model", values = { actions = var.action_models, persons = var.person_models }[table] }],
      var.partition_columns,
      [{ name = "dt", values = [] }],
    )
  }

  # `injected` takes the value from the query's WHERE clause, which must name one.
  projections = {
    for table, columns in local.partition_columns : table => merge(
      { "projection.enabled" = "true" },
      {
        "projection.dt.type"   = "date"
        "projection.dt.format" = "yyyy-MM-dd"
        "projection.dt.range"  = "${var.first_day},NOW"
      },
      { for column in columns : "projection.${column.name}.type" => length(column.values) > 0 ? "enum" : "injected" if column.name != "dt" },
      { for column in columns : "projection.${column.name}.values" => join(",", column.values) if length(column.values) > 0 },
    )
  }
}

resource "aws_glue_catalog_database" "this" {
  name        = replace(var.name, "-", "_")
  description = "What is in the videos of ${local.input_uri}"
}

resource "aws_glue_catalog_table" "this" {
  for_each = local.columns

  database_name = aws_glue_catalog_database.this.name
  name          = each.key
  table_type    = "EXTERNAL_TABLE"

  parameters = merge(
    {
      "EXTERNAL"                   = "TRUE"
      "classification"             = "parquet"
      "spark.sql.sources.provider" = "parquet"
    },
    local.projections[each.key],
  )

  dynamic "partition_keys" {
    for_each = local.partition_columns[each.key]

    content {
      name = partition_keys.value.name
      type = partition_keys.value.name == "dt" ? "date" : "string"
    }
  }

  storage_descriptor {
    location      = "${local.output_uri}${each.key}/"
    input_format  = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"
    output_format = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"

    ser_de_info {
      name                  = "parquet"
      serialization_library = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
      parameters            = { path = "${local.output_uri}${each.key}/" } # Spark's
    }

    dynamic "columns" {
      for_each = each.value

      content {
        name = columns.value.name
        type = columns.value.type
      }
    }
  }
}
