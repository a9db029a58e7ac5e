#!/usr/bin/env bash
# Checks the stack without an AWS account. A step whose tools are missing is skipped with a message:
#
#   1. terraform fmt and validate
#   2. terraform test, with a mocked provider (tests/)
#   3. apply, a second plan without changes, and destroy, against an emulator on loopback (moto_server)
#   4. checkov, and hadolint on the Dockerfile
#
# `check.sh quick` ends after step 2, in less than a minute; step 3 takes minutes, as Terraform does with AWS.
# VIDINDEX_TEST_REQUIRE=1 makes a missing emulator an error; Terraform and its provider stay optional.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf 'terraform: %s\n' "$*" >&2; }
skip() { say "skipped: $*"; exit 0; }

command -v terraform >/dev/null || skip "terraform is not installed"
scratch=$(mktemp -d)
server=""
cleanup() {
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap cleanup EXIT

# A provider on this machine, so that nothing is downloaded: from a mirror folder, or from Terraform's own plugin cache.
mirror=""
for folder in "${VIDINDEX_TERRAFORM_MIRROR:-}" /opt/* "$HOME/.terraform.d/plugins" "$HOME/.terraform.d/plugin-cache"; do
    [[ -n $folder ]] || continue
    if compgen -G "$folder/*/hashicorp/aws/5.*/*/terraform-provider-aws*" >/dev/null; then
        mirror=$folder
        break
    fi
done
[[ -n $mirror ]] || skip "Terraform's AWS provider was not found; set VIDINDEX_TERRAFORM_MIRROR to a folder that `terraform providers mirror FOLDER` filled"
cat >"$scratch/terraformrc" <<END
disable_checkpoint = true
provider_installation {
  filesystem_mirror {
    path    = "$mirror"
    include = ["*/*/*"]
  }
}
END
export TF_CLI_CONFIG_FILE=$scratch/terraformrc TF_IN_AUTOMATION=1 TF_CLI_ARGS=-no-color

say "fmt"
terraform fmt -check -diff -recursive

# Work in a copy, so that no state is left here.
stack=$scratch/stack
mkdir "$stack"
cp -r ./*.tf tables.json tests "$stack"
cd "$stack"
terraform init -input=false >/dev/null
say "validate"
terraform validate >/dev/null

say "test"
terraform test >"$scratch/log" || { cat "$scratch/log"; exit 1; }
tail -n 1 "$scratch/log"
[[ ${1:-} != quick ]] || exit 0

# ---- against an emulator ---------------------------------------------------------------------------------------------

here=$OLDPWD
for moto in "$here/../.venv/bin/moto_server" moto_server; do
    command -v "$moto" >/dev/null && break
done
if ! command -v "$moto" >/dev/null; then
    [[ ${VIDINDEX_TEST_REQUIRE:-} != 1 ]] || { say "error: moto_server not found; run make setup-test"; exit 1; }
    say "skipped: apply: moto_server was not found (run make setup-test)"
else
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    MOTO_IAM_LOAD_MANAGED_POLICIES=true "$moto" -H 127.0.0.1 -p "$port" >/dev/null 2>&1 </dev/null &
    server=$!
    endpoint=http://127.0.0.1:$port
    for _ in {1..300}; do
        kill -0 "$server" 2>/dev/null || { say "error: $moto does not start"; exit 1; }
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
        sleep 0.2
    done
    # Replaces AWS by the emulator, which requires a service role for Batch, and treats the tags of a launch template as part
    # of its content.
    cat >moto_override.tf <<END
provider "aws" {
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true

  default_tags {}

  endpoints {
$(for service in batch cloudwatch cloudwatchlogs ec2 ecr eventbridge glue iam s3 scheduler sns sts; do
        echo "    $service = \"$endpoint\""
    done)
  }
}

resource "aws_batch_compute_environment" "work" {
  service_role = aws_iam_role.instance.arn
}

resource "aws_batch_compute_environment" "coordinate" {
  service_role = aws_iam_role.instance.arn
}
END
    export AWS_EC2_METADATA_DISABLED=true TF_VAR_region=eu-central-1 TF_VAR_release=0.1.0
    export TF_VAR_schedule="cron(0 3 * * ? *)" TF_VAR_alarm_emails='["archive@example.org"]'
    terraform_do() {
        local doing=$1
        shift
        say "$doing"
        terraform "$@" -input=false >"$scratch/log" 2>&1 || { tail -n 40 "$scratch/log"; return 1; }
    }
    terraform_do "apply to the emulator" apply -auto-approve
    grep '^Apply complete' "$scratch/log"
    terraform_do "a second plan finds nothing to do" plan -detailed-exitcode
    say "what was applied"
    "$(dirname "$moto")/python3" "$here/tests/applied.py" "$endpoint" < <(terraform output -json)
    terraform_do "destroy" destroy -auto-approve -refresh=false
    grep '^Destroy complete' "$scratch/log"
fi
cd "$here"

# ---- linters ---------------------------------------------------------------------------------------------------------

if command -v checkov >/dev/null; then
    say "checkov"
    checkov --directory . --framework terraform dockerfile --quiet --compact --skip-download
else
    say "skipped: checkov is not installed"
fi
if command -v hadolint >/dev/null; then
    say "hadolint"
    hadolint image/Dockerfile
else
    say "skipped: hadolint is not installed"
fi
