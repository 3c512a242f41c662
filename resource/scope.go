package resource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Scope is a transient systemd scope unit (systemd.scope(5)).
type Scope struct {
	Slice string `json:"slice"`
	Unit  string `json:"unit"`
}

// busTimeout is the hang guard on everything asked of systemd; it answers within milliseconds.
const busTimeout = 30 * time.Second

// newScope reads "slice:prefix:name". The directories are those that systemd will use: it takes the cgroup that
// process 1 was started in for the root, and nests slices by the dashes in their names.
func newScope(h hierarchies, path, id string) (*Cgroup, error) {
	slice, prefix, name := "system.slice", "hyper", id
	if path != "" {
		parts := strings.Split(path, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("cgroupsPath %q is not of the form slice:prefix:name, which --systemd-cgroup needs", path)
		}
		if parts[0] != "" {
			slice = parts[0]
		}
		prefix, name = parts[1], parts[2]
	}
	unit := name + ".scope"
	if prefix != "" {
		unit = prefix + "-" + unit
	}
	if name == "" || strings.Contains(unit, "/") {
		return nil, fmt.Errorf("cgroupsPath %q names no systemd scope", path)
	}
	nested, err := sliceDirectory(slice)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{V2: h.v2, Scope: &Scope{Slice: slice, Unit: unit}}
	for _, hi := range h.all {
		root := strings.TrimSuffix(hi.below(h.init1), "/init.scope")
		c.Directories = append(c.Directories, Directory{Path: filepath.Join(root, nested, unit), Mount: hi.mount, Controllers: hi.controllers})
	}
	return c, nil
}

// sliceDirectory turns a-b.slice into a.slice/a-b.slice, and the root slice -.slice into nothing (systemd.slice(5)).
func sliceDirectory(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q is not the name of a systemd slice", slice)
	}
	if name == "-" {
		return "", nil
	}
	var path, above string
	for _, part := range strings.Split(name, "-") {
		if part == "" {
			return "", fmt.Errorf("%q is not the name of a systemd slice", slice)
		}
		path = filepath.Join(path, above+part+".slice")
		above += part + "-"
	}
	return path, nil
}

// check finds out whether there is a systemd to talk to.
func (s *Scope) check() error {
	return withSystemd(func(ctx context.Context, m manager) error {
		return m.call(ctx, "Subscribe").Err
	})
}

// startScope starts the scope around its first process, unless that was done before, and makes the directories of
// the v1 hierarchies that systemd does not care for.
func (c *Cgroup) startScope(pid int) error {
	for _, d := range c.Directories {
		if c.V2 || d.has("name=systemd") { // the hierarchy that is systemd's own
			if _, err := os.Stat(d.Path); err == nil {
				return nil
			}
		}
	}
	err := withSystemd(func(ctx context.Context, m manager) error {
		return m.job(ctx, "StartTransientUnit", c.Scope.Unit, "fail", []property{
			{"Description", dbus.MakeVariant("hyper sandbox " + c.Scope.Unit)},
			{"Slice", dbus.MakeVariant(c.Scope.Slice)},
			{"PIDs", dbus.MakeVariant([]uint32{uint32(pid)})},
			{"Delegate", dbus.MakeVariant(true)},
			{"DefaultDependencies", dbus.MakeVariant(false)},
			{"CollectMode", dbus.MakeVariant("inactive-or-failed")}, // a failed scope would keep its name in use
			{"MemoryAccounting", dbus.MakeVariant(true)},
			{"CPUAccounting", dbus.MakeVariant(true)},
			{"TasksAccounting", dbus.MakeVariant(true)},
		}, []auxiliary{})
	})
	if err != nil {
		return fmt.Errorf("start systemd scope %s: %w", c.Scope.Unit, err)
	}
	return c.makeDirectories()
}

// apply tells systemd the limits that it keeps itself, or it would write its own over ours at the next reload.
func (s *Scope) apply(l Limits, v2 bool) error {
	properties, err := l.properties(v2)
	if err != nil || len(properties) == 0 {
		return err
	}
	err = withSystemd(func(ctx context.Context, m manager) error {
		return m.call(ctx, "SetUnitProperties", s.Unit, true, properties).Err
	})
	if err != nil {
		return fmt.Errorf("limit systemd scope %s: %w", s.Unit, err)
	}
	return nil
}

