#!/usr/bin/env bash
# Pin requirements.txt (what a run needs) and requirements-dev.txt (what the tests add) from fresh environments.
# torch comes first: where a CPU build is on offer its pin keeps a CPU machine from downloading CUDA.
set -euo pipefail
python=${1:-python3.11}
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
freeze() { # freeze EXTRA FILE HEADER
  "$python" -m venv "$scratch/$2"
  "$scratch/$2/bin/python" -m pip install --quiet torch==2.13.0 hatchling
  "$scratch/$2/bin/python" -m pip install --quiet ".$1"
  { echo "# $3 Made by \`make lock\`; do not edit."
    "$scratch/$2/bin/python" -m pip freeze --exclude fedkit | grep -viE '^(nvidia-|triton==|cuda-)' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'
  } > "$2"
}
freeze "" requirements.txt "What a run needs."
freeze "[dev]" requirements-dev.txt "What the tests need."
docs/lock_images.sh "$scratch/requirements.txt/bin/python"
