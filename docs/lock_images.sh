#!/usr/bin/env bash
# Pin what the two images install, every file by its hash: the versions of requirements.txt less what an image must
# not hold. torch is left out of both: its line is an argument of the build, and the bill of materials names its hash.
#   docs/lock_images.sh [PYTHON]      PYTHON: an environment that holds uv, as .venv does
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}

# Only an editable install needs these; uv is an installer, which no image of ours holds.
build_time='hatchling|pluggy|tomlkit|trove-classifiers|uv'

lock() { # lock FILE HEADER < REQUIREMENTS
  { echo "# $2 Made by \`make lock\`; do not edit."
    "$python" -m uv pip compile - --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 "${@:3}"
  } > "$1"
}

less() { # less NAMES: requirements.txt without the names; torch requires setuptools, which pip freeze never names
  grep -viE "^(#|(torch|$build_time|$1)==)" requirements.txt
  echo setuptools
}

# The coordinator computes no gradients; a site draws no figures.
less 'opacus|opt_einsum' | lock server/requirements.lock "What the coordinator's image installs." --no-deps
less 'matplotlib|contourpy|cycler|fonttools|kiwisolver|pyparsing|pillow|python-dateutil' |
  lock clients/requirements.lock "What a site's image installs." --no-deps
printf '%s\n' pip setuptools wheel hatchling cyclonedx-bom |
  lock server/image/tools.lock "What builds the images and stays behind in the build." --upgrade
