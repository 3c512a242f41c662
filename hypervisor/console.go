package hypervisor

import (
	"io"
	"os"

	"github.com/hyper-runtime/hyper/program"
	"golang.org/x/sys/unix"
)

// consoleMemory is how much of the console is kept in memory for error messages, in bytes.
const consoleMemory = 8 << 10

// console keeps the end of what the guest's kernel says: on disk in two files, path and path.1, even when we are
// killed, and less in memory. It is a ring in units of a file: when path is full, it becomes path.1, and what path.1 was
// is gone.
type console struct {
	path string   // empty: memory only
	most int      // bytes of one file
	file *os.File // nil: memory only, from now on
	size int      // of file
	last program.Tail
	done chan struct{} // closed when all has been read
}

// newConsole keeps at most size bytes on disk.
func newConsole(path string, size int) (*console, error) {
	c := &console{path: path, most: size / 2, last: program.Tail{Size: consoleMemory}, done: make(chan struct{})}
	if path != "" {
		if err := c.begin(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// follow reads from r until it ends. QEMU, and with it the guest, waits when nobody reads: so a disk that is full ends
// the files, not the reading.
func (c *console) follow(r io.ReadCloser) {
	defer close(c.done)
	defer r.Close()
	buffer := make([]byte, 4<<10)
	for {
		n, err := r.Read(buffer)
		_, _ = c.last.Write(buffer[:n])
		if c.file != nil && c.store(buffer[:n]) != nil {
			c.close()
		}
		if err != nil {
			c.close()
			return
		}
	}
}

func (c *console) close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func (c *console) store(p []byte) error {
	if c.size+len(p) > c.most {
		c.file.Close()
		if err := os.Rename(c.path, c.path+".1"); err != nil {
			return err
		}
		if err := c.begin(); err != nil {
			return err
		}
	}
	n, err := c.file.Write(p)
	c.size += n
	return err
}

func (c *console) begin() error {
	file, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	c.file, c.size = file, 0
	return nil
}
