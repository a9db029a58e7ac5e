# Everything that can be chosen. Only the region has no default; terraform.tfvars.example is a start.

variable "name" {
  description = "Begins the name of everything that is made: two stacks of one account and region need two names."
  type        = string
  default     = "vidindex"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,22}[a-z0-9])$", var.name))
    error_message = "The name must have 2 to 24 small letters, digits and hyphens, and begin with a letter: it becomes part of a bucket's."
  }
}

variable "region" {
  description = "Where everything is made; best the region of the videos."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "That is not a region; one looks like eu-central-1."
  }
}

variable "tags" {
  description = "Tags for everything that is made, besides `application`."
  type        = map(string)
  default     = {}
  nullable    = false
}

# ---- buckets ---------------------------------------------------------------------------------------------------------

variable "input_bucket" {
  description = "The bucket that holds the videos. Null makes one. An existing one is not touched: the roles may read it."
  type        = string
  default     = null

  validation {
    condition     = var.input_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.input_bucket))
    error_message = "That is not a bucket's name: give it without s3:// and without a prefix."
  }
}

variable "input_prefix" {
  description = "Where the videos lie in it; nothing else of the bucket can be read. Empty is all of it."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^([^/*?$][^*?$]*/)?$", var.input_prefix))
    error_message = "A prefix is empty, or ends in a slash and does not begin with one: archive/2026/. It has none of * ? $, which mean something in a policy."
  }
}

variable "inventory" {
  description = "Where S3 Inventory writes its reports of the input bucket, for a job with [input] inventory = \"s3://...\"."
  type        = object({ bucket = string, prefix = string })
  default     = null

  validation {
    condition     = var.inventory == null || can(regex("^([^/*?$][^*?$]*/)?$", var.inventory.prefix))
    error_message = "The inventory's prefix is empty, or ends in a slash and does not begin with one."
  }
}

variable "output_bucket" {
  description = "The bucket for the tables. Null makes one. An existing one is not touched: give it a lifecycle rule that aborts incomplete uploads."
  type        = string
  default     = null

  validation {
    condition     = var.output_bucket == null || can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.output_bucket))
    error_message = "That is not a bucket's name: give it without s3:// and without a prefix."
  }
}

variable "output_prefix" {
  description = "Where the tables lie in it; nothing else of the bucket can be read or written. Empty is all of it."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^([^/*?$][^*?$]*/)?$", var.output_prefix))
    error_message = "A prefix is empty, or ends in a slash and does not begin with one: index/. It has none of * ? $, which mean something in a policy."
  }

  validation {
    condition     = var.output_bucket == null || var.output_bucket != var.input_bucket || var.output_prefix != var.input_prefix
    error_message = "Videos and tables need places of their own: give other prefixes, or another bucket."
  }
}

variable "kms_key_arn" {
  description = "The KMS key of the buckets, existing or made, and of the logs. Null is S3's own encryption. The key's policy must let the account's IAM and CloudWatch Logs use it."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "Give the key's ARN (arn:aws:kms:REGION:ACCOUNT:key/ID), not an alias: policies do not follow those."
  }
}

# ---- the job ---------------------------------------------------------------------------------------------------------

variable "release" {
  description = "Which images to run: the repository's tags RELEASE-cpu and RELEASE-cuda (README.md says how they get there)."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$", var.release)) && var.release != "latest"
    error_message = "Name a release, such as 0.1.0 or a commit: the repository's tags never change what they mean."
  }
}

variable "job" {
  description = "The job file as the image has it. Its input and output are replaced by the buckets above."
  type        = string
  default     = "jobs/s3.toml"
  nullable    = false

  validation {
    condition     = can(regex("^jobs/[A-Za-z0-9._/-]+\\.toml$", var.job))
    error_message = "A job file of the image is jobs/NAME.toml."
  }
}

variable "schedule" {
  description = "When a run begins: cron(0 3 * * ? *), rate(1 day), or null for never. Leave more time between two than a run takes: videos that are at work are not skipped yet."
  type        = string
  default     = null

  validation {
    condition     = var.schedule == null || can(regex("^(cron\\((\\S+ ){5}\\S+\\)|rate\\([1-9][0-9]* (minute|hour|day)s?\\))$", var.schedule))
    error_message = "Write cron(MINUTE HOUR DAY MONTH WEEKDAY YEAR), of day and weekday one as ?, or rate(NUMBER hours)."
  }
}

variable "schedule_timezone" {
  description = "The time zone of a cron schedule, by its IANA name."
  type        = string
  default     = "UTC"
  nullable    = false
}

# ---- machines --------------------------------------------------------------------------------------------------------

