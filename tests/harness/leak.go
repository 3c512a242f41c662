package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Leaks lists what still exists of the test: whatever holds its token, and every entry of its state root.
func (h *Host) Leaks() ([]string, error) {
	entries, err := os.ReadDir(h.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var leaks []string
	for _, entry := range entries {
		leaks = append(leaks, "state "+filepath.Join(h.Root, entry.Name()))
	}
	found, err := Traces(h.Token)
	return append(leaks, found...), err
}

// Traces lists everything on the host that holds a token: processes (by argv, environment or cgroup), mounts in all
// mount namespaces, cgroups in all hierarchies, Unix sockets, and files in the host's directories for temporary state.
func Traces(word string) ([]string, error) {
	var traces []string
	for _, find := range []func(string) ([]string, error){processes, mounts, sockets, files} {
		found, err := find(word)
		if err != nil {
			return nil, err
		}
		traces = append(traces, found...)
	}
	return traces, nil
}

// pids lists all processes but this one.
func pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && pid != os.Getpid() {
			all = append(all, pid)
		}
	}
	return all, nil
}

// procFile reads /proc/pid/name; what is gone, or has more rights than we have, reads as empty.
func procFile(pid int, name string) ([]byte, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH), errors.Is(err, syscall.EINVAL),
		errors.Is(err, fs.ErrPermission):
		return nil, nil
	}
	return text, err
}

// processes finds living processes; a zombie has neither argv nor environment, and waits only for us.
func processes(word string) ([]string, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, pid := range all {
		token, err := owner(pid)
		if err != nil {
			return nil, err
		}
		argv, err := procFile(pid, "cmdline")
		if err != nil {
			return nil, err
		}
		if token == word && len(argv) > 0 {
			found = append(found, describe(pid))
		}
	}
	return found, nil
}

// Programs lists the test's living processes whose program has the given name.
func (h *Host) Programs(name string) []int {
	h.T.Helper()
	all, err := pids()
	if err != nil {
		h.T.Fatal(err)
	}
	var found []int
	for _, pid := range all {
		argv, err := procFile(pid, "cmdline")
		if err != nil {
			h.T.Fatal(err)
		}
		token, err := owner(pid)
		if err != nil {
			h.T.Fatal(err)
		}
		program, _, _ := strings.Cut(string(argv), "\x00")
		if filepath.Base(program) == name && token == h.Token {
			found = append(found, pid)
		}
	}
	return found
}

// VMs lists the test's living VMs, without those that become templates.
func (h *Host) VMs() []int {
	h.T.Helper()
	return slices.DeleteFunc(h.Programs("qemu-system-x86_64"), func(pid int) bool {
		return strings.Contains(describe(pid), "hyper.rehearse") // on its kernel's command line
	})
}

// describe names a process for a log.
func describe(pid int) string {
	argv, _ := procFile(pid, "cmdline") // a name is nice to have
	return fmt.Sprintf("process %d %q", pid, strings.TrimSpace(strings.ReplaceAll(string(argv), "\x00", " ")))
}

// tokenVariable marks the environment of all that a test starts.
const tokenVariable = "HYPER_TEST_TOKEN="

// tokens are the words that tests are known by.
var tokens = regexp.MustCompile(`\bht[0-9a-f]{8}\b`)

// owner is the token of the test that a process belongs to, empty for others.
func owner(pid int) (string, error) {
	for _, name := range []string{"cmdline", "environ", "cgroup"} {
		text, err := procFile(pid, name)
		if err != nil {
			return "", err
		}
		if token := tokens.Find(text); token != nil {
			return string(token), nil
		}
	}
	return "", nil
}

// mounts finds mounts in every mount namespace, each namespace once. The namespaces of other tests' containers are
// left out: they began as copies of the host's, with whatever was mounted there at the time.
func mounts(word string) ([]string, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var found []string
	seen := map[string]bool{}
	for _, pid := range append(all, os.Getpid()) {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[ns] {
			continue // gone in between
		}
		token, err := owner(pid)
		if err != nil {
			return nil, err
		}
		if token != "" && token != word {
			continue
		}
		seen[ns] = true
		info, err := procFile(pid, "mountinfo")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(info)) {
			if strings.Contains(line, word) {
				found = append(found, "mount in "+ns+": "+strings.TrimSpace(line))
			}
		}
	}
	return found, nil
}

// sockets finds Unix sockets by path or abstract name.
func sockets(word string) ([]string, error) {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, word) {
			found = append(found, "socket "+strings.TrimSpace(line))
		}
	}
	return found, nil
}

// files finds cgroups and temporary files by name.
func files(word string) ([]string, error) {
	var found []string
	for _, root := range []string{"/sys/fs/cgroup", "/dev/shm", "/run"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV):
				return nil // others come and go while we walk
			case err != nil:
				return err
			case strings.Contains(filepath.Base(path), word):
				found = append(found, "file "+path)
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// children lists the living children of a process.
func children(parent int) ([]string, error) {
	all, err := pids()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, pid := range all {
		stat, err := procFile(pid, "stat")
		if err != nil {
			return nil, err
		}
		// proc_pid_stat(5): after the parenthesised name come state and ppid.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if text := describe(pid); !strings.Contains(text, "hyper template-maker") {
			found = append(found, text)
		} else if _, err := unix.Wait4(pid, nil, 0, nil); err != nil { // it works in the background, and ends by itself
			return nil, fmt.Errorf("wait for %s: %w", text, err)
		}
	}
	return found, nil
}

// taps lists the tun and tap devices of the host's network namespace.
func taps() ([]string, error) {
	return filepath.Glob("/sys/class/net/*/tun_flags")
}
