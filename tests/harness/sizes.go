package harness

import (
	"os/exec"
	"syscall"
	"testing"
)

// SpawnInTerminal starts cmd in a terminal of its own, of 91 columns and 17 rows.
func (h *Host) SpawnInTerminal(cmd *exec.Cmd) (*Process, *Terminal) {
	h.T.Helper()
	terminal, slave := h.OpenTerminal()
	defer slave.Close()
	terminal.Resize(91, 17)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return h.Spawn(cmd), terminal
}

// SizesScript waits for the size of SpawnInTerminal, which engines set after the start, then shows each change, and ends
// with 4 after a line. read ends now and then, because a trap that is set off just before it would wait for it.
const SizesScript = "until stty size 2>/dev/null | grep -q 91; do :; done; trap 'stty size' WINCH; stty size; while :; do read -t 1 line && echo got=$line && exit 4; done"

// TalkSizes checks that a process that runs SizesScript follows its terminal.
func TalkSizes(t testing.TB, p *Process, terminal *Terminal) {
	t.Helper()
	terminal.Expect(t, "17 91\r\n")
	terminal.Resize(100, 40)
	terminal.Expect(t, "40 100\r\n")
	terminal.Type("hello\r")
	terminal.Expect(t, "got=hello\r\n")
	if code := p.WaitExit(); code != 4 {
		t.Errorf("exit %d", code)
	}
}
