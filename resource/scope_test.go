package resource

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// bus starts a message bus of its own and makes it the system bus of this test.
func bus(t *testing.T) {
	// The shipped session configuration, without its limits on who may own which name.
	cmd := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address",
		"--address=unix:path="+filepath.Join(t.TempDir(), "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", strings.TrimSpace(address))
}

// fakeSystemd does what the real one does with a scope: a cgroup in its own hierarchy, the process in it, a job.
type fakeSystemd struct {
	conn   *dbus.Conn
	result string // of every job
	scope  Directory

	mu         sync.Mutex
	calls      []string // guarded by mu
	properties []string // guarded by mu
}

func startFakeSystemd(t *testing.T, scope Directory, result string) *fakeSystemd {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &fakeSystemd{conn: conn, result: result, scope: scope}
	if err := conn.Export(f, "/org/freedesktop/systemd1", managerInterface); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeSystemd) record(format string, arguments ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, arguments...))
}

func (f *fakeSystemd) job(unit string) (dbus.ObjectPath, *dbus.Error) {
	// A job of somebody else ends first.
	for i, path := range []dbus.ObjectPath{"/org/freedesktop/systemd1/job/1", "/org/freedesktop/systemd1/job/2"} {
		if err := f.conn.Emit("/org/freedesktop/systemd1", managerInterface+".JobRemoved", uint32(i), path, unit, f.result); err != nil {
			return "", dbus.MakeFailedError(err)
		}
	}
	return "/org/freedesktop/systemd1/job/2", nil
}

func (f *fakeSystemd) Subscribe() *dbus.Error { return nil }

func (f *fakeSystemd) StartTransientUnit(unit, mode string, properties []property, _ []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	f.record("start %s %s", unit, mode)
	if err := os.MkdirAll(f.scope.Path, 0o755); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	for _, p := range properties {
		f.mu.Lock()
		f.properties = append(f.properties, p.Name+"="+p.Value.String())
		f.mu.Unlock()
		if p.Name == "PIDs" {
			for _, pid := range p.Value.Value().([]uint32) {
				if err := writeFile(f.scope.Path, "cgroup.procs", strconv.Itoa(int(pid))); err != nil {
					return "", dbus.MakeFailedError(err)
				}
			}
		}
	}
	return f.job(unit)
}

func (f *fakeSystemd) SetUnitProperties(unit string, runtime bool, properties []property) *dbus.Error {
	for _, p := range properties {
		f.record("set %s %s=%s", unit, p.Name, p.Value.String())
	}
	return nil
}

func (f *fakeSystemd) StopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	f.record("stop %s %s", unit, mode)
	if _, err := os.Stat(f.scope.Path); err != nil {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"not loaded"})
	}
	return f.job(unit)
}

// systemdsOwn is the directory of the hierarchy that systemd itself keeps.
func systemdsOwn(t *testing.T, c *Cgroup) Directory {
	for _, d := range c.Directories {
		if c.V2 || d.has("name=systemd") {
			return d
		}
	}
	t.Fatal("this host has no hierarchy for systemd")
	return Directory{}
}

func TestLifeOfAScope(t *testing.T) {
	bus(t)
	slice := strings.ReplaceAll(unique(t), "-", "_") + ".slice"
	c, err := New(slice+":p:x", "id", true)
	if err != nil {
		t.Fatal(err)
	}
	f := startFakeSystemd(t, systemdsOwn(t, c), "done")
	t.Cleanup(func() {
		for _, d := range c.Directories {
			os.Remove(filepath.Dir(d.Path))
		}
	})
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	first, stopFirst := sleeper(t)
	second, stopSecond := sleeper(t)
	for _, pid := range []int{first, second} {
		if err := c.Add(pid); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range c.Directories {
		if got := d.processes(); got != fmt.Sprintf("%d %d", first, second) {
			t.Errorf("%s has processes %q", d.Path, got)
		}
	}
	if err := c.Apply(Limits{MemoryBytes: 64 * mib}); err != nil {
		t.Fatal(err)
	}
	stopFirst()
	stopSecond()
	loaded := again(t, c)
	for range 2 {
		if err := loaded.Remove(); err != nil {
			t.Error(err)
		}
	}
	for _, d := range c.Directories {
		if _, err := os.Stat(d.Path); err == nil {
			t.Errorf("%s is still there", d.Path)
		}
	}
	limit := "MemoryLimit"
	if c.V2 {
		limit = "MemoryMax"
	}
	want := []string{"start p-x.scope fail", "set p-x.scope " + limit + "=@t 67108864", "stop p-x.scope replace", "stop p-x.scope replace"}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.calls, want) {
		t.Errorf("systemd was asked %q, want %q", f.calls, want)
	}
	for _, p := range []string{`Slice="` + slice + `"`, fmt.Sprintf("PIDs=@au [%d]", first), "Delegate=true"} {
		if !slices.Contains(f.properties, p) {
			t.Errorf("no property %s in %q", p, f.properties)
		}
	}
}

func TestScopeThatDoesNotStart(t *testing.T) {
	bus(t)
	c, err := New(strings.ReplaceAll(unique(t), "-", "_")+".slice:p:x", "id", true)
	if err != nil {
		t.Fatal(err)
	}
	f := startFakeSystemd(t, systemdsOwn(t, c), "failed")
	t.Cleanup(func() {
		os.Remove(f.scope.Path)
		os.Remove(filepath.Dir(f.scope.Path))
	})
	pid, stop := sleeper(t)
	err = c.Add(pid)
	if err == nil || err.Error() != `start systemd scope p-x.scope: systemd's job ended as "failed"` {
		t.Errorf("got %v", err)
	}
	stop()
}

func TestNoSystemd(t *testing.T) {
	c, err := New("", "id", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if err := c.Create(); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "--systemd-cgroup needs systemd") {
		t.Errorf("without a bus: %v", err)
	}
	bus(t)
	if err := c.Create(); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "ask systemd") {
		t.Errorf("a bus without systemd: %v", err)
	}
}

func TestProperties(t *testing.T) {
	l := Limits{MemoryBytes: -1, CPUShares: 1024, CPUs: "0-1,9", Mems: "0", CPUQuota: 30_000, CPUPeriod: 60_000}
	for v2, want := range map[bool]string{
		true:  "AllowedCPUs=@ay [0x3, 0x2] AllowedMemoryNodes=@ay [0x1] MemoryMax=@t 18446744073709551615 CPUWeight=@t 39 CPUQuotaPeriodUSec=@t 60000 CPUQuotaPerSecUSec=@t 500000",
		false: "MemoryLimit=@t 18446744073709551615 CPUShares=@t 1024 CPUQuotaPeriodUSec=@t 60000 CPUQuotaPerSecUSec=@t 500000",
	} {
		ps, err := l.properties(v2)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range ps {
			got = append(got, p.Name+"="+p.Value.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("v2 %v: got %s, want %s", v2, strings.Join(got, " "), want)
		}
	}
	for _, list := range []string{"a", "3-1", "-1", "1-", "99999", ","} {
		if _, err := listMask(list); err == nil {
			t.Errorf("list %q was taken", list)
		}
	}
}
