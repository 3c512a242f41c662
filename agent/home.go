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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// maxPasswd is how much of a container's /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// withHome returns the JSON with the user's home directory where the host has left a place for it. The runtime would
// look it up in the container's /etc/passwd itself, and wait for ever where that is a FIFO; and it would keep an empty one,
// which runc does not.
func withHome(text []byte, home *protocol.Home, root string) ([]byte, error) {
	if home == nil {
		return text, nil
	}
	if int(home.Offset) > len(text) {
		return nil, status.Errorf(codes.InvalidArgument, "home directory at %d of %d bytes", home.Offset, len(text))
	}
	dir, err := json.Marshal(homeOf(root, home.Uid))
	if err != nil {
		return nil, fmt.Errorf("encode home directory: %w", err)
	}
	return slices.Concat(text[:home.Offset], dir[1:len(dir)-1], text[home.Offset:]), nil
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
