#!/usr/bin/env bash
# Install the Debian packages of tools/packages.txt that are missing. Without the rights to do so, say which are:
# the tests that need them are skipped then, and say so.
set -euo pipefail
cd "$(dirname "$0")"

command -v dpkg-query >/dev/null || exit 0

missing=()
while read -r package; do
  state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done < <(sed 's/#.*//' packages.txt | awk 'NF {print $1}')

[ "${#missing[@]}" -gt 0 ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "missing Debian packages: ${missing[*]}; some tests are skipped (to run them: apt install ${missing[*]})" >&2
  exit 0
fi
echo "installing Debian packages: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 </dev/null; then
  echo "could not install ${missing[*]}; the tests that need them are skipped" >&2
fi
