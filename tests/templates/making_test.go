package templates_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// gate makes a QEMU for the config that waits at the gate, a FIFO, if it is to become a template.
func gate(h *harness.Host) (script, fifo string) {
	h.T.Helper()
	real, err := exec.LookPath(qemu)
	if err != nil {
		h.T.Fatal(err)
	}
	fifo = h.Path("fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		h.T.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *share=on*) read go < %s;; esac\nexec %s \"$@\"\n", fifo, real)
	return h.WriteFile("qemu", text, 0o755), fifo
}

// open lets the one who waits at the gate go on.
func open(t *testing.T, fifo string) {
	t.Helper()
	if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
		t.Error(err)
	}
}

// arrivals tells the names that are moved into a directory.
type arrivals struct{ *os.File }

func watch(t *testing.T, dir string) arrivals {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	t.Cleanup(func() { f.Close() })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return arrivals{f}
}

func (a arrivals) next(t *testing.T) string {
	t.Helper()
	if err := a.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	event := make([]byte, unix.SizeofInotifyEvent+unix.NAME_MAX+1)
	n, err := a.Read(event)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(event[unix.SizeofInotifyEvent:n]), "\x00")
}

// The first container boots, and does not notice that a template is being made. The second is a clone.
func TestMadeInTheBackground(t *testing.T) {
	c := newCorner(t, "", nil)
	script, fifo := gate(c.Host)
	c.setConfig(map[string]any{"qemu": script})
	if err := os.Mkdir(c.templates, 0o700); err != nil {
		t.Fatal(err)
	}
	made := watch(t, c.templates)

	// The container ends, and with it the command; our pipes have no other writer then, a leaked descriptor included.
	b := c.Shell("echo out; echo err >&2; exit 7")
	b.Write()
	leaked, theirs := c.Pipe()
	command := c.Command("run", "--bundle", b.Dir, c.ID())
	command.ExtraFiles = []*os.File{theirs}
	p := c.Spawn(command)
	theirs.Close()
	p.Stdin.Close()
	if r := p.Wait(); r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("%v", r)
	}
	if rest, err := io.ReadAll(leaked); len(rest) > 0 || err != nil {
		t.Errorf("read %q, %v", rest, err)
	}

	makers := c.makers()
	if len(makers) != 1 {
		t.Fatalf("makers: %v, want one", makers)
	}
	expectBackground(c, makers[0])
	if list := c.list(); len(list) != 0 {
		t.Errorf("templates: %+v", list)
	}
	// Nobody else makes one meanwhile, nor waits for it.
	c.runs("echo second", "second\n")
	if again := c.makers(); !slices.Equal(again, makers) {
		t.Errorf("makers: %v, want %v", again, makers)
	}

	open(t, fifo)
	key := made.next(t)
	c.Reap(makers[0])
	if only := c.only(); only.Key != key || only.Hits != 0 || !only.Used.IsZero() || only.Machine["QEMU"] != script || only.Bytes < 10<<20 {
		t.Errorf("%s came, %+v is there", key, only)
	}
	third := c.StartSleeper()
	c.expectClone(third.ID, true)
	if hits := c.only().Hits; hits != 1 {
		t.Errorf("%d hits, want 1", hits)
	}
	if makers := c.makers(); len(makers) != 0 {
		t.Errorf("makers: %v, want none", makers)
	}
	third.Remove()
}

// expectBackground looks at a template maker that waits at the gate, and at its QEMU.
func expectBackground(c *corner, maker int) {
	c.T.Helper()
	for name, want := range map[string]string{"0": "pipe:", "1": "/dev/null", "2": "/dev/null"} {
		if got, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", maker, name)); err != nil || !strings.HasPrefix(got, want) {
			c.T.Errorf("descriptor %s of the maker is %s, %v, want %s", name, got, err, want)
		}
	}
	ours := c.ReadFile("/proc/self/cgroup")
	for _, pid := range append(c.children(maker), maker) {
		if got := c.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); got != ours {
			c.T.Errorf("the cgroups of %d are %q, those of the caller %q", pid, got, ours)
		}
		// proc_pid_stat(5): after the name in parentheses, nice is the 17th field.
		stat := c.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]); fields[16] != "19" {
			c.T.Errorf("%d has nice value %s", pid, fields[16])
		}
	}
	if session, err := unix.Getsid(maker); err != nil || session != maker {
		c.T.Errorf("the maker is in session %d, %v", session, err)
	}
}

