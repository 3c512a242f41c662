package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// RuntimeVariable names the environment variable that puts another runtime under test, for example runc: a test that
// it cannot pass is a test of our habits and not of the runtime's contract. Tests called TestOurs… are ours alone.
// ConfigVariable names the one that puts another config file before the build tree's, which is that of the prebuilt
// kernel; with another runtime there is no config unless it is set.
const (
	RuntimeVariable = "HYPER_TEST_RUNTIME"
	ConfigVariable  = "HYPER_TEST_CONFIG"
)

// Runtime is a command line: the program and the arguments that precede every other.
type Runtime struct {
	Path   string
	Args   []string
	Config string // the file that Args name; empty without one
}

// UnderTest is the runtime to test: ours from the build tree with its config, or what the variables name.
func UnderTest(t testing.TB) Runtime {
	t.Helper()
	path, config := os.Getenv(RuntimeVariable), os.Getenv(ConfigVariable)
	if path == "" {
		path = filepath.Join(tree(), "bin/hyper")
		if config == "" {
			config = filepath.Join(tree(), "build/debian.toml")
		}
	}
	r := Runtime{Path: path, Config: config}
	if config != "" {
		r.Args = []string{"--config", config}
	}
	for _, file := range append([]string{path}, r.Args[min(1, len(r.Args)):]...) {
		if _, err := os.Stat(file); err != nil {
			t.Fatalf("%v: run make first", err)
		}
	}
	return r
}

// tree is the directory of the source tree.
func tree() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Main runs the tests of a package in a process that reaps containers as an engine does: what a runtime leaves
// behind becomes our child (prctl(2), PR_SET_CHILD_SUBREAPER), and no child may live on at the end,
// nor any new tap.
func Main(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		os.Exit(1)
	}
	before, err := taps()
	if err != nil {
		fmt.Fprintln(os.Stderr, "list taps:", err)
		os.Exit(1)
	}
	code := m.Run()
	left, err := children(os.Getpid())
	if err != nil {
		fmt.Fprintln(os.Stderr, "list children:", err)
		code = 1
	}
	after, err := taps()
	if err != nil {
		fmt.Fprintln(os.Stderr, "list taps:", err)
		code = 1
	}
	for _, tap := range after {
		if !slices.Contains(before, tap) {
			left = append(left, tap)
		}
	}
	for _, leak := range left {
		fmt.Fprintln(os.Stderr, "leaked:", leak)
		code = 1
	}
	os.Exit(code)
}
