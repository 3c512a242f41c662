// Package harness drives a container runtime's command line as the engines do: it makes bundles, holds the stdio and
// the terminals, reaps the containers, and checks after every test that the host is as it was before.
package harness

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Patience is how long the harness waits for anything before it calls it hung. It is a guard, not a measure:
// a container boots in 2 to 10 s on a busy machine without KVM.
const Patience = 3 * time.Minute

// Host is one test's own corner of the machine. Every path, id, cgroup and process made through it holds the Token,
// which is how the leak check knows them.
type Host struct {
	T       testing.TB
	Runtime Runtime
	Token   string
	Dir     string // scratch directory of the test, short enough for Unix sockets in it
	Root    string // --root of the runtime
	Flags   []string
	ids     int
}

// New gives the test a corner, and takes it away when the test ends: all containers are deleted by force, and a leak
// fails the test. Left-overs are reported before anything is removed, and then nothing is: they are the evidence.
func New(t testing.TB) *Host {
	t.Helper()
	var random [4]byte
	if _, err := rand.Read(random[:]); err != nil {
		t.Fatal(err)
	}
	token := "ht" + hex.EncodeToString(random[:])
	dir := filepath.Join("/tmp", token)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Host{T: t, Runtime: UnderTest(t), Token: token, Dir: dir, Root: filepath.Join(dir, "root")}
	t.Cleanup(h.close)
	return h
}

// close ends the corner: containers first, then the leak check, then the files.
func (h *Host) close() {
	entries, err := os.ReadDir(h.Root)
	if err != nil && !os.IsNotExist(err) {
		h.T.Error(err)
	}
	for _, entry := range entries {
		if r := h.Run("delete", "--force", entry.Name()); r.Code != 0 {
			h.T.Errorf("delete --force %s: %v", entry.Name(), r)
		}
	}
	leaks, err := h.Leaks()
	if err != nil {
		h.T.Error(err)
	}
	for _, leak := range leaks {
		h.T.Errorf("leaked: %s", leak)
	}
	if len(leaks) > 0 || err != nil || h.T.Failed() {
		h.T.Logf("kept: %s", h.Dir)
		return
	}
	if err := os.RemoveAll(h.Dir); err != nil {
		h.T.Error(err)
	}
}

// In is the same corner for a subtest, whose failures are its own.
func (h *Host) In(t testing.TB) *Host {
	sub := *h
	sub.T = t
	return &sub
}

// ID returns a container id that is new on this machine. The token comes first: `hyper list` sorts by it.
func (h *Host) ID() string {
	h.ids++
	return fmt.Sprintf("%s-%d", h.Token, h.ids)
}

// Path names a file in the test's scratch directory.
func (h *Host) Path(name string) string { return filepath.Join(h.Dir, name) }

// WriteFile makes a file in the test's scratch directory and returns its path.
func (h *Host) WriteFile(name, content string, mode os.FileMode) string {
	h.T.Helper()
	path := h.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.T.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		h.T.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask has had its say in WriteFile
		h.T.Fatal(err)
	}
	return path
}

// ReadFile returns a file's text; a file that is not there fails the test.
func (h *Host) ReadFile(path string) string {
	h.T.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		h.T.Fatal(err)
	}
	return string(text)
}