// children of a process.
func (c *corner) children(pid int) (all []int) {
	c.T.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		c.T.Fatal(err)
	}
	for _, file := range files {
		for field := range strings.FieldsSeq(c.ReadFile(file)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				c.T.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// A maker outlives the keeper that booted first, and what kills the maker harms nobody: the next container has
// another one made.
func TestKilledMaker(t *testing.T) {
	c := newCorner(t, "", nil)
	script, fifo := gate(c.Host)
	c.setConfig(map[string]any{"qemu": script})
	first := c.StartSleeper()
	c.expectClone(first.ID, false)
	makers := c.makers()
	if len(makers) != 1 {
		t.Fatalf("makers: %v, want one", makers)
	}
	if err := unix.Kill(first.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	c.OK("delete", first.ID)
	if again := c.makers(); !slices.Equal(again, makers) {
		t.Errorf("makers: %v, want %v", again, makers)
	}
	waiting := c.children(makers[0])
	if err := unix.Kill(makers[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.Reap(makers[0])
	for _, pid := range waiting { // dies with it, and has become our child
		c.Reap(pid)
	}
	left, err := filepath.Glob(c.templates + "/.making-*")
	if err != nil || len(left) != 1 {
		t.Errorf("left are %q, %v", left, err)
	}
	c.runs("echo still", "still\n")
	if makers = c.makers(); len(makers) != 1 {
		t.Fatalf("makers: %v, want one", makers)
	}
	open(t, fifo)
	c.Reap(makers[0])
	c.runs("echo clone", "clone\n")
	if hits := c.only().Hits; hits != 1 {
		t.Errorf("%d hits, want 1", hits)
	}
}

// Many that start at once get along with one template, whoever made it.
func TestFirstStartsAtOnce(t *testing.T) {
	c := newCorner(t, "", nil)
	var all sync.WaitGroup
	for range 4 {
		b := c.Shell("echo first")
		b.Write()
		p := c.Spawn(c.Command("run", "--bundle", b.Dir, c.ID()))
		p.Stdin.Close()
		all.Go(func() {
			if r := p.Wait(); r.Code != 0 || r.Stdout != "first\n" || r.Stderr != "" {
				t.Errorf("%v", r)
			}
		})
	}
	all.Wait()
	c.awaitMakers()
	before := c.only().Hits // of those that were late enough
	c.runs("echo clone", "clone\n")
	if hits := c.only().Hits; hits != before+1 {
		t.Errorf("%d hits, want %d", hits, before+1)
	}
}

func TestTemplateOff(t *testing.T) {
	c := newCorner(t, "", map[string]any{"template": "off"})
	boots := c.StartSleeper()
	c.expectClone(boots.ID, false)
	if makers := c.makers(); len(makers) != 0 {
		t.Errorf("makers: %v", makers)
	}
	if _, err := os.Stat(c.templates); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("%s: %v", c.templates, err)
	}
	// Those that are there are left alone.
	c.OK("template", "create")
	c.StartSleeper()
	if hits := c.only().Hits; hits != 0 {
		t.Errorf("%d hits", hits)
	}
}

// Another machine has another template; the one that it cannot use stays.
func TestOneTemplateForEachMachine(t *testing.T) {
	c := newCorner(t, "", nil)
	c.make()
	b := c.Shell("nproc")
	b.SetLinuxResourcesCPUQuota(200_000)
	b.SetLinuxResourcesCPUPeriod(100_000)
	b.Write()
	for _, wantHits := range []int64{0, 1} {
		if got := c.OK("run", "--bundle", b.Dir, c.ID()); got != "2\n" {
			t.Errorf("got %q", got)
		}
		c.awaitMakers()
		hits := map[any]int64{}
		for _, template := range c.list() {
			hits[template.Machine["VCPUs"]] = template.Hits
		}
		if len(hits) != 2 || hits[1.0] != 0 || hits[2.0] != wantHits {
			t.Errorf("hits by vCPUs: %v, want 0 and %d", hits, wantHits)
		}
	}
	c.setConfig(map[string]any{"kernel_args": "printk.time=0"})
	c.runs("grep -o printk.time=0 /proc/cmdline", "printk.time=0\n")
	c.awaitMakers()
	c.runs("grep -o printk.time=0 /proc/cmdline", "printk.time=0\n")
	if list := c.list(); len(list) != 3 || list[2].Hits != 1 || list[2].Machine["KernelArgs"] != "printk.time=0" {
		t.Errorf("%+v", list)
	}
}
