#!/bin/bash
# Runs every test. The last lines say how it went: what failed, what go test
# says of each package, and how many tests that were. The exit status is go test's.
#
#   test.sh BUILD    the build directory; the log goes there
set -uo pipefail

log=$1/test.log
start=$SECONDS

# -count=1: the tests drive binaries that go test does not know of, so its cache would be wrong.
# The time limit only guards against a test that hangs.
"${GO:-go}" test -v -count=1 -timeout 2h ./... 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

count() { grep -cE "^ *--- $1:" "$log"; }
echo
echo "==== summary"
grep -E '^ *--- FAIL:|^panic:' "$log"
grep -E '^(ok|FAIL)[[:space:]]+[^[:space:]]' "$log"
echo "==== $(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped, in $((SECONDS - start)) s"
exit "$status"
