// Package cli_test runs real containers through the runtime's command line, as engines and people do.
// Tests called TestOurs… hold promises that runc does not make, or that only a container in a VM can make; all
// others pass with runc too (harness.RuntimeVariable), which shows that they are fair.
package cli_test

import (
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
