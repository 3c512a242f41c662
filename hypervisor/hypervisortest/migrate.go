package hypervisortest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// fakeState is what a fake QEMU saves as the state of its devices.
const fakeState = "the state of a fake QEMU\n"

// touched is how much of a template's memory its guest writes to, in bytes.
const touched = 1 << 20

// makeMemory makes a memory file as long as the memory, as QEMU does. A template's guest writes to its beginning.
func makeMemory(value string) error {
	path := property(value, "mem-path")
	if path == "" {
		return nil
	}
	mib, err := strconv.Atoi(strings.TrimSuffix(property(value, "size"), "M"))
	if err != nil {
		return fmt.Errorf("object %s: %w", value, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(int64(mib) << 20); err != nil || property(value, "share") != "on" {
		return err
	}
	_, err = file.Write(bytes.Repeat([]byte("m"), touched))
	return err
}

// save sends the state to "unix:PATH".
func (f *fake) save(uri string) {
	if f.mode == NeverConnecting {
		select {}
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(uri, "unix:"))
	if f.mode == NeverSaving {
		select {}
	}
	if err == nil {
		_, err = io.WriteString(conn, fakeState)
	}
	status := "completed"
	if err != nil {
		status = "failed"
	}
	f.mu.Lock()
	f.migration = status
	f.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// load reads the state from "fd:NUMBER", and lets the guest run.
func (f *fake) load(uri string) {
	fd, err := strconv.Atoi(strings.TrimPrefix(uri, "fd:"))
	if err == nil {
		var state []byte
		state, err = io.ReadAll(os.NewFile(uintptr(fd), "state"))
		if err == nil && !bytes.Equal(state, []byte(fakeState)) {
			err = syscall.EINVAL
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "load of migration failed: %v\n", err)
		os.Exit(1)
	}
	f.enter("running", "RESUME")
	f.powered.Do(f.powerOn)
}
