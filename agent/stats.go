package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// statsFiles are the patterns (filepath.Match) of the files that Stats answers with. A cgroup has those of its
// controllers.
var statsFiles = []string{
	"cpu.stat", "cpu.max", "*.pressure", "memory.current", "memory.max", "memory.peak", "memory.stat", "memory.events",
	"memory.swap.current", "memory.swap.max", "memory.swap.peak", "pids.current", "pids.max", "io.stat",
	"hugetlb.*.current", "hugetlb.*.events",
}

func isStatsFile(name string) bool {
	return slices.ContainsFunc(statsFiles, func(pattern string) bool {
		matches, _ := filepath.Match(pattern, name) // the patterns are well-formed
		return matches
	})
}

// maxStatsFile bounds what is answered of one file, in bytes. The largest is memory.stat with some two thousand.
const maxStatsFile = 16 << 10

// Stats implements protocol.AgentService.
func (a *Agent) Stats(ctx context.Context, r *protocol.StatsRequest) (*protocol.StatsResponse, error) {
	c, err := a.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(a.config.Cgroups, c.cgroup)
	if r.WaitMilliseconds > 0 {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(r.WaitMilliseconds)*time.Millisecond)
		defer cancel()
		if err := awaitOOM(ctx, dir, r.OomKills, c.init.exited); err != nil {
			return nil, err
		}
	}
	exited := c.init.hasExited() // asked first: then the figures are the last ones
	files, err := readStats(dir)
	return &protocol.StatsResponse{Files: files, Exited: exited}, err
}

// AwaitOOM implements protocol.AgentService.
func (a *Agent) AwaitOOM(ctx context.Context, r *protocol.AwaitOOMRequest) (*protocol.AwaitOOMResponse, error) {
	c, err := a.container(r.ContainerId)
	if err != nil {
		return nil, err
	}
	if err := awaitOOM(ctx, filepath.Join(a.config.Cgroups, c.cgroup), r.Known, c.init.exited); err != nil {
		return nil, err
	}
	return &protocol.AwaitOOMResponse{OomKills: a.oomKills(c)}, nil
}

// oomKills is how many processes of the container were killed because there was no memory.
func (a *Agent) oomKills(c *container) uint64 {
	return oomKills(filepath.Join(a.config.Cgroups, c.cgroup, "memory.events"))
}

// readStats reads statsFiles in a cgroup. What is not there, or is switched off in the kernel, is left out.
func readStats(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("find figures: %w", err)
	}
	files := map[string][]byte{}
	for _, entry := range entries {
		name := entry.Name()
		if !isStatsFile(name) {
			continue
		}
		text, err := readStatsFile(filepath.Join(dir, name))
		switch {
		case err == nil:
			files[name] = text
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EOPNOTSUPP):
			return nil, fmt.Errorf("read figures: %w", err)
		}
	}
	return files, nil
}

// readStatsFile reads at most maxStatsFile bytes of a file.
func readStatsFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxStatsFile))
}

// awaitOOM returns when the cgroup counts more than seen OOM kills, when ended is closed, or when ctx ends.
func awaitOOM(ctx context.Context, dir string, seen uint64, ended <-chan struct{}) error {
	// The kernel says so with inotify(7) when the counters of memory.events change (cgroup-v2.rst, Interface Files).
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	defer changes.Close() // ends the goroutine
	counters := filepath.Join(dir, "memory.events")
	var more chan struct{} // closed when there are more; nil without a memory controller
	_, err = unix.InotifyAddWatch(fd, counters, unix.IN_MODIFY)
	switch {
	case err == nil:
		more = make(chan struct{})
		go func() {
			defer close(more)
			for buf := make([]byte, 4096); oomKills(counters) <= seen; {
				if _, err := changes.Read(buf); err != nil {
					return
				}
			}
		}()
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	select {
	case <-more:
	case <-ended:
	case <-ctx.Done():
	}
	return nil
}

// oomKills reads the counter in memory.events; 0 when there is none.
func oomKills(path string) uint64 {
	text, _ := readStatsFile(path)
	for line := range strings.Lines(string(text)) {
		if count, found := strings.CutPrefix(line, "oom_kill "); found {
			n, _ := strconv.ParseUint(strings.TrimSpace(count), 10, 64)
			return n
		}
	}
	return 0
}
