#!/usr/bin/env bash
# The main job on this machine: train, then write the report. Its path is the last line of standard output.
set -euo pipefail
cd "$(dirname "$0")/.."

results=results/quickstart
status=0
.venv/bin/dlperf run sweeps/quickstart.yaml || status=$?
# 3: some cases failed; the report says which and why.
if [ "$status" -ne 0 ] && [ "$status" -ne 3 ]; then
  exit "$status"
fi
.venv/bin/dlperf report "$results" --out "$results/report.md" >&2
echo "$results/report.md"
exit "$status"
