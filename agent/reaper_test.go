package agent

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReaper runs itself again as PID 1 of a namespace, where it gets orphans and no other test's children.
func TestReaper(t *testing.T) {
	if os.Getenv("HYPER_REAPER_TEST") == "" {
		again := exec.Command("/proc/self/exe", "-test.run=^TestReaper$", "-test.v")
		again.Env = append(os.Environ(), "HYPER_REAPER_TEST=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	r := newReaper()
	t.Run("children", func(t *testing.T) {
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				c := startShell(t, r, nil, fmt.Sprint("exit ", i))
				<-c.done
				if c.status.ExitStatus() != i {
					t.Errorf("child %d: status %#x", i, c.status)
				}
			})
		}
		all.Wait()
	})
	t.Run("orphans", func(t *testing.T) {
		for range 50 {
			forget := r.expect()
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			parent := startShell(t, r, write, "(exit 7) & echo $!")
			write.Close()
			text, err := io.ReadAll(read)
			if err != nil {
				t.Fatal(err)
			}
			<-parent.done
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			orphan := r.claim(pid)
			<-orphan.done
			if orphan.status.ExitStatus() != 7 {
				t.Errorf("status %#x", orphan.status)
			}
			forget()
		}
		if len(r.orphans) != 0 || len(r.waiting) != 0 {
			t.Errorf("left: %v, %v", r.orphans, r.waiting)
		}
	})
	t.Run("signals", func(t *testing.T) {
		c := startShell(t, r, nil, "while :; do sleep 1; done")
		if err := r.signal(c, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-c.done
		if c.status.Signal() != unix.SIGKILL {
			t.Errorf("status %#x", c.status)
		}
		if err := r.signal(c, unix.SIGKILL); err != unix.ESRCH {
			t.Errorf("signal to nobody: %v", err)
		}
	})
}

func startShell(t *testing.T, r *reaper, stdout *os.File, script string) *child {
	t.Helper()
	out := uintptr(2)
	if stdout != nil {
		out = stdout.Fd()
	}
	c, err := r.start(func() (int, error) {
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{0, out, 2}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