variable "work_instance_types" {
  description = "What the tasks may run on, the more the fewer lost spot instances. Types or families of x86-64; with GPUs of NVIDIA's where `work` asks for some."
  type        = set(string)
  default     = ["g4dn.xlarge", "g4dn.2xlarge", "g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge"]
  nullable    = false

  validation {
    condition     = length(var.work_instance_types) > 0
    error_message = "Name at least one instance type."
  }
}

variable "work_spot" {
  description = "Whether the tasks run on spot instances: a third of the price, and tasks that are moved now and then."
  type        = bool
  default     = true
  nullable    = false
}

variable "work_max_vcpus" {
  description = "The most processors at work at once, which bounds what an hour costs. The account's quota for GPU instances counts the same processors."
  type        = number
  default     = 64
  nullable    = false

  validation {
    condition     = var.work_max_vcpus >= var.work.vcpus && floor(var.work_max_vcpus) == var.work_max_vcpus
    error_message = "It must be a whole number, and one task at least must fit."
  }
}

variable "work" {
  description = "What a task gets: GPUs (0 runs the models on the CPU), processors, memory, tries, and hours per try. A try that runs out of time is the last."
  type = object({
    gpus          = optional(number, 1)
    vcpus         = optional(number, 4)
    memory_mib    = optional(number, 14000) # of 16 GiB, which the host's own processes need a part of
    attempts      = optional(number, 5)
    timeout_hours = optional(number, 24)
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains([0, 1, 2, 4, 8], var.work.gpus)
    error_message = "A task has no GPU, or 1, 2, 4 or 8 of them."
  }

  validation {
    condition     = var.work.vcpus >= 1 && floor(var.work.vcpus) == var.work.vcpus && var.work.memory_mib >= 2048 && floor(var.work.memory_mib) == var.work.memory_mib
    error_message = "A task needs a processor and 2048 MiB at least, in whole numbers."
  }

  validation {
    condition     = var.work.attempts >= 1 && var.work.attempts <= 10 && floor(var.work.attempts) == var.work.attempts
    error_message = "Batch tries a job 1 to 10 times."
  }

  validation {
    condition     = var.work.timeout_hours >= 0.1 && var.work.timeout_hours <= 336
    error_message = "A try may take 0.1 to 336 hours."
  }
}

variable "coordinator_instance_types" {
  description = "What planning and sealing run on, on demand: types with 2 processors and 8 GiB, or more."
  type        = set(string)
  default     = ["m6a.large", "m6i.large", "m7i.large"]
  nullable    = false

  validation {
    condition     = length(var.coordinator_instance_types) > 0
    error_message = "Name at least one instance type."
  }
}

variable "disk_gib" {
  description = "An instance's disk: the image, and what its tasks write before they upload it."
  type        = number
  default     = 60
  nullable    = false

  validation {
    condition     = var.disk_gib >= 40 && var.disk_gib <= 16384 && floor(var.disk_gib) == var.disk_gib
    error_message = "A disk has 40 to 16384 GiB."
  }
}

variable "subnet_ids" {
  description = "Subnets of one VPC to run in; they must reach S3, ECR, ECS and CloudWatch Logs. Empty makes a VPC."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.subnet_ids : startswith(id, "subnet-")])
    error_message = "A subnet's id looks like subnet-0123456789abcdef0."
  }
}

variable "vpc_cidr" {
  description = "The addresses of the VPC that is made."
  type        = string
  default     = "10.64.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 3, 7)) && can(regex("/(1[6-9]|2[0-4])$", var.vpc_cidr))
    error_message = "Give a network of /16 to /24, such as 10.64.0.0/16."
  }
}

# ---- telling ---------------------------------------------------------------------------------------------------------

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 3653], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827 or 3653 days."
  }
}

variable "alarm_emails" {
  description = "Who is written to when something failed. Each must confirm a first mail."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+$", address))])
    error_message = "These are mail addresses."
  }
}

# ---- tables ----------------------------------------------------------------------------------------------------------

variable "partition_columns" {
  description = "The columns that the job's [input] partition takes from the keys, in the order of its groups. With the values that occur, Athena can query them all at once; without, each query must name one."
  type        = list(object({ name = string, values = optional(list(string), []) }))
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for column in var.partition_columns : can(regex("^[a-z_][a-z0-9_]*$", column.name)) && !contains(["dt", "model"], column.name)])
    error_message = "A column has small letters, digits and underscores, and dt and model are taken."
  }
}

variable "action_models" {
  description = "Ids of the models in the actions table (`vidindex models inspect` tells them), so that Athena can query them all at once. Empty: each query must name one."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "person_models" {
  description = "The same for the persons table."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "first_day" {
  description = "Athena looks for rows of videos from this day on. The default is S3's first; a later one makes queries without dt faster, and hides videos that are older."
  type        = string
  default     = "2006-03-14"
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", var.first_day)) && can(timeadd("${var.first_day}T00:00:00Z", "0s"))
    error_message = "A day is written 2026-11-01."
  }
}
