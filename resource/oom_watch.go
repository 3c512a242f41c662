package resource

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// memoryCgroup is a cgroup as the memory controller has it, and how that names its files.
type memoryCgroup struct {
	v2                        bool
	dir                       string
	used, limit, swap, events string
}

func (c *Cgroup) memory() (memoryCgroup, error) {
	for _, d := range c.Directories {
		switch {
		case c.V2:
			return memoryCgroup{true, d.Path, "memory.current", "memory.max", "memory.swap.max", "memory.events"}, nil
		case d.has("memory"):
			return memoryCgroup{false, d.Path, "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.swappiness", "memory.oom_control"}, nil
		}
	}
	return memoryCgroup{}, errors.New("the host has no memory cgroups")
}

// figures are what is used and how much may be, in bytes.
func (m memoryCgroup) figures() (used, limit uint64, err error) {
	for file, value := range map[string]*uint64{m.used: &used, m.limit: &limit} {
		text, err := readTrimmed(filepath.Join(m.dir, file))
		if err != nil {
			return 0, 0, err
		}
		if text == "max" {
			*value = math.MaxUint64
		} else if *value, err = strconv.ParseUint(text, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("read %s: %w", file, err)
		}
	}
	return used, limit, nil
}

// watch returns a channel that is closed when the kernel tells those who watch that there was an OOM kill.
func (m memoryCgroup) watch() (raised <-chan struct{}, forget func() error, err error) {
	var events *os.File
	if m.v2 {
		events, err = m.inotify()
	} else {
		events, err = m.eventfd()
	}
	if err != nil {
		return nil, nil, err
	}
	before, told := m.kills(), make(chan struct{})
	go func() {
		for buf := make([]byte, 4096); ; {
			if _, err := events.Read(buf); err != nil {
				return // forgotten
			}
			if !m.v2 || m.kills() > before {
				close(told)
				return
			}
		}
	}()
	return told, events.Close, nil
}

// inotify tells of changes of memory.events.
func (m memoryCgroup) inotify() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(m.dir, m.events), unix.IN_MODIFY); err != nil {
		events.Close()
		return nil, err
	}
	return events, nil
}

// eventfd is registered for memory.oom_control (kernel cgroup-v1/memcg_test.rst and memory.rst, "OOM Control").
func (m memoryCgroup) eventfd() (*os.File, error) {
	control, err := os.Open(filepath.Join(m.dir, m.events))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	events := os.NewFile(uintptr(fd), "eventfd")
	if err := writeFile(m.dir, "cgroup.event_control", fmt.Sprintf("%d %d", fd, control.Fd())); err != nil {
		events.Close()
		return nil, err
	}
	return events, nil
}

// kills is how many OOM kills the cgroup counts; 0 where the kernel does not count.
func (m memoryCgroup) kills() uint64 {
	text, _ := os.ReadFile(filepath.Join(m.dir, m.events))
	f := statFiles{files: map[string][]byte{m.events: text}}
	return f.counters(m.events)["oom_kill"]
}
