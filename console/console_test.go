package console

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenIsRawAndSized(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if !IsTerminal(slave) {
		t.Fatal("the slave is no terminal")
	}
	if err := SetSize(master, 120, 33); err != nil {
		t.Fatal(err)
	}
	if w, h, err := Size(slave); err != nil || w != 120 || h != 33 {
		t.Fatalf("size = %d x %d, %v; want 120 x 33", w, h, err)
	}
	const sent = "a\r\x03\n" // a cooked terminal would turn the return into a newline and ^C into a signal
	if _, err := io.WriteString(master, sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(slave, got); err != nil || string(got) != sent {
		t.Fatalf("read %q, %v; want %q", got, err, sent)
	}
}

func TestRawIsRestored(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	cooked, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cooked.Lflag |= unix.ECHO | unix.ICANON
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, cooked); err != nil {
		t.Fatal(err)
	}
	restore, err := Raw(slave)
	if err != nil {
		t.Fatal(err)
	}
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if back, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || *back != *cooked {
		t.Fatalf("mode = %+v, %v; want %+v", back, err, cooked)
	}
}

// The caller's own terminal goes on to make \r\n of \n.
func TestRawInput(t *testing.T) {
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	mode := &unix.Termios{Oflag: unix.OPOST | unix.ONLCR, Lflag: unix.ICANON | unix.ECHO}
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, mode); err != nil {
		t.Fatal(err)
	}
	restore, err := RawInput(slave)
	if err != nil {
		t.Fatal(err)
	}
	defer restore()
	if _, err := io.WriteString(slave, "a\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(master, got); err != nil || string(got) != "a\r\n" {
		t.Errorf("output: %q, %v", got, err)
	}
	if _, err := io.WriteString(master, "\x03"); err != nil {
		t.Fatal(err)
	}
	if n, err := slave.Read(got); err != nil || string(got[:n]) != "\x03" {
		t.Errorf("input: %q, %v", got[:n], err)
	}
}

func TestSendGivesTheMaster(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	master, slave, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	defer master.Close()
	sent := make(chan error, 1)
	go func() { sent <- Send(path, master) }()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	data, oob := make([]byte, 64), make([]byte, 64)
	n, oobn, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if string(data[:n]) != "/dev/ptmx" {
		t.Errorf("name = %q", data[:n])
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		t.Fatalf("control messages = %v, %v", msgs, err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors = %v, %v", fds, err)
	}
	got := os.NewFile(uintptr(fds[0]), "received")
	defer got.Close()
	if err := SetSize(got, 7, 8); err != nil {
		t.Fatal(err)
	}
	if w, h, _ := Size(slave); w != 7 || h != 8 {
		t.Errorf("size by the received master = %d x %d, want 7 x 8", w, h)
	}
}

func TestStreamEndsAHangingRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, err := Stream(r)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Read(make([]byte, 1))
		done <- err
	}()
	s.Close()
	if err := <-done; !errors.Is(err, os.ErrClosed) {
		t.Fatalf("read = %v, want %v", err, os.ErrClosed)
	}
}

func TestStreamKeepsTheOffsetOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(f, "before ")
	s, err := Stream(f)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(s, "after")
	s.Close()
	if got, _ := os.ReadFile(path); string(got) != "before after" {
		t.Fatalf("file = %q", got)
	}
}
