package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// socketPair returns the two ends of a Unix socket.
func socketPair(t *testing.T) (near, far *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// The file comes with its own command, and with no other.
func TestSendFile(t *testing.T) {
	near, far := socketPair(t)
	defer far.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	// qemu answers each line with the number of files that came with it, and writes to them.
	go func() {
		_, _ = far.Write([]byte(greeting))
		buffer, control := make([]byte, 4096), make([]byte, 4096)
		for {
			n, controlLength, _, _, err := far.ReadMsgUnix(buffer, control)
			if err != nil || n == 0 {
				return
			}
			var c command
			if err := json.Unmarshal(bytes.TrimSpace(buffer[:n]), &c); err != nil {
				t.Error(err)
			}
			files := 0
			messages, _ := unix.ParseSocketControlMessage(control[:controlLength])
			for _, message := range messages {
				fds, _ := unix.ParseUnixRights(&message)
				for _, fd := range fds {
					files++
					file := os.NewFile(uintptr(fd), "received")
					fmt.Fprintf(file, "%s %v", c.Execute, c.Arguments["fdname"])
					file.Close()
				}
			}
			fmt.Fprintf(far, `{"return": %d, "id": %d}`+"\n", files, c.ID)
		}
	}()
	c, err := New(context.Background(), near)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendFile(context.Background(), "name", write); err != nil {
		t.Fatal(err)
	}
	var files int
	if err := c.Execute(context.Background(), "count", nil, &files); err != nil || files != 0 {
		t.Errorf("%d files came with a command of none, %v", files, err)
	}
	write.Close() // the last: what came over was closed by its receiver
	var got bytes.Buffer
	if _, err := got.ReadFrom(read); err != nil || got.String() != "getfd name" {
		t.Errorf("got %q, %v", got.String(), err)
	}
	if err := c.SendFile(context.Background(), "name", write); err == nil || !strings.Contains(err.Error(), "use of closed file") {
		t.Errorf("a closed file: %v", err)
	}
	if err := c.Execute(context.Background(), "count", nil, nil); err != nil { // the session goes on
		t.Error(err)
	}
}

func TestSendFileNeedsASocket(t *testing.T) {
	c := connect(t, func(next func() command, _ func(string, ...any)) { next() })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := c.SendFile(context.Background(), "name", null); err == nil || !strings.Contains(err.Error(), "no file can be sent over") {
		t.Error(err)
	}
}
