package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// settled is how long a container sleeps before its memory is measured: a guest gives free pages back after a while.
const settled = 5 * time.Second

// The columns of the table of memory.
const (
	keeper = iota
	guestPages
	guestOwn // of guestPages: those that are not the template's
	translated
	qemuFiles
	qemuRest
	otherPrograms
	all
	columns
)

// memory prints what idle sandboxes take, one alone and n at once: the medians of their columns.
func (b *bench) memory(n int) error {
	fmt.Print("\n| MiB of an idle container | keeper, or the container itself | QEMU: guest pages | of them its own | QEMU: translated code | QEMU: files | QEMU: rest | other programs | all |\n" +
		"|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	runtimes := b.runtimes()
	for _, m := range b.machines[1:] {
		runtimes = append(runtimes, b.hyperWith("hyper, "+m.kernel+" kernel", m.config))
	}
	for _, r := range runtimes {
		if err := b.memoryOf(r, n); err != nil {
			return fmt.Errorf("memory of %s: %w", r.name, err)
		}
	}
	return nil
}

func (b *bench) memoryOf(r ociRuntime, n int) (err error) {
	defer b.undo(&err)
	var pids []int
	for _, count := range []int{1, n} {
		for len(pids) < count {
			c, err := b.started(r)
			if err != nil {
				return err
			}
			pids = append(pids, c.pid)
		}
		select {
		case <-time.After(settled):
		case <-b.ctx.Done():
			return b.ctx.Err()
		}
		var samples [columns][]float64
		for _, pid := range pids {
			var kib [columns]int
			if err := addMemory(&kib, pid, true); err != nil {
				return err
			}
			for column, k := range kib {
				samples[column] = append(samples[column], float64(k)/1024)
			}
		}
		fmt.Printf("| %s, %d at once |", r.name, count)
		for _, column := range samples {
			fmt.Printf(" %.1f |", median(column))
		}
		fmt.Println()
	}
	return nil
}

// addMemory adds the proportional set sizes of a process and of all its descendants: a page that n processes share
// counts one nth.
func addMemory(kib *[columns]int, pid int, first bool) error {
	maps, err := readMappings(pid)
	if err != nil {
		return err
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err
	}
	ram := 0 // the guest's memory: nothing else that QEMU writes to is as large
	for i, m := range maps {
		if strings.HasPrefix(m.perms, "rw-") && m.size > maps[ram].size {
			ram = i
		}
	}
	for i, m := range maps {
		column := otherPrograms
		switch {
		case first:
			column = keeper
		case !strings.HasPrefix(filepath.Base(program), "qemu-system-"):
		case i == ram:
			column = guestPages
			kib[guestOwn] += m.anonymous
		case strings.Contains(m.path, "tcg-jit") || m.path == "" && strings.Contains(m.perms, "x"):
			column = translated // TCG's code: its only executable memory without a file, or a memfd (split-wx=on)
		case strings.HasPrefix(m.path, "/"):
			column = qemuFiles
		default:
			column = qemuRest
		}
		kib[column] += m.pss
		kib[all] += m.pss
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for child := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				return fmt.Errorf("read %s: %w", file, err)
			}
			if err := addMemory(kib, pid, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// mapping is one of a process's mappings (proc_pid_smaps(5)).
type mapping struct {
	perms, path string
	size, pss   int // KiB
	anonymous   int // KiB that are no file's, or no more
}

func readMappings(pid int) (maps []mapping, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch fields[0] {
		case "Size:":
			maps[len(maps)-1].size, err = strconv.Atoi(fields[1])
		case "Pss:":
			maps[len(maps)-1].pss, err = strconv.Atoi(fields[1])
		case "Anonymous:":
			maps[len(maps)-1].anonymous, err = strconv.Atoi(fields[1])
		default:
			if !strings.HasSuffix(fields[0], ":") {
				maps = append(maps, mapping{perms: fields[1], path: strings.Join(fields[5:], " ")})
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read smaps of %d: %w", pid, err)
		}
	}
	return maps, nil
}
