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

# The tests run on the prebuilt kernel, which every machine has; where the tuned one is cached, some run on that too.
if [[ -e $1/tuned.toml ]]; then
	HYPER_TEST_CONFIG=$(realpath "$1/tuned.toml") "${GO:-go}" test -v -count=1 -timeout 1h ./tests/cli \
		-run '^Test(Lifecycle|Run|Exec|RunTerminal|BindMounts|KernelMounts|AppendInTurn|SharedMapping|FileRewrittenOnHost|OursView|OursMachine|BigStdio)$' 2>&1 | tee -a "$log"
	((status |= PIPESTATUS[0]))
fi

count() { grep -cE "^ *--- $1:" "$log"; }
echo
echo "==== summary"
grep -E '^ *--- FAIL:|^panic:' "$log"
grep -E '^(ok|FAIL)[[:space:]]+[^[:space:]]' "$log"
echo "==== $(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped, in $((SECONDS - start)) s"
exit "$status"
