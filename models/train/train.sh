#!/usr/bin/env bash
# Draws clips, trains the demo's SlowFast and YOLOv5 on them, and writes models/demo-*.onnx:
#   train.sh [CLIPS] [MINUTES]     default: 480 clips, and 45 minutes per model
# Data and checkpoints are kept in .training/, which may be deleted.
set -euo pipefail
cd "$(dirname "$0")/../.."
clips=${1:-480} minutes=${2:-45}
target=${CARGO_TARGET_DIR:-target}
export PIP_DISABLE_PIP_VERSION_CHECK=1

[[ -x .training/venv/bin/python ]] || python3 -m venv .training/venv
.training/venv/bin/python -m pip install --quiet --requirement models/train/requirements.txt
cargo build --release --locked --workspace --bins

# Seeds that neither tests nor the demo use.
[[ -f .training/val/truth.json ]] || "$target/release/scenes" --seed 1001 --clips 40 --out .training/val
[[ -f .training/train/truth.json ]] || "$target/release/scenes" --seed 1000 --clips "$clips" --out .training/train

# Train both at once, because small networks hardly use more than one core.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + 1) / 2))}
.training/venv/bin/python models/train/train_persons.py .training .training/persons.pt --minutes "$minutes" &
persons=$!
.training/venv/bin/python models/train/train_actions.py .training .training/actions.pyth --minutes "$minutes"
wait "$persons"

"$target/release/vidindex" models convert .training/persons.pt --arch yolov5n --side 320 --labels models/train/persons.txt \
    --half --out models/demo-yolov5.onnx
"$target/release/vidindex" models convert .training/actions.pyth --arch slowfast-tiny-2x16-alpha4-diff --side 96 \
    --labels models/train/actions.txt --lowering plain --half --out models/demo-slowfast.onnx
