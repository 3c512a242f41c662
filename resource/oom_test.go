package resource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests, or is a process that they start: a victim, or one that lives in a cgroup.
func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) != 3:
		os.Exit(m.Run())
	case os.Args[1] == "victim":
		err = Victim(os.Args[2], os.Stdin, os.Stdout)
	case os.Args[1] == "tenant":
		err = dwell(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// dwell takes memory in a cgroup and gives it back, again and again, until stdin ends.
func dwell(dir string) error {
	if err := writeFile(dir, "cgroup.procs", "0"); err != nil {
		return err
	}
	left := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, os.Stdin)
		left <- err
	}()
	if _, err := os.Stdout.Write([]byte{1}); err != nil {
		return err
	}
	for {
		select {
		case err := <-left:
			return err
		default:
		}
		part, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		for i := 0; i < len(part); i += os.Getpagesize() {
			part[i] = 1
		}
		if err := unix.Munmap(part); err != nil {
			return err
		}
	}
}

func newVictim() *exec.Cmd { return exec.Command("/proc/self/exe", "victim") }

// limitedCgroup makes a cgroup with a memory limit.
func limitedCgroup(t *testing.T, limit int64) (*Cgroup, memoryCgroup) {
	t.Helper()
	c, err := New("/"+strings.ReplaceAll(unique(t), "/", "-"), "id", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	if err := c.Apply(Limits{MemoryBytes: limit}); err != nil {
		t.Fatal(err)
	}
	m, err := c.memory()
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

// startTenant starts a process that lives in the cgroup until the test's end, which it has to see.
func startTenant(t *testing.T, dir string) (pid int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "tenant", dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("a process of the cgroup: %v", err)
		}
	})
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// settings are what RaiseOOM must leave as it was: of the cgroup, and of a process in it.
func settings(t *testing.T, m memoryCgroup, pid int) string {
	t.Helper()
	files := []string{filepath.Join(m.dir, m.limit), filepath.Join(m.dir, m.swap), fmt.Sprintf("/proc/%d/oom_score_adj", pid)}
	if !m.v2 {
		files = append(files, filepath.Join(m.dir, m.events))
	}
	var all []string
	for _, file := range files {
		text, err := readTrimmed(file)
		if err != nil {
			t.Fatal(err)
		}
		text, _, _ = strings.Cut(text, "under_oom") // the rest is no setting
		all = append(all, strings.Fields(text)...)
	}
	return strings.Join(all, " ")
}

func TestRaiseOOM(t *testing.T) {
	for name, limit := range map[string]int64{"unlimited": -1, "far": 1 << 30, "near": oomSlack / 2} {
		t.Run(name, func(t *testing.T) {
			c, m := limitedCgroup(t, limit)
			tenant := startTenant(t, m.dir)
			before := settings(t, m, tenant)
			raised, forget, err := m.watch()
			if err != nil {
				t.Fatal(err)
			}
			defer forget()
			const nobody = 1 << 30
			for range 2 {
				if err := unix.Kill(tenant, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				err := c.RaiseOOM(t.Context(), newVictim(), []int{tenant, nobody})
				if err := unix.Kill(tenant, unix.SIGCONT); err != nil {
					t.Error(err)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			<-raised
			if after := settings(t, m, tenant); after != before {
				t.Errorf("settings %q, were %q", after, before)
			}
			if pids := (Directory{Path: m.dir}).processes(); pids != strconv.Itoa(tenant) {
				t.Errorf("processes %s are in the cgroup, want %d", pids, tenant)
			}
		})
	}
}

// TestRaiseOOMFails checks that the cgroup is as it was when there is no OOM kill.
func TestRaiseOOMFails(t *testing.T) {
	c, m := limitedCgroup(t, 1<<30)
	tenant := startTenant(t, m.dir)
	before := settings(t, m, tenant)
	ended, end := context.WithCancel(t.Context())
	end()
	for name, test := range map[string]struct {
		ctx    context.Context
		victim *exec.Cmd
	}{
		"too late":      {ended, newVictim()},
		"no victim":     {t.Context(), exec.Command("true")},
		"no program":    {t.Context(), exec.Command("/nonexistent")},
		"another's end": {t.Context(), exec.Command("sh", "-c", "echo; exec head -c 8")},
	} {
		if err := c.RaiseOOM(test.ctx, test.victim, []int{tenant}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if after := settings(t, m, tenant); after != before {
			t.Errorf("%s: settings %q, were %q", name, after, before)
		}
	}
	if !m.v2 {
		if err := writeFile(m.dir, m.events, "1"); err != nil {
			t.Fatal(err)
		}
		before = settings(t, m, tenant)
		if err := c.RaiseOOM(t.Context(), newVictim(), []int{tenant}); err == nil {
			t.Error("no error with the OOM killer switched off")
		}
		if after := settings(t, m, tenant); after != before {
			t.Errorf("switched off: settings %q, were %q", after, before)
		}
	}
	none := &Cgroup{}
	if err := none.RaiseOOM(t.Context(), newVictim(), nil); err == nil {
		t.Error("no error without a cgroup")
	}
}

// TestVictimNeedsAnOrder checks that a victim takes nothing when whoever started it is gone.
func TestVictimNeedsAnOrder(t *testing.T) {
	_, m := limitedCgroup(t, -1)
	cmd := newVictim()
	v, err := startVictim(t.Context(), cmd, m.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.order.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	<-v.ended
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Error(errors.New(cmd.ProcessState.String()))
	}
}
