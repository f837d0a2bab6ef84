#!/usr/bin/env bash
# One prepared run on a machine with a GPU and without a package index. docs/gpu.md says what it measures.
#
#   bash benchmarks/gpu_session.sh pack                here: pack what the GPU machine lacks
#   OUT=DIR bash benchmarks/gpu_session.sh run [STAGE...]   there, in the same folder, with build/gpu_session/site.zip
#   bash benchmarks/gpu_session.sh plan                the stages with their expected times
#   bash benchmarks/gpu_session.sh dry-run             every stage on one core of the CPU with a tiny network
set -euo pipefail
cd "$(dirname "$0")/.."

folder=build/gpu_session
# numpy and scipy come with JAX. The others make environments or speak ssh: nothing of it here.
left_out="numpy scipy uv paramiko bcrypt cryptography pynacl cffi pycparser invoke"
most_mib=64 # the checkout and what is packed

pack() {
  local uv name
  uv=$(tools/uv.sh)
  rm -rf "$folder/site" "$folder/site.zip"
  mkdir -p "$folder"
  local skip=()
  for name in $left_out; do skip+=(--no-emit-package "$name"); done
  "$uv" export --quiet --frozen --no-dev --no-emit-project "${skip[@]}" --output-file "$folder/requirements.txt"
  local install=("$uv" pip install --quiet --target "$folder/site" --python-version 3.12
    --python-platform x86_64-manylinux_2_28 --no-deps)
  "${install[@]}" --only-binary :all: --require-hashes --requirement "$folder/requirements.txt"
  "${install[@]}" .
  find "$folder/site" -type d -name tests -prune -exec rm -rf {} +
  rm -rf "$folder/site/bin" "$folder/site/share"
  (cd "$folder/site" && python3 -m zipfile -c ../site.zip ./*)
  rm -rf "$folder/site"
  local packed tree
  packed=$(stat --format %s "$folder/site.zip")
  tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 stat --format %s | awk '{s += $1} END {print s}')
  echo "$folder/site.zip: $((packed >> 20)) MiB; the checkout: $((tree >> 20)) MiB"
  if (((packed + tree) >> 20 >= most_mib)); then
    echo "error: more than $most_mib MiB" >&2
    exit 1
  fi
}

# An environment of dlperf's own; what it lacks it takes from where python3 has it, itself perhaps an environment.
unpack() {
  local site
  rm -rf "$folder/venv"
  python3 -m venv --without-pip "$folder/venv"
  site=$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  python3 -m zipfile -e "$folder/site.zip" "$site"
  python3 - >"$site/machine.pth" <<'PYTHON'
import pathlib, numpy, scipy
print(*dict.fromkeys(str(pathlib.Path(one.__file__).parents[1]) for one in (numpy, scipy)), sep="\n")
PYTHON
}

# Whether that environment has the code of this checkout; else a session would measure what was packed before.
is_current() {
  local package
  package=$(echo "$folder"/venv/lib/python3*/site-packages/dlperf)
  diff -rq -x __pycache__ -x _shipped dlperf "$package" &&
    diff -rq -x __pycache__ frameworks "$package/_shipped/frameworks"
}

case "${1:-}" in
pack) pack ;;
plan) exec python3 benchmarks/gpu_session.py --plan ;;
run)
  shift
  is_current >/dev/null 2>&1 || unpack
  if ! is_current >&2; then
    echo "error: $folder/site.zip has other code than this checkout: pack again" >&2
    exit 1
  fi
  exec "$folder/venv/bin/python" benchmarks/gpu_session.py --out "${OUT:-$folder/out}" \
    --torch-python "$(command -v python3)" "$@"
  ;;
dry-run)
  shift
  exec .venv/bin/python benchmarks/gpu_session.py --dry-run --out "${OUT:-$folder/dry-run}" \
    --torch-python "${TORCH_PYTHON:-$(.venv/bin/dlperf env path pytorch)}" \
    --jax-python "${JAX_PYTHON:-$(.venv/bin/dlperf env path jax)}" "$@"
  ;;
*)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
  ;;
esac
