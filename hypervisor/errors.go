package hypervisor

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
)

// Stage names how far a start came. Each reads as the beginning of an error message.
type Stage string

// The stages of a start, in their order.
const (
	StageQEMU      Stage = "QEMU did not start"
	StageKernel    Stage = "the kernel did not boot"
	StageAgent     Stage = "the agent did not answer"
	StageContainer Stage = "the container was refused"
)

// BootError is a start that failed.
type BootError struct {
	Stage   Stage
	Err     error
	Console []string // the last lines of the guest's console, if it came to that
}

func (e *BootError) Error() string {
	text := string(e.Stage) + ": " + e.Err.Error()
	if end := new(EndError); errors.As(e.Err, &end) {
		return text // which has the console's lines already
	}
	return text + lastLines(e.Console)
}

func (e *BootError) Unwrap() error { return e.Err }

// EndError is the end of a VM that nobody on the host asked for.
type EndError struct {
	Reason  string   // QEMU's ShutdownCause: "guest-reset" …; empty when QEMU told none
	Exit    error    // how QEMU's process ended; nil for exit status 0
	Console []string // the last lines of the guest's console
}

func (e *EndError) Error() string {
	text := ""
	switch {
	case e.Exit != nil:
		text = e.Exit.Error()
	case e.Reason == "guest-reset":
		text = "the guest reset itself" // a panic, or a reboot
	case e.Reason == "guest-shutdown":
		text = "the guest powered off"
	case e.Reason == "":
		text = "QEMU exited"
	default:
		text = "QEMU exited: " + e.Reason
	}
	return text + lastLines(e.Console)
}

func (e *EndError) Unwrap() error { return e.Exit }

// lastLines appends the end of the console to an error message of one line. A panic is told by its first line: what
// follows it is a stack.
func lastLines(console []string) string {
	for _, line := range console {
		if i := strings.Index(line, "Kernel panic"); i >= 0 {
			return ": " + line[i:]
		}
	}
	if len(console) == 0 {
		return ""
	}
	return "; last console lines: " + strings.Join(console[max(0, len(console)-5):], " | ")
}

// isBroken tells whether err is what a peer's end makes of a connection.
func isBroken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
