# The tables in Glue's catalogue, for Athena and for Spark. Neither a crawler nor anybody else has to tell it of new
# partitions, which `seal` adds with every run:
#
# - Athena projects them: it works out the paths that there can be from the properties `projection.*`.
# - Spark knows no projection. `spark.sql.sources.provider` makes the table one of its own: it reads columns and partitions
#   from the files below `path`.
#
# A crawler would be late by its schedule, and guess types anew; partitions in the catalogue would have to be added by
# whoever seals, with rights that `seal` does not need otherwise.

locals {
  # The columns of the files, as src/tables has them; tests/terraform.rs compares the two.
  columns = jsondecode(file("${path.module}/tables.json"))

  # The columns of the path, in its order.
  partition_columns = {
    for table in keys(local.columns) : table => concat(
      contains(["videos", "thumbnails"], table) ? [] : [{ name = "model", values = { actions = var.action_models, persons = var.person_models }[table] }],
      var.partition_columns,
      [{ name = "dt", values = [] }],
    )
  }

  # `injected` takes the values from the query's WHERE, which then has to name one.
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
