#!/usr/bin/env bash
# Print the path of uv; fetch it into .tools/ where this machine has none. Progress goes to standard error.
set -euo pipefail
cd "$(dirname "$0")/.."

export PIP_DISABLE_PIP_VERSION_CHECK=1
oldest=0.8.0 # the first that knows every option dlperf uses

new_enough() {
  local version
  version=$("$1" --version 2>/dev/null | awk '{print $2}') || return 1
  [ "$(printf '%s\n%s\n' "$oldest" "$version" | sort -V | head -n 1)" = "$oldest" ]
}

for candidate in "$(command -v uv || true)" .tools/uv/bin/uv; do
  if [ -n "$candidate" ] && new_enough "$candidate"; then
    realpath -s "$candidate"
    exit 0
  fi
done

echo "uv is not here; fetching it into .tools/uv" >&2
rm -rf .tools/uv
mkdir -p .tools
if ! command -v python3 >/dev/null; then
  echo "error: python3 is missing; install it (Debian, Ubuntu: apt install python3 python3-venv)" >&2
  exit 1
fi
if ! python3 -m venv .tools/uv >&2; then
  echo "error: python3 cannot make virtual environments here; install python3-venv (Debian, Ubuntu: apt install" \
    "python3-venv) or uv itself (https://docs.astral.sh/uv/)" >&2
  exit 1
fi
# The pip that comes with an old Python knows no current wheels.
.tools/uv/bin/python -m pip install --quiet --upgrade pip >&2
.tools/uv/bin/python -m pip install --quiet "uv>=$oldest" >&2
realpath -s .tools/uv/bin/uv
