package console

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Send gives the terminal's master to the engine that listens on the Unix stream socket at path, as runc does
// (docs/terminals.md of runc: one message, the name as payload, the descriptor as SCM_RIGHTS).
func Send(path string, master *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte(master.Name()), unix.UnixRights(int(master.Fd())), nil); err != nil {
		return fmt.Errorf("console socket: %w", err)
	}
	return nil
}
