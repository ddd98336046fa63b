#!/usr/bin/env bash
# A base image for both Containerfiles where no image registry is reachable: Debian's own Python 3.11 and nothing else,
# from the package mirror that this machine uses. Needs mmdebstrap; takes under a minute.
#   server/base-image.sh [ENGINE] [TAG]
set -euo pipefail
engine=${1:-podman}
tag=${2:-localhost/fedkit-base:bookworm}
command -v mmdebstrap > /dev/null || {
  echo "base-image.sh: mmdebstrap is missing; on Debian and Ubuntu: apt-get install mmdebstrap uidmap" >&2
  exit 2
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates,tzdata \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  bookworm "$scratch/base.tar"
"$engine" import "$scratch/base.tar" "$tag" > /dev/null
echo "$tag"
