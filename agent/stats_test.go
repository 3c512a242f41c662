package agent

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// cgroupOf makes a directory that looks like a cgroup.
func cgroupOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadStats(t *testing.T) {
	dir := cgroupOf(t, map[string]string{
		"cpu.stat": "usage_usec 5\n", "memory.current": "4096\n", "hugetlb.2MB.current": "0\n", "hugetlb.2MB.rsvd.current": "0\n",
		"memory.stat": strings.Repeat("x", maxStatsFile+1), "cgroup.procs": "1\n", "cpu.weight": "100\n",
	})
	files, err := readStats(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cpu.stat", "hugetlb.2MB.current", "hugetlb.2MB.rsvd.current", "memory.current", "memory.stat"}
	if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
	if string(files["cpu.stat"]) != "usage_usec 5\n" || len(files["memory.stat"]) != maxStatsFile {
		t.Errorf("cpu.stat %q, %d bytes of memory.stat", files["cpu.stat"], len(files["memory.stat"]))
	}
	if files, err := readStats(filepath.Join(dir, "gone")); err != nil || len(files) != 0 {
		t.Errorf("of a cgroup that is gone: %v, %v", files, err)
	}
}

func TestAwaitOOM(t *testing.T) {
	never := make(chan struct{})
	closed := make(chan struct{})
	close(closed)
	guarded := func(t *testing.T, dir string, seen uint64, ended <-chan struct{}) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := awaitOOM(ctx, dir, seen, ended); err != nil || ctx.Err() != nil {
			t.Errorf("%v, %v", err, ctx.Err())
		}
	}
	dir := cgroupOf(t, map[string]string{"memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"})
	guarded(t, dir, 1, never)  // more already
	guarded(t, dir, 2, closed) // the container has ended
	guarded(t, t.TempDir(), 0, closed)

	counters := filepath.Join(dir, "memory.events")
	go func() { // one that the watch may miss or see, one that it has to see
		os.WriteFile(counters, []byte("oom_kill 2\n"), 0o644)
		os.WriteFile(counters, []byte("oom_kill 3\n"), 0o644)
	}()
	guarded(t, dir, 2, never)

	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := awaitOOM(ctx, dir, 3, never); err != nil {
		t.Error(err)
	}
}
