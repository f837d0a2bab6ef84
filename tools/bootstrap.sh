#!/usr/bin/env bash
# Make .venv: dlperf, what it needs and what its developers need, in the versions of uv.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=$(tools/uv.sh)

# uv does not look where pyenv keeps its versions, and stumbles over pyenv's shims.
find_python() {
  local candidate
  for candidate in "$("$uv" python find --system --no-python-downloads --no-project '>=3.11' 2>/dev/null || true)" \
    $(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-9].*/bin/python3 2>/dev/null | sort -V); do
    if [ -x "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 3.12 # uv downloads it
}

python=$(find_python)
echo "making .venv with $("$uv" --version | cut -d' ' -f1-2) and Python $python" >&2
# Compiled once: where PYTHONDONTWRITEBYTECODE is set, every process would compile pandas and matplotlib again.
exec "$uv" sync --frozen --quiet --compile-bytecode --python "$python"
