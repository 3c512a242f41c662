package cli_test

import (
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// An idle keeper is small. Most of it is its program: what comes back here is often an import, or a flag of the Makefile
// that has gone.
func TestOursKeeperMemory(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	const most = 11 << 10 // KiB; measured: 9.4 MiB
	if kib := residentMemory(t, c.Pid); kib > most {
		t.Errorf("the keeper of an idle container takes %d KiB, at most %d are fine", kib, most)
	}
}
