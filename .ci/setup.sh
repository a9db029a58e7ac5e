#!/usr/bin/env bash
# Installs what building, running and testing need, and nothing that is already there:
#   setup.sh run     Debian packages, a check of Rust, ONNX Runtime in .onnxruntime/
#   setup.sh lint    the same, and the linters of .ci/lint.txt in .venv/
#   setup.sh dist    as run, and cargo-auditable in .tools/
#   setup.sh demo    as run, and DuckDB's command line in .venv/
#   setup.sh test    as run, and all of tests/requirements.txt in .venv/
#   setup.sh heavy   the same, and Ceph
#   setup.sh peer    as run, and PyTorch and what the script to compare with needs, in .peer/ (6 GB)
#   setup.sh gpu     as run, and ONNX Runtime for CUDA with CUDA's libraries in .gpu/ (1.5 GB to download, 2.6 GB there)
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1

rust_needed=1.94.1
# FFmpeg's headers (its bindings are made with clang), its command line for odd test clips, Python for what comes as wheels.
packages=(build-essential pkg-config clang libclang-dev libavcodec-dev libavformat-dev libavutil-dev libswscale-dev
    ffmpeg python3 python3-venv ca-certificates)

# A Slurm cluster for the tests, none of whose services starts without a configuration; Java for Spark; a browser to look
# at reports with.
test_packages=(slurmctld slurmd slurm-client munge openjdk-17-jre-headless chromium chromium-driver)
# A Ceph cluster, for those that take long.
heavy_packages=(ceph-mon ceph-osd radosgw)

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
hint() { printf '  hint: %s\n' "$*" >&2; }

install_packages() {
    if ! command -v dpkg-query apt-get >/dev/null 2>&1; then
        pkg-config --exists libavformat libavcodec libavutil libswscale 2>/dev/null && return
        hint "install FFmpeg's development files, clang and pkg-config by this system's own means"
        fail "FFmpeg's libraries were not found, and this is no Debian"
    fi
    local missing=() package root=()
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null) == *installed* ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    if ((EUID)); then
        command -v sudo >/dev/null || fail "not root and no sudo: run 'apt-get install ${missing[*]}' as root"
        root=(sudo)
    fi
    say "installing Debian packages: ${missing[*]}"
    "${root[@]}" apt-get update -q </dev/null
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "${missing[@]}" </dev/null
}

