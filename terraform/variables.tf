# All settings. Only the region has no default. Start with terraform.tfvars.example.

variable "name" {
  description = "Prefix of the names of all resources. Two stacks in the same account and region need different names."
  type        = string
  default     = "vidindex"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,22}[a-z0-9])$", var.name))
    error_message = "The name must consist of 2 to 24 lowercase letters, digits and hyphens and start with a letter, because it becomes part of bucket names."
  }
}

variable "region" {
  description = "Region of all resources, preferably that of the videos."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "This is not a region. An example is eu-central-1."
  }
}

variable "tags" {
  description = "Tags for all resources, in addition to `application`."
  type        = map(string)
  default     = {}
  nullable    = false
}

# ---- buckets ---------------------------------------------------------------------------------------------------------

variable "input_bucket" {
  description = "The bucket with the videos. Null creates one. An existing bucket is not changed; the roles may read it."
  type        = string
  default     = null

  validation {
    condition     = var.input_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.input_bucket))
    error_message = "This is not the name of a bucket. Write it without s3:// and without a prefix."
  }
}

variable "input_prefix" {
  description = "Prefix of the videos in the bucket; nothing else in the bucket can be read. Empty means the whole bucket."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^([^/*?$][^*?$]*/)?$", var.input_prefix))
    error_message = "A prefix is empty, or ends with a slash and does not start with one, such as archive/2026/. It must not contain * ? $, which have a meaning in policies."
  }
}

variable "inventory" {
  description = "Where S3 Inventory writes its reports of the input bucket, for a job with [input] inventory = \"s3://...\"."
  type        = object({ bucket = string, prefix = string })
  default     = null

  validation {
    condition     = var.inventory == null || can(regex("^([^/*?$][^*?$]*/)?$", var.inventory.prefix))
    error_message = "The inventory's prefix is empty, or ends with a slash and does not start with one."
  }
}

variable "output_bucket" {
  description = "The bucket for the tables. Null creates one. An existing bucket is not changed; add a lifecycle rule to it that aborts incomplete uploads."
  type        = string
  default     = null

  validation {
    condition     = var.output_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.output_bucket))
    error_message = "This is not the name of a bucket. Write it without s3:// and without a prefix."
  }
}

variable "output_prefix" {
  description = "Prefix of the tables in the bucket; nothing else in the bucket can be read or written. Empty means the whole bucket."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^([^/*?$][^*?$]*/)?$", var.output_prefix))
    error_message = "A prefix is empty, or ends with a slash and does not start with one, such as index/. It must not contain * ? $, which have a meaning in policies."
  }

  validation {
    condition     = var.output_bucket == null || var.output_bucket != var.input_bucket || var.output_prefix != var.input_prefix
    error_message = "Videos and tables must not overlap. Use different prefixes or another bucket."
  }
}

variable "kms_key_arn" {
  description = "The KMS key of the buckets (existing or created) and of the logs. Null means S3's own encryption. The key's policy must allow the account's IAM and CloudWatch Logs to use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "Use the key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), not an alias, because policies do not resolve aliases."
  }
}

# ---- the job ---------------------------------------------------------------------------------------------------------

variable "release" {
  description = "The images to run: the repository's tags RELEASE-cpu and RELEASE-cuda (README.md explains how to push them)."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$", var.release)) && var.release != "latest"
    error_message = "Name a release, such as 0.1.0 or a commit, because tags in the repository are immutable."
  }
}

variable "job" {
  description = "The path of the job file in the image. Its input and output are replaced by the buckets above."
  type        = string
  default     = "jobs/s3.toml"
  nullable    = false

  validation {
    condition     = can(regex("^jobs/[A-Za-z0-9._/-]+\\.toml$", var.job))
    error_message = "A job file in the image has the path jobs/NAME.toml."
  }
}

variable "schedule" {
  description = "When runs start: cron(0 3 * * ? *), rate(1 day), or null for never. Choose an interval that is longer than a run, because videos that are being processed are not skipped."
  type        = string
  default     = null

  validation {
    condition     = var.schedule == null || can(regex("^(cron\\((\\S+ ){5}\\S+\\)|rate\\([1-9][0-9]* (minute|hour|day)s?\\))$", var.schedule))
    error_message = "Write cron(MINUTE HOUR DAY MONTH WEEKDAY YEAR) with ? for day or weekday, or rate(NUMBER hours)."
  }
}

variable "schedule_timezone" {
  description = "The IANA time zone of a cron schedule."
  type        = string
  default     = "UTC"
  nullable    = false
}

# ---- machines --------------------------------------------------------------------------------------------------------

variable "work_instance_types" {
  description = "Instance types for the tasks: x86-64 types or families, with NVIDIA GPUs if `work` requests any. More types reduce spot interruptions."
  type        = set(string)
  default     = ["g4dn.xlarge", "g4dn.2xlarge", "g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge"]
  nullable    = false

  validation {
    condition     = length(var.work_instance_types) > 0
    error_message = "Name at least one instance type."
  }
}

