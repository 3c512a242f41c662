package cli_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// terminalScript shows the size when there is one, and on every change, until a line is typed. read ends now and then,
// because a trap that is set off just before it would wait for it.
const terminalScript = "test -t 0 && test -t 1 && test -t 2 || exit 99; until s=$(stty size 2>/dev/null) && test -n \"$s\"; do :; done; " +
	"trap 'echo winch=$(stty size)' WINCH; echo size=$s; while :; do read -t 1 line && echo \"got=$line\" && break; done; exit 4"

// inTerminal gives a command a terminal as its stdio and controlling terminal.
func inTerminal(h *harness.Host, args ...string) (*harness.Process, *harness.Terminal) {
	h.T.Helper()
	terminal, slave := h.OpenTerminal()
	terminal.Resize(91, 17)
	before := h.Modes(slave)
	cmd := h.Command(args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	p := h.Spawn(cmd)
	h.T.Cleanup(func() {
		if after := h.Modes(slave); after != before {
			h.T.Errorf("the terminal's modes after the end: %+v, want %+v", after, before)
		}
		slave.Close()
	})
	return p, terminal
}

// talk goes through a terminalScript: size, resize, input with echo.
func talk(t *testing.T, terminal *harness.Terminal) {
	t.Helper()
	terminal.Expect(t, "size=17 91\r\n")
	terminal.Resize(100, 40)
	terminal.Expect(t, "winch=40 100\r\n")
	terminal.Type("hello\r")
	terminal.Expect(t, "hello\r\ngot=hello\r\n")
}

func TestRunTerminal(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell(terminalScript)
	b.SetProcessTerminal(true)
	b.Write()
	p, terminal := inTerminal(h, "run", "--bundle", b.Dir, h.ID())
	terminal.Expect(t, "size=")
	if modes := h.Modes(terminal.File); modes.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 {
		t.Errorf("the caller's terminal is not raw: %+v", modes)
	}
	talk(t, terminal)
	if r := p.Wait(); r.Code != 4 {
		t.Errorf("run: %v, terminal %q", r, terminal.Text())
	}
}

// A terminal for the process does not mean that ours is where its input comes from and its output goes to: these are
// stdin and stdout, and what is written there has its newlines as they are.
func TestRedirectedTerminal(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	const script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo end >&2; exit 5"
	b := h.Shell(script)
	b.SetProcessTerminal(true)
	b.Write()
	c := h.StartSleeper()
	for name, args := range map[string][]string{
		"run":  {"run", "--bundle", b.Dir, h.ID()},
		"exec": {"exec", "--tty", c.ID, "sh", "-c", script},
	} {
		for _, where := range []string{"stderr", "controlling"} {
			t.Run(name+" "+where, func(t *testing.T) {
				h := h.In(t)
				terminal, slave := h.OpenTerminal()
				defer slave.Close()
				terminal.Resize(91, 17)
				null, err := os.Open("/dev/null")
				if err != nil {
					t.Fatal(err)
				}
				defer null.Close()
				r, w := h.Pipe()
				cmd := h.Command(args...)
				cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = null, w, []*os.File{slave}
				cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
				if where == "stderr" {
					cmd.Stderr = slave
				}
				p := h.Spawn(cmd)
				w.Close()
				out := harness.Collect(r).All(t)
				if code := p.WaitExit(); code != 5 || out != "17 91\nend\n" {
					t.Errorf("status %d, output %q, terminal %q", code, out, terminal.Text())
				}
			})
		}
	}
}

func TestConsoleSocket(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Shell("trap 'echo int; exit 5' INT\n" + strings.Replace(terminalScript, "&& break", "", 1))
	b.SetProcessTerminal(true)
	b.SetProcessConsoleSize(91, 17)
	socket := h.ListenConsole()
	c := h.Create(b, "--console-socket", socket.Path)
	terminal := socket.Receive()
	c.Start()
	talk(t, terminal)
	terminal.Type("\x03")
	terminal.Expect(t, "^C")
	terminal.Expect(t, "int\r\n")
	if r := c.Wait(); r.Code != 5 || r.Stdout != "" {
		t.Errorf("container: %v, terminal %q", r, terminal.Text())
	}
	terminal.All(t) // the end of the process hangs the terminal up
}

func TestConsoleSocketMisuse(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Sleeper()
	if _, r := h.TryCreate(b, "--console-socket", h.Path("missing.sock")); r.Code == 0 {
		t.Error("create took a console socket without a terminal")
	}
	b.SetProcessTerminal(true)
	if _, r := h.TryCreate(b); r.Code == 0 {
		t.Error("create took a terminal without a console socket")
	}
	if _, r := h.TryCreate(b, "--console-socket", h.Path("missing.sock")); r.Code == 0 {
		t.Error("create took a console socket that is not there")
	}
}

func TestExecTerminal(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	c := h.StartSleeper()

	t.Run("foreground", func(t *testing.T) {
		p, terminal := inTerminal(h.In(t), "exec", "--tty", c.ID, "sh", "-c", terminalScript)
		talk(t, terminal)
		if r := p.Wait(); r.Code != 4 {
			t.Errorf("exec: %v", r)
		}
	})
	t.Run("console socket", func(t *testing.T) {
		socket := h.ListenConsole()
		pidFile := h.Path("exec.pid")
		h.OK("exec", "--tty", "--detach", "--pid-file", pidFile, "--console-socket", socket.Path, c.ID,
			"sh", "-c", "stty rows 17 cols 91;"+terminalScript)
		terminal := socket.Receive()
		talk(t, terminal)
		if code := h.Reap(h.ReadPid(pidFile)); code != 4 {
			t.Errorf("exec ended with %d", code)
		}
		terminal.All(t)
	})
	t.Run("big output", func(t *testing.T) {
		p, terminal := inTerminal(h.In(t), "exec", "--tty", c.ID, "seq", "1", "100000")
		if r := p.Wait(); r.Code != 0 {
			t.Errorf("exec: %v", r)
		}
		terminal.Expect(t, "\r\n100000\r\n")
		if lines := strings.Count(terminal.Text(), "\r\n"); lines != 100000 {
			t.Errorf("%d lines arrived", lines)
		}
	})
	c.WantStatus(specs.StateRunning)
}