check_rust() {
    local version
    if ! version=$(cargo --version 2>/dev/null); then
        hint "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y   (then start a new shell)"
        fail "cargo was not found; Rust $rust_needed or newer is needed, and Debian 12 packages an older one"
    fi
    version=${version#cargo } version=${version%% *}
    if [[ $(printf '%s\n' "$rust_needed" "$version" | sort -V | head -n 1) != "$rust_needed" ]]; then
        hint "rustup update stable   (without rustup: https://rustup.rs)"
        fail "cargo is $version; $rust_needed or newer is needed"
    fi
}

# A Python of 3.11 or newer: the first on the path, else Debian's.
make_venv() {
    [[ -x .venv/bin/python ]] && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            say "creating .venv with $("$python" --version)"
            "$python" -m venv --clear .venv
            return
        fi
    done
    fail "no Python of 3.11 or newer with its venv module was found"
}

# The libraries alone, out of the wheel. Each finds the others beside itself, so no variable has to be exported.
install_onnxruntime() {
    local machine wheel libraries
    machine=$(uname -m)
    wheel=".ci/onnxruntime-$machine.txt"
    [[ -f $wheel ]] || fail "no ONNX Runtime is known for $machine: build it, and name its folder in VIDINDEX_ONNXRUNTIME"
    cmp -s "$wheel" .onnxruntime/wheel.txt && [[ -e .onnxruntime/libonnxruntime.so ]] && return
    make_venv
    say "unpacking $(grep -o '^[a-z][^ ]*' "$wheel") into .onnxruntime/"
    scratch=$(mktemp -d ./.onnxruntime.XXXXXX)
    trap 'rm -rf "$scratch"' EXIT
    # The tags are named so that every Python gets the same file: only its libraries are used, not its modules.
    .venv/bin/python -m pip download --quiet --no-deps --require-hashes --only-binary=:all: \
        --implementation cp --python-version 3.11 --abi cp311 --platform "manylinux_2_28_$machine" \
        --dest "$scratch/wheel" --requirement "$wheel"
    .venv/bin/python -m zipfile -e "$scratch"/wheel/*.whl "$scratch/unpacked"
    mkdir "$scratch/ready"
    libraries="$scratch/unpacked/onnxruntime/capi"
    cp "$libraries"/libonnxruntime.so.* "$libraries"/libonnxruntime_providers_*.so \
        "$scratch"/unpacked/onnxruntime/{LICENSE,ThirdPartyNotices.txt} "$scratch/ready"
    if [[ -e $libraries/libonnxruntime_providers_openvino.so ]]; then
        # By the names under which they ask for each other; the wheel's other names are copies, its other plugins for GPUs.
        cp "$libraries"/libopenvino.so.2541 "$libraries"/libopenvino_onnx_frontend.so.2541 \
            "$libraries"/libopenvino_intel_cpu_plugin.so "$libraries"/libtbb.so.12 "$scratch/ready"
    fi
    ln -s "$(basename "$scratch"/ready/libonnxruntime.so.*)" "$scratch/ready/libonnxruntime.so"
    cp "$wheel" "$scratch/ready/wheel.txt"
    rm -rf .onnxruntime
    mv "$scratch/ready" .onnxruntime
}

# All libraries side by side, so that one folder has to be named: in VIDINDEX_ONNXRUNTIME and LD_LIBRARY_PATH.
install_gpu() {
    cmp -s .ci/gpu.txt .gpu/wheels.txt && return
    make_venv
    say "downloading ONNX Runtime for CUDA and CUDA's libraries into .gpu/ (1.5 GB)"
    local platform platforms=()
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux1; do
        platforms+=(--platform "${platform}_x86_64")
    done
    gpu=$(mktemp -d ./.gpu.XXXXXX)
    trap 'rm -rf "$gpu"' EXIT
    .venv/bin/python -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --implementation cp \
        --python-version 3.12 "${platforms[@]}" --dest "$gpu/wheels" --requirement .ci/gpu.txt
    mkdir "$gpu/ready"
    local wheel
    for wheel in "$gpu"/wheels/*.whl; do
        .venv/bin/python -m zipfile -e "$wheel" "$gpu/unpacked"
        # Only the libraries: the wheels' Python modules are not used.
        find "$gpu/unpacked" -name 'lib*.so*' -exec mv -t "$gpu/ready" {} +
        rm -rf "$gpu/unpacked" "$wheel"
    done
    cp .ci/gpu.txt "$gpu/ready/wheels.txt"
    rm -rf .gpu
    mv "$gpu/ready" .gpu
}

# Apart from .venv, because it is large and only a benchmark needs it.
install_peer() {
    cmp -s .ci/peer.txt .peer/requirements.txt && return
    make_venv
    say "installing PyTorch into .peer/ (6 GB)"
    .venv/bin/python -m venv --clear .peer
    .peer/bin/python -m pip install --quiet --requirement .ci/peer.txt
    cp .ci/peer.txt .peer/requirements.txt
}

# Installs requirements into .venv, unless the same were installed last time.
install_python() {
    local stamp=$1 requirements=$2
    make_venv
    [[ -f .venv/$stamp && $(<".venv/$stamp") == "$requirements" ]] && return
    say "installing Python packages for $stamp into .venv"
    # Not compiled, which would take half of the time: Python compiles the modules that are used.
    printf '%s\n' "$requirements" | .venv/bin/python -m pip install --quiet --no-compile --requirement /dev/stdin
    printf '%s\n' "$requirements" >".venv/$stamp"
}

# Lists the crates of a binary in the binary itself.
install_auditable() {
    [[ -x .tools/bin/cargo-auditable ]] && return
    say "building cargo-auditable in .tools/"
    cargo install --quiet --locked --version 0.7.7 --root .tools cargo-auditable
}

[[ ${1:-} =~ ^(run|lint|dist|demo|test|heavy|peer|gpu)$ ]] || fail "usage: setup.sh run|lint|dist|demo|test|heavy|peer|gpu"
[[ ! $1 =~ test|heavy ]] || packages+=("${test_packages[@]}")
[[ $1 != heavy ]] || packages+=("${heavy_packages[@]}")
install_packages
check_rust
install_onnxruntime
case $1 in
lint) install_python lint "$(<.ci/lint.txt)" ;;
demo) install_python demo "$(grep '^duckdb-cli==' tests/requirements.txt)" ;;
dist) install_auditable ;;
peer) install_peer ;;
gpu) install_gpu ;;
test | heavy) install_python test "$(<tests/requirements.txt)" ;;
esac
say "ready"
