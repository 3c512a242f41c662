package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPasswd is how much of a container's /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// withHome returns the OCI process with HOME in its environment, if it is not there or empty where it is set last. The
// runtime would look it up in the container's /etc/passwd itself, and wait for ever where that is a FIFO; and it would
// keep an empty one, which runc does not.
func withHome(process json.RawMessage, root string) (json.RawMessage, error) {
	var known struct {
		Env  []string
		User struct{ UID uint32 }
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(process, &known); err != nil {
		return nil, fmt.Errorf("parse process: %w", err)
	}
	home := ""
	isHome := func(e string) bool { return strings.HasPrefix(e, "HOME=") }
	for _, e := range known.Env {
		if isHome(e) {
			home = e
		}
	}
	if len(home) > len("HOME=") {
		return process, nil
	}
	if err := json.Unmarshal(process, &fields); err != nil {
		return nil, fmt.Errorf("parse process: %w", err)
	}
	env, err := json.Marshal(append(slices.DeleteFunc(known.Env, isHome), "HOME="+homeOf(root, known.User.UID)))
	if err != nil {
		return nil, fmt.Errorf("encode environment: %w", err)
	}
	fields["env"] = env
	return json.Marshal(fields)
}

// withHomeInSpec does the same to the process of a config.json.
func withHomeInSpec(spec []byte) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(spec, &fields); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	var root struct{ Path string }
	if err := json.Unmarshal(fields["root"], &root); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	process, err := withHome(fields["process"], root.Path)
	if err != nil {
		return nil, err
	}
	fields["process"] = process
	return json.Marshal(fields)
}

// homeOf is the home directory of a user as the passwd(5) of the root file system has it, or "/", as runc and crun have
// it. The file is a stranger's: it is opened inside the root, only if it is a regular file, and read up to maxPasswd.
func homeOf(root string, uid uint32) string {
	const nowhere = "/"
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nowhere
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nowhere
	}
	file := os.NewFile(uintptr(fd), "passwd")
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nowhere
	}
	text, err := io.ReadAll(io.LimitReader(file, maxPasswd))
	if err != nil {
		return nowhere
	}
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range bytes.Lines(text) {
		fields := strings.Split(strings.TrimRight(string(line), "\n"), ":")
		if len(fields) >= 6 && fields[2] == want && path.IsAbs(fields[5]) {
			return fields[5]
		}
	}
	return nowhere
}
