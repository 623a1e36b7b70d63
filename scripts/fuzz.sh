#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (30s) each and stops at the first that fails; Go
# keeps the input that did it under testdata/fuzz of the package, where `go test` finds it.
#
#   FUZZTIME=10m scripts/fuzz.sh            all targets
#   scripts/fuzz.sh ./stack/... ./tunlb     those of some packages
set -euo pipefail
cd "$(dirname "$0")/.."

# "package target" lines: go prints a package's targets and then its "ok" line.
targets=$(go test -list '^Fuzz' "${@:-./...}" | awk '
	/^Fuzz/ { name[n++] = $1 }
	$1 == "ok" { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }')
if [ -z "$targets" ]; then
	echo "fuzz.sh: no fuzz targets in ${*:-./...}" >&2
	exit 1
fi
while read -r package target; do
	echo "== $target in $package"
	# Minimising an interesting input takes a minute by default, in which nothing new is tried.
	go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-30s}" -fuzzminimizetime=10x "$package" </dev/null
done <<<"$targets"
