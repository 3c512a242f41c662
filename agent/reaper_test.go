package agent

import (
	"bufio"
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
				c := startShell(t, r, os.Stdin, os.Stderr, fmt.Sprint("exit ", i))
				<-c.done
				if c.status.ExitStatus() != i {
					t.Errorf("child %d: status %#x", i, c.status)
				}
			})
		}
		all.Wait()
	})
	t.Run("orphans", func(t *testing.T) {
		for i := range 50 {
			forget := r.expect()
			in, release := openPipe(t)
			read, out := openPipe(t)
			parent := startShell(t, r, in, out, "exec 3<&0; (read x <&3; exit 7) & echo $!")
			in.Close()
			out.Close()
			text, err := bufio.NewReader(read).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				t.Fatal(err)
			}
			<-parent.done
			if i%2 == 0 { // it is dead, or nearly, before anyone asks for it
				release.Close()
				io.Copy(io.Discard, read)
			}
			orphan, err := r.claim(pid)
			if err != nil {
				t.Fatal(err)
			}
			release.Close()
			<-orphan.done
			if orphan.status.ExitStatus() != 7 {
				t.Errorf("status %#x", orphan.status)
			}
			forget()
			read.Close()
		}
		if len(r.orphans) != 0 || len(r.waiting) != 0 {
			t.Errorf("left: %v, %v", r.orphans, r.waiting)
		}
		if _, err := r.claim(4000000); err != unix.ECHILD {
			t.Errorf("claim nobody: %v", err)
		}
	})
	t.Run("signals", func(t *testing.T) {
		c := startShell(t, r, os.Stdin, os.Stderr, "while :; do sleep 1; done")
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

func openPipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	return read, write
}

func startShell(t *testing.T, r *reaper, stdin, stdout *os.File, script string) *child {
	t.Helper()
	c, err := r.start(func() (int, error) {
		return syscall.ForkExec("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Files: []uintptr{stdin.Fd(), stdout.Fd(), 2}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