variable "work_spot" {
  description = "Whether the tasks run on spot instances, which cost a third but are interrupted occasionally."
  type        = bool
  default     = true
  nullable    = false
}

variable "work_max_vcpus" {
  description = "Maximum number of processors in use, which limits the cost per hour. The account's quota for GPU instances counts the same processors."
  type        = number
  default     = 64
  nullable    = false

  validation {
    condition     = var.work_max_vcpus >= var.work.vcpus && floor(var.work_max_vcpus) == var.work_max_vcpus
    error_message = "It must be a whole number, and large enough for one task."
  }
}

variable "work" {
  description = "Resources of a task: GPUs (0 runs the models on the CPU), processors, memory, attempts, and hours per attempt. An attempt that exceeds its time is not retried."
  type = object({
    gpus          = optional(number, 1)
    vcpus         = optional(number, 4)
    memory_mib    = optional(number, 14000) # of 16 GiB, part of which the host's own processes need
    attempts      = optional(number, 5)
    timeout_hours = optional(number, 24)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains([0, 1, 2, 4, 8], var.work.gpus)
    error_message = "A task has 0, 1, 2, 4 or 8 GPUs."
  }

  validation {
    condition     = var.work.vcpus >= 1 && floor(var.work.vcpus) == var.work.vcpus && var.work.memory_mib >= 2048 && floor(var.work.memory_mib) == var.work.memory_mib
    error_message = "A task needs at least one processor and 2048 MiB, in whole numbers."
  }

  validation {
    condition     = var.work.attempts >= 1 && var.work.attempts <= 10 && floor(var.work.attempts) == var.work.attempts
    error_message = "Batch supports 1 to 10 attempts."
  }

  validation {
    condition     = var.work.timeout_hours >= 0.1 && var.work.timeout_hours <= 336
    error_message = "An attempt may take 0.1 to 336 hours."
  }
}

variable "coordinator_instance_types" {
  description = "On-demand instance types for planning and sealing, with at least 2 processors and 8 GiB."
  type        = set(string)
  default     = ["m6a.large", "m6i.large", "m7i.large"]
  nullable    = false

  validation {
    condition     = length(var.coordinator_instance_types) > 0
    error_message = "Name at least one instance type."
  }
}

variable "disk_gib" {
  description = "Disk size of an instance, GiB: for the image, and for files that tasks write before they upload them."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.disk_gib >= 40 && var.disk_gib <= 16384 && floor(var.disk_gib) == var.disk_gib
    error_message = "A disk must have 40 to 16384 GiB."
  }
}

variable "subnet_ids" {
  description = "Subnets of one VPC for the instances; they must reach S3, ECR, ECS and CloudWatch Logs. Empty creates a VPC."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.subnet_ids : startswith(id, "subnet-")])
    error_message = "A subnet id looks like subnet-0123456789abcdef0."
  }
}

variable "vpc_cidr" {
  description = "Address range of the VPC, if one is created."
  type        = string
  default     = "10.64.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 3, 7)) && can(regex("/(1[6-9]|2[0-4])$", var.vpc_cidr))
    error_message = "Use a network of /16 to /24, such as 10.64.0.0/16."
  }
}

# ---- notifications ----------------------------------------------------------------------------------------------------

variable "log_retention_days" {
  description = "Retention of logs, days."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827 or 3653 days."
  }
}

variable "alarm_emails" {
  description = "Mail addresses for notifications about failures. Each recipient must confirm the first mail."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "Each entry must be a mail address."
  }
}

# ---- tables ----------------------------------------------------------------------------------------------------------

variable "partition_columns" {
  description = "The columns of the job's [input] partition, in the order of its groups. If `values` lists the values that occur, Athena can query all of them at once; otherwise each query must name one."
  type        = list(object({ name = string, values = optional(list(string), []) }))
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for column in var.partition_columns : can(regex("^[a-z_][a-z0-9_]*$", column.name)) && !contains(["dt", "model"], column.name)])
    error_message = "A column consists of lowercase letters, digits and underscores; dt and model are reserved."
  }
}

variable "action_models" {
  description = "Ids of the models in the actions table, as printed by `vidindex models inspect`, so that Athena can query all of them at once. If empty, each query must name one."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "person_models" {
  description = "Ids of the models in the persons table, like action_models."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "first_day" {
  description = "The first day of which Athena finds videos. The default is the day of S3's launch. A later day makes queries without dt faster, and hides older videos."
  type        = string
  default     = "2006-03-14"
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", var.first_day)) && can(timeadd("${var.first_day}T00:00:00Z", "0s"))
    error_message = "Write the day as 2026-11-01."
  }
}
