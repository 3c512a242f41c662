package cli_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// Whichever process of the VM dies, in whatever state: the container is stopped, execs end, delete works.
func TestOursVMDies(t *testing.T) {
	t.Parallel()
	victims := map[string]func(t *testing.T, h *harness.Host, c *harness.Container) int{
		"keeper": func(_ *testing.T, _ *harness.Host, c *harness.Container) int { return c.Pid },
		"QEMU": func(t *testing.T, h *harness.Host, _ *harness.Container) int {
			pids := h.VMs()
			if len(pids) != 1 {
				t.Fatalf("QEMU's pids: %v, want one", pids)
			}
			return pids[0]
		},
	}
	for name, victim := range victims {
		for _, state := range []string{"created", "running", "paused"} {
			t.Run(name+" "+state, func(t *testing.T) {
				h := harness.New(t)
				c := h.Create(h.Sleeper())
				var execs []*harness.Process
				if state != "created" {
					c.Start()
					c.Stdout.Expect(t, "ready")
					p := h.Spawn(h.Command("exec", c.ID, "sh", "-c", "echo up; exec sleep 1000"))
					p.Stdout.Expect(t, "up")
					execs = append(execs, p)
				}
				if state == "paused" {
					h.OK("pause", c.ID)
				}
				kill(t, victim(t, h, c))
				if r := c.Wait(); r.Code == 0 {
					t.Errorf("container: %v", r)
				}
				for _, p := range execs {
					if r := p.Wait(); r.Code == 0 {
						t.Errorf("exec: %v", r)
					}
				}
				c.WantStatus(specs.StateStopped)
				h.Refused(notRunning, "kill", c.ID, "KILL")
				h.OK("delete", c.ID)
			})
		}
	}
}

// A command that is killed at any time leaves a container, or none, and force clears it away.
func TestOursCommandDies(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	for _, ms := range []int{0, 2, 10, 30, 100, 300, 1000, 3000} {
		delay := time.Duration(ms) * time.Millisecond
		t.Run("create after "+delay.String(), func(t *testing.T) {
			h, id := h.In(t), h.ID()
			p := h.Spawn(h.Command("create", "--bundle", b.Dir, id))
			time.Sleep(delay) // the moment of death is what the test varies
			p.Signal(syscall.SIGKILL)
			p.WaitExit()
			h.OK("delete", "--force", id)
			p.Wait() // nobody holds its pipes
			wantNothing(t, h)
		})
	}
	for _, verb := range []string{"start", "kill", "delete"} {
		t.Run(verb, func(t *testing.T) {
			h := h.In(t)
			c := h.Create(b)
			if verb != "start" {
				c.Start()
			}
			if verb == "delete" {
				h.OK("kill", c.ID, "KILL")
			}
			p := h.Spawn(h.Command(verb, c.ID))
			time.Sleep(5 * time.Millisecond)
			p.Signal(syscall.SIGKILL)
			p.WaitExit()
			h.OK("delete", "--force", c.ID)
			c.Wait()
			wantNothing(t, h)
		})
	}
}

// wantNothing checks that the test's containers and all that belonged to them are gone.
func wantNothing(t *testing.T, h *harness.Host) {
	t.Helper()
	leaks, err := h.Leaks()
	if err != nil {
		t.Error(err)
	}
	for _, leak := range leaks {
		t.Errorf("leaked: %s", leak)
	}
}

// kill sends SIGKILL.
func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// A stranger with the pid of a dead container is not the container.
func TestReusedPid(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	kill(t, c.Pid)
	c.Wait()
	stranger := withPid(t, c.Pid)
	defer func() {
		if err := stranger.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := stranger.Wait(); err == nil || !strings.Contains(err.Error(), "signal: killed") {
			t.Errorf("the stranger ended before: %v", err)
		}
	}()
	c.WantStatus(specs.StateStopped)
	h.Refused(notRunning, "kill", c.ID, "TERM")
	h.Refused("", "exec", c.ID, "true")
	h.OK("delete", "--force", c.ID)
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger: %v", err)
	}
}

// withPid starts a sleeping process that has the given pid: the kernel gives the one after ns_last_pid (see
// proc_sys_kernel(5)), unless another process is faster.
func withPid(t *testing.T, pid int) *exec.Cmd {
	t.Helper()
	for range 1000 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			return cmd
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait() // killed, as it should be
	}
	t.Fatalf("pid %d could not be had again", pid)
	return nil
}

func TestOursManyCreates(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	id := h.ID()
	var all []*harness.Process
	for range 10 {
		p := h.Spawn(h.Command("create", "--bundle", b.Dir, id))
		p.Stdin.Close()
		all = append(all, p)
	}
	won := 0
	for _, p := range all {
		if p.WaitExit() == 0 {
			won++
		} else if r := p.Wait(); !strings.Contains(r.Stderr, alreadyExists) {
			t.Errorf("create: %v", r)
		}
	}
	if won != 1 {
		t.Errorf("%d creates won", won)
	}
	h.OK("state", id)
	h.OK("delete", "--force", id)
}

// All verbs on one container at once: none hangs, and the end is a clean one.
func TestOursManyVerbs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()
	var all sync.WaitGroup
	for range 3 {
		for _, call := range [][]string{{"exec", c.ID, "true"}, {"state", c.ID}, {"kill", c.ID, "KILL"}, {"pause", c.ID}, {"ps", c.ID}, {"delete", "--force", c.ID}} {
			all.Go(func() { h.Run(call...) })
		}
	}
	all.Wait()
	if r := c.Wait(); r.Code == 0 {
		t.Errorf("container: %v", r)
	}
	h.Refused(doesNotExist, "state", c.ID)
}

// The state is for its owner's eyes, whatever the umask, and nothing that the caller had open goes along.
func TestOursModesAndDescriptors(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	b.Write()
	id, pidFile := h.ID(), h.Path("pid")
	secret, err := os.Open(h.WriteFile("secret", "", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	plain := h.Command("create", "--bundle", b.Dir, "--pid-file", pidFile, id)
	cmd := exec.Command("sh", append([]string{"-c", `umask 0; exec "$@"`, "sh"}, plain.Args...)...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = plain.Env, plain.Dir, []*os.File{secret, secret, secret}
	if code := h.Spawn(cmd).WaitExit(); code != 0 {
		t.Fatalf("create: exit %d", code)
	}
	keeper := h.ReadPid(pidFile)
	err = filepath.WalkDir(h.Root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		private := entry.IsDir() && filepath.Dir(path) != h.Root || info.Mode().Perm()&0o077 == 0 || entry.Type() == fs.ModeSymlink
		if path != h.Root && !private { // what is below the container's directory is behind its mode
			t.Errorf("%s: %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	pids := append(h.VMs(), keeper)
	if len(pids) != 2 {
		t.Errorf("pids %v, want the keeper's and QEMU's", pids)
	}
	for _, pid := range pids {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(fds) == 0 {
			t.Fatalf("descriptors of %d: %v, %v", pid, fds, err)
		}
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil && target == secret.Name() {
				t.Errorf("process %d has the caller's file open", pid)
			}
		}
	}
	h.OK("delete", "--force", id)
	h.Reap(keeper)
}
