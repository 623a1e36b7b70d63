#!/usr/bin/env bash
# Runs every fuzz target of the module for TIME (10m) each and stops at the first that fails; Go keeps
# the input that did it under testdata/fuzz of the package, where `go test` finds it from then on.
#
#   make fuzz                               all targets, 10 minutes each
#   TIME=1m scripts/fuzz.sh                 shorter
#   scripts/fuzz.sh ./stack/... ./tunlb     those of some packages
set -euo pipefail
cd "$(dirname "$0")/.."
time="${TIME:-10m}"

# "package target" lines: go prints a package's targets and then its "ok" line.
targets=$(go test -list '^Fuzz' "${@:-./...}" | awk '
	/^Fuzz/ { name[n++] = $1 }
	$1 == "ok" { for (i = 0; i < n; i++) print $2, name[i]; n = 0 }')
if [ -z "$targets" ]; then
	echo "fuzz.sh: no fuzz targets in ${*:-./...}" >&2
	exit 1
fi
# What a build tag hides would never be fuzzed, and nobody would notice.
if [ $# -eq 0 ]; then
	written=$(grep -rh --include='*_test.go' '^func Fuzz' . | wc -l)
	found=$(wc -l <<<"$targets")
	if [ "$found" -ne "$written" ]; then
		echo "fuzz.sh: $written targets are written, and go lists $found of them: look for build tags" >&2
		exit 1
	fi
fi
while read -r package target; do
	echo "== $target in $package"
	# Minimising an interesting input takes a minute by default, in which nothing new is tried.
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime=10x "$package" </dev/null
done <<<"$targets"
