# The network of the instances: the given subnets, or a small VPC of its own. It allows no inbound traffic. Instances reach S3
# through a free gateway endpoint, and the rest of AWS through public addresses, which cost less than a NAT gateway.

locals {
  make_vpc = length(var.subnet_ids) == 0

  # Spot capacity of an instance type varies between zones, so all zones are used, including new ones. The address range of
  # a zone depends only on its letter.
  zones = local.make_vpc ? data.aws_availability_zones.this[0].names : []

  vpc_id     = local.make_vpc ? aws_vpc.this[0].id : data.aws_subnet.given[0].vpc_id
  subnet_ids = local.make_vpc ? [for zone in local.zones : aws_subnet.this[zone].id] : var.subnet_ids
}

data "aws_availability_zones" "this" {
  #checkov:skip=CKV_AWS_394:A zone that AWS adds results in a new subnet and changes no other.
  count = local.make_vpc ? 1 : 0

  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_subnet" "given" {
  count = local.make_vpc ? 0 : 1

  id = var.subnet_ids[0]
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:There are no listeners here, and flow logs cost more than the network.
  count = local.make_vpc ? 1 : 0

  cidr_block           = var.vpc_cidr
  enable_dns_hostnames = true

  tags = { Name = var.name }
}

# The VPC's default security group, adopted so that it allows nothing.
resource "aws_default_security_group" "this" {
  count = local.make_vpc ? 1 : 0

  vpc_id = aws_vpc.this[0].id
}

resource "aws_internet_gateway" "this" {
  count = local.make_vpc ? 1 : 0

  vpc_id = aws_vpc.this[0].id

  tags = { Name = var.name }
}

resource "aws_route_table" "this" {
  count = local.make_vpc ? 1 : 0

  vpc_id = aws_vpc.this[0].id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this[0].id
  }

  tags = { Name = var.name }
}

resource "aws_subnet" "this" {
  #checkov:skip=CKV_AWS_130:Public addresses replace a NAT gateway; the security group allows no inbound traffic.
  for_each = toset(local.zones)

  vpc_id                  = aws_vpc.this[0].id
  availability_zone       = each.value
  cidr_block              = cidrsubnet(var.vpc_cidr, 3, index(["a", "b", "c", "d", "e", "f", "g", "h"], substr(each.value, -1, 1)))
  map_public_ip_on_launch = true

  tags = { Name = "${var.name}-${each.value}" }
}

resource "aws_route_table_association" "this" {
  for_each = aws_subnet.this

  subnet_id      = each.value.id
  route_table_id = aws_route_table.this[0].id
}

resource "aws_vpc_endpoint" "s3" {
  count = local.make_vpc ? 1 : 0

  vpc_id            = aws_vpc.this[0].id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.this[0].id]

  tags = { Name = "${var.name}-s3" }
}

resource "aws_security_group" "instances" {
  name_prefix = "${var.name}-"
  description = "Batch instances of ${var.name}: no inbound traffic, outbound HTTPS"
  vpc_id      = local.vpc_id

  tags = { Name = var.name }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.instances.id
  description       = "S3, ECR, ECS, CloudWatch Logs"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}
