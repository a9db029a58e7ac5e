#!/usr/bin/env bash
# Compares the rows of this machine's GPU with those of the processor, and measures full-size models on it. Prints what
# docs/performance.md says of a GPU. Needs what `setup.sh gpu` installs, and NVIDIA's driver.
set -euo pipefail
cd "$(dirname "$0")/.."

ls /proc/driver/nvidia/version >/dev/null 2>&1 || { echo "gpu: error: NVIDIA's driver is not loaded" >&2; exit 1; }
export VIDINDEX_GPU_LIBRARIES=$PWD/.gpu
export LD_LIBRARY_PATH=$PWD/.gpu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
cargo test --locked --test it gpu:: -- --nocapture --test-threads 1

cargo build --release --locked --workspace --bins
target=${CARGO_TARGET_DIR:-target}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
vidindex=$target/release/vidindex
export VIDINDEX_ONNXRUNTIME=$PWD/.gpu
"$target/release/scenes" --seed 1 --clips 24 --out "$scratch/videos" >/dev/null
for model in slowfast-r50-8x8 yolov5s; do
    "$vidindex" models build "$model" --out "$scratch" --quiet >/dev/null
done
cat >"$scratch/job.toml" <<JOB
[input]
uri = "$scratch/videos"
[output]
uri = "$scratch/index"
[actions]
model = "$scratch/slowfast-r50-8x8.onnx"
[persons]
model = "$scratch/yolov5s.onnx"
JOB
"$vidindex" doctor
"$vidindex" bench "$scratch/job.toml" --device cuda:0 --seconds 60