// properties translates limits (systemd.resource-control(5)). systemd knows cpusets on v2 only.
func (l Limits) properties(v2 bool) ([]property, error) {
	var ps []property
	memory, shares := "MemoryLimit", "CPUShares"
	share := l.CPUShares
	if v2 {
		memory, shares, share = "MemoryMax", "CPUWeight", weight(l.CPUShares)
		for _, set := range []struct{ name, list string }{{"AllowedCPUs", l.CPUs}, {"AllowedMemoryNodes", l.Mems}} {
			if set.list == "" {
				continue
			}
			mask, err := listMask(set.list)
			if err != nil {
				return nil, err
			}
			ps = append(ps, property{set.name, dbus.MakeVariant(mask)})
		}
	}
	if l.MemoryBytes != 0 {
		bytes := uint64(math.MaxUint64) // infinity
		if l.MemoryBytes > 0 {
			bytes = uint64(l.MemoryBytes)
		}
		ps = append(ps, property{memory, dbus.MakeVariant(bytes)})
	}
	if l.CPUShares != 0 {
		ps = append(ps, property{shares, dbus.MakeVariant(share)})
	}
	period := cmp.Or(l.CPUPeriod, defaultPeriod)
	if l.CPUPeriod != 0 {
		ps = append(ps, property{"CPUQuotaPeriodUSec", dbus.MakeVariant(period)})
	}
	if l.CPUQuota != 0 {
		perSecond := uint64(math.MaxUint64) // infinity
		if l.CPUQuota > 0 {
			perSecond = uint64(l.CPUQuota) * 1_000_000 / period
		}
		ps = append(ps, property{"CPUQuotaPerSecUSec", dbus.MakeVariant(perSecond)})
	}
	return ps, nil
}

// listMask turns "0-3,7" into a bit mask, lowest byte first, as systemd's bus interface wants it.
func listMask(list string) ([]byte, error) {
	const most = 8192 // the largest CONFIG_NR_CPUS
	var mask []byte
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			high = low
		}
		from, err1 := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if err1 != nil || err2 != nil || from < 0 || from > to || to >= most {
			return nil, fmt.Errorf("%q is not a list of CPUs or memory nodes", list)
		}
		for n := from; n <= to; n++ {
			for len(mask) <= n/8 {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask, nil
}

// stopScope stops the scope. One that is gone already, as an empty scope goes by itself, is fine.
func (c *Cgroup) stopScope() error {
	err := withSystemd(func(ctx context.Context, m manager) error {
		return m.job(ctx, "StopUnit", c.Scope.Unit, "replace")
	})
	var answer dbus.Error
	if errors.As(err, &answer) && answer.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop systemd scope %s: %w", c.Scope.Unit, err)
	}
	return nil
}

// property and auxiliary are the pairs that systemd's bus interface takes (org.freedesktop.systemd1(5)).
type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

// manager is systemd's org.freedesktop.systemd1.Manager.
type manager struct{ conn *dbus.Conn }

const managerInterface = "org.freedesktop.systemd1.Manager"

// withSystemd connects to the system bus for the time of one function.
func withSystemd(f func(context.Context, manager) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("--systemd-cgroup needs systemd, and the system bus does not answer: %w", err)
	}
	defer conn.Close()
	return f(ctx, manager{conn})
}

func (m manager) call(ctx context.Context, method string, arguments ...any) *dbus.Call {
	call := m.conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").
		CallWithContext(ctx, managerInterface+"."+method, 0, arguments...)
	if call.Err != nil {
		call.Err = fmt.Errorf("ask systemd: %s: %w", method, call.Err)
	}
	return call
}

// job calls a method that answers with a job, and waits until that is done. Signals are asked for before the job
// exists, so that its end cannot be missed.
func (m manager) job(ctx context.Context, method string, arguments ...any) error {
	ended := make(chan *dbus.Signal, 16)
	m.conn.Signal(ended)
	err := m.conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(managerInterface), dbus.WithMatchMember("JobRemoved"))
	if err != nil {
		return fmt.Errorf("ask the system bus for signals: %w", err)
	}
	if err := m.call(ctx, "Subscribe").Err; err != nil {
		return err
	}
	var path dbus.ObjectPath
	if err := m.call(ctx, method, arguments...).Store(&path); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for systemd: %w", ctx.Err())
		case s, ok := <-ended:
			if !ok {
				return errors.New("wait for systemd: the system bus hung up")
			}
			var id uint32
			var job dbus.ObjectPath
			var unit, result string
			if dbus.Store(s.Body, &id, &job, &unit, &result) != nil || job != path {
				continue
			}
			if result != "done" {
				return fmt.Errorf("systemd's job ended as %q", result)
			}
			return nil
		}
	}
}
