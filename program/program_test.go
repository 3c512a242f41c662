package program

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play a starter of programs: it starts a sleep, prints its own and the sleep's identity,
// and lives until it is killed or its standard input ends; then it kills the sleep and prints what became of it.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_STARTER") == "" {
		os.Exit(m.Run())
	}
	self, err := Self()
	if err != nil {
		panic(err)
	}
	p, err := Start(Command{Path: "sleep", Args: []string{"1000"}})
	if err != nil {
		panic(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode([]ID{self, p.ID()})
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Println(p.ID().Alive(), p.ID().Signal(unix.SIGTERM))
	fmt.Println(p.ID().Wait(context.Background()))
	<-p.Done()
	fmt.Println(p.Err())
}

// starterProcess runs the test binary as TestMain's starter.
func starterProcess(t *testing.T, attr *syscall.SysProcAttr) (self, sleep ID, cmd *exec.Cmd, in io.Closer, out *bufio.Reader) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_STARTER=1")
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	out = bufio.NewReader(stdout)
	line, err := out.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ids []ID
	if err := json.Unmarshal(line, &ids); err != nil {
		t.Fatal(err)
	}
	return ids[0], ids[1], cmd, stdin, out
}

func start(t *testing.T, c Command) *Program {
	t.Helper()
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func shell(script string) Command {
	return Command{Path: "/bin/sh", Args: []string{"-c", script}}
}

func TestExit(t *testing.T) {
	for _, test := range []struct{ script, want string }{
		{"exit 0", ""},
		{"exit 3", "sh: exit status 3"},
		{"echo no such machine >&2; exit 1", "sh: exit status 1: no such machine"},
		{"echo out; exit 1", "sh: exit status 1: out"},
		{"for i in 1 2 3 4 5; do echo line $i >&2; echo >&2; done; exit 1", "sh: exit status 1: line 3; line 4; line 5"},
		{`printf '\033[31mred\r\n' >&2; exit 1`, "sh: exit status 1: [31mred"},
		{"kill -9 $$", "sh: killed by SIGKILL"},
	} {
		p := start(t, shell(test.script))
		<-p.Done()
		got := ""
		if err := p.Err(); err != nil {
			got = err.Error()
			if exit := new(ExitError); !errors.As(err, &exit) {
				t.Errorf("%s: %T is no *ExitError", test.script, err)
			}
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.script, got, test.want)
		}
	}
}

func TestStartMissing(t *testing.T) {
	_, err := Start(Command{Path: "/nowhere/program"})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "start program: ") {
		t.Error(err)
	}
}

func TestLastWordsAreBounded(t *testing.T) {
	p := start(t, shell("seq 1 100000 >&2; exit 1"))
	<-p.Done()
	lines := p.Output()
	size := len(strings.Join(lines, "\n"))
	if size > lastWords || size < lastWords/2 || lines[len(lines)-1] != "100000" {
		t.Errorf("kept %d bytes, last line %q", size, lines[len(lines)-1])
	}
	for i, line := range lines { // whole lines only
		if want := fmt.Sprint(100000 - len(lines) + 1 + i); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
}

func TestOnlyNamedDescriptors(t *testing.T) {
	leak, err := unix.Dup(1) // without close-on-exec, as if inherited
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	c := shell("echo to three >&3; ls /proc/$$/fd; env | grep -v '^PWD='")
	c.Files = []*os.File{write}
	c.Env = []string{"A=b"}
	p := start(t, c)
	write.Close()
	said, err := io.ReadAll(read)
	if err != nil || string(said) != "to three\n" {
		t.Errorf("descriptor 3 carried %q, %v", said, err)
	}
	<-p.Done()
	if got := p.Output(); !slices.Equal(got, []string{"0", "1", "2", "3", "A=b"}) {
		t.Errorf("the program had %q", got)
	}
}

func TestKill(t *testing.T) {
	p := start(t, Command{Path: "sleep", Args: []string{"1000"}})
	if !p.ID().Alive() || p.Err() != nil {
		t.Error("not alive")
	}
	p.Kill()
	p.Kill()
	if exit := new(ExitError); !errors.As(p.Err(), &exit) || exit.Status.Signal() != syscall.SIGKILL {
		t.Error(p.Err())
	}
	if p.ID().Alive() {
		t.Error("alive after Kill")
	}
}

func TestGoneProcess(t *testing.T) {
	p := start(t, shell("exit 0"))
	<-p.Done()
	id := p.ID()
	if err := id.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal: %v", err)
	}
	if err := id.Wait(context.Background()); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if _, err := Identify(id.PID); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Identify: %v", err)
	}
}

func TestStrangerWithOurPID(t *testing.T) {
	p := start(t, Command{Path: "sleep", Args: []string{"1000"}})
	stranger := p.ID()
	stranger.StartTime++
	if stranger.Alive() {
		t.Error("alive")
	}
	if err := stranger.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal: %v", err)
	}
	if err := stranger.Wait(context.Background()); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if !p.ID().Alive() {
		t.Error("the stranger was hit")
	}
	for _, pid := range []int{0, -1} {
		if err := (ID{PID: pid}).Signal(unix.SIGKILL); err == nil {
			t.Errorf("signal %d: no error", pid)
		}
	}
}

func TestZombie(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := id.Wait(context.Background()); err != nil { // nobody has reaped it
		t.Error(err)
	}
	if again, err := Identify(id.PID); err != nil || again != id || id.Alive() {
		t.Errorf("zombie: %v, %v, alive %v", again, err, id.Alive())
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	p := start(t, Command{Path: "sleep", Args: []string{"1000"}})
	ctx, cancel := context.WithCancel(context.Background())
	waiting := make(chan error)
	go func() { waiting <- p.ID().Wait(ctx) }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	late, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	if err := p.ID().Wait(late); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestProgramDiesWithItsStarter(t *testing.T) {
	_, sleep, cmd, _, _ := starterProcess(t, nil)
	if !sleep.Alive() {
		t.Fatal("not alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := sleep.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}

// A keeper can be in a pid namespace of its own while it sees the host's /proc: needs root.
func TestInsidePIDNamespace(t *testing.T) {
	self, sleep, cmd, in, out := starterProcess(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID})
	if self.PID != cmd.Process.Pid {
		t.Errorf("Self is %v, want pid %d", self, cmd.Process.Pid)
	}
	if again, err := Identify(sleep.PID); err != nil || again != sleep {
		t.Errorf("from outside its program is %v, %v, inside %v", again, err, sleep)
	}
	in.Close()
	said, err := io.ReadAll(out)
	if want := "true <nil>\n<nil>\nsleep: killed by SIGTERM\n"; err != nil || string(said) != want {
		t.Errorf("got %q, %v, want %q", said, err, want)
	}
}
