package storage

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of mountinfo.
type mount struct {
	id, parent int
	point      string // where it is mounted, as our root directory sees it
	fsType     string
}

// readMounts lists the mounts of our mount namespace, in the order in which they were made.
func readMounts() ([]mount, error) {
	// The namespace belongs to the thread.
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text))
}

// parseMounts reads mountinfo, proc_pid_mountinfo(5).
func parseMounts(text string) ([]mount, error) {
	var list []mount
	for line := range strings.Lines(text) {
		own, fs, ok := strings.Cut(line, " - ")
		fields, fsFields := strings.Fields(own), strings.Fields(fs)
		if !ok || len(fields) < 6 || len(fsFields) < 1 {
			return nil, fmt.Errorf("mountinfo line %q is not as expected", line)
		}
		id, err := strconv.Atoi(fields[0])
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %q: %w", line, err)
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("mountinfo line %q: %w", line, err)
		}
		list = append(list, mount{id: id, parent: parent, point: unescape.Replace(fields[4]), fsType: fsFields[0]})
	}
	return list, nil
}

// unescape undoes what the kernel does to a path in mountinfo (fs/proc_namespace.c, mangle).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

func findMount(list []mount, id int) (mount, bool) {
	for _, m := range list {
		if m.id == id {
			return m, true
		}
	}
	return mount{}, false
}

// below are the mounts at and under the one with that id.
func below(list []mount, id int) []mount {
	under := map[int]bool{id: true}
	var found []mount
	for changed := true; changed; {
		changed = false
		for _, m := range list {
			if under[m.parent] && !under[m.id] {
				under[m.id], changed = true, true
			}
		}
	}
	for _, m := range list {
		if under[m.id] && m.id != id {
			found = append(found, m)
		}
	}
	return found
}

// mountID is the id of the mount that an open file lies in.
func mountID(file *os.File) (int, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: file.Name(), Err: err}
	}
	return int(st.Mnt_id), nil
}
