package cli_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/tests/harness"
)

const size = 64 << 20

// What goes in comes out, whole and in order: through the container's own stdio, and through an exec's.
func TestBigStdio(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle("cat")
	b.Write()
	sleeper := h.StartSleeper()
	for name, args := range map[string][]string{
		"run":  {"run", "--bundle", b.Dir, h.ID()},
		"exec": {"exec", sleeper.ID, "cat"},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.In(t)
			r, w := h.Pipe()
			cmd := h.Command(args...)
			cmd.Stdout = w
			p := h.Spawn(cmd)
			w.Close()
			sent := make(chan string, 1)
			go func() {
				hash := sha256.New()
				source := rand.NewChaCha8([32]byte{1})
				if _, err := io.Copy(io.MultiWriter(p.Stdin, hash), io.LimitReader(source, size)); err != nil {
					t.Error(err)
				}
				p.Stdin.Close()
				sent <- fmt.Sprintf("%x", hash.Sum(nil))
			}()
			hash := sha256.New()
			n, err := io.Copy(hash, r)
			if err != nil {
				t.Error(err)
			}
			if got, want := fmt.Sprintf("%x", hash.Sum(nil)), <-sent; got != want || n != size {
				t.Errorf("%d bytes came back with hash %s, want %d with %s", n, got, size, want)
			}
			if r := p.Wait(); r.Code != 0 || r.Stderr != "" {
				t.Errorf("%v", r)
			}
		})
	}
}

// A reader that stalls stalls its own writer only, costs no memory, and loses nothing.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	r, w := h.Pipe()
	cmd := h.Command("exec", c.ID, "dd", "if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", size>>16))
	cmd.Stdout = w
	p := h.Spawn(cmd)
	w.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // others talk on meanwhile
		if out := c.Sh(fmt.Sprintf("echo %d", i)); out != fmt.Sprintf("%d\n", i) {
			t.Errorf("exec %d: %q", i, out)
		}
	}
	for _, pid := range []int{c.Pid, p.Pid} {
		if kb := residentMemory(t, pid); kb > 100<<10 {
			t.Errorf("process %d has grown to %d KiB", pid, kb)
		}
	}
	n, err := io.Copy(io.Discard, r)
	if err != nil || n+1 != size {
		t.Errorf("%d bytes arrived, want %d: %v", n+1, size, err)
	}
	if r := p.Wait(); r.Code != 0 {
		t.Errorf("exec: %v", r)
	}
}

// residentMemory is the memory of a process in KiB.
func residentMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmRSS:" {
			kb, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatalf("no VmRSS of %d", pid)
	return 0
}

// The last line arrives before the exit is reported, however short the process lives.
func TestLastLine(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	for i := range 40 {
		r := c.Exec("sh", "-c", "seq 1 2000; echo last; echo last >&2; exit 3")
		if r.Code != 3 || !strings.HasSuffix(r.Stdout, "2000\nlast\n") || len(r.Stdout) != 8898 || r.Stderr != "last\n" {
			t.Fatalf("exec %d: exit %d, %d bytes, stderr %q", i, r.Code, len(r.Stdout), r.Stderr)
		}
	}
}

// A reader that goes away gives the writer a broken pipe, and the container goes on.
func TestClosedReader(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	r, w := h.Pipe()
	cmd := h.Command("exec", c.ID, "sh", "-c", "while echo line; do :; done; exit 8")
	cmd.Stdout = w
	p := h.Spawn(cmd)
	w.Close()
	if _, err := io.ReadFull(r, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if r := p.Wait(); r.Code == 0 {
		t.Errorf("exec: %v", r)
	}
	if out := c.Sh("echo alive"); out != "alive\n" {
		t.Errorf("container: %q", out)
	}
}

// A process that leaves its stdout to a child: the exit comes at once, the child's output until it ends.
func TestOutputAfterExit(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	began := time.Now()
	p := h.Spawn(h.Command("exec", c.ID, "sh", "-c", "(sleep 1000 >/dev/null 2>&1 </dev/null) & echo done"))
	if r := p.Wait(); r.Code != 0 || r.Stdout != "done\n" {
		t.Errorf("exec: %v", r)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("exec took %s", took)
	}
}
