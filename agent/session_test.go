package agent_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hyper-runtime/hyper/agent/client"
	"github.com/hyper-runtime/hyper/agent/protocol"
)

func TestLifecycle(t *testing.T) {
	g := newGuest(t)
	e := g.run("c", "sh", "-c", "echo out; echo err >&2; exit 7")
	if out, err := read(t, e.stdout), read(t, e.stderr); out != "out\n" || err != "err\n" {
		t.Errorf("stdout %q, stderr %q", out, err)
	}
	for range 2 { // repeatable
		if r := g.wait("c", ""); r.ExitCode != 7 || r.Signal != 0 || r.StdoutBytes != 4 || r.StderrBytes != 4 {
			t.Errorf("answer %v", r)
		}
	}
	g.delete("c", "")
	_, err := g.Wait(g.ctx, &protocol.WaitRequest{ContainerId: "c"})
	want(t, err, codes.NotFound, "container does not exist")
	g.run("c", "true") // the id is free again
	if r := g.wait("c", ""); r.ExitCode != 0 {
		t.Errorf("answer %v", r)
	}
}

// want checks an error's code and text.
func want(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || err == nil || err.Error() != text {
		t.Errorf("error %v %q, want %v %q", status.Code(err), err, code, text)
	}
}

// The exit names all output of the process, however short it lived.
func TestOutputBeforeExit(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	for i := range 30 {
		id := fmt.Sprint(i)
		e := g.exec("c", id, process("seq", "1", "3000"))
		r := g.wait("c", id)
		got := make([]byte, r.StdoutBytes)
		if _, err := io.ReadFull(e.stdout, got); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(got), "\n3000\n") || len(got) != 13893 {
			t.Fatalf("exec %d: %d bytes", i, len(got))
		}
		g.delete("c", id)
	}
}

func TestStreamsCarryBytesUnchanged(t *testing.T) {
	g := newGuest(t)
	e := g.run("c", "cat")
	const size = 64 << 20
	sent, got := sha256.New(), sha256.New()
	go func() {
		source := rand.NewChaCha8([32]byte{1})
		if _, err := io.CopyN(io.MultiWriter(e.stdin, sent), source, size); err != nil {
			t.Error(err)
		}
		e.stdin.CloseWrite()
	}()
	n, err := io.Copy(got, e.stdout)
	if err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if string(sent.Sum(nil)) != string(got.Sum(nil)) {
		t.Error("other bytes came back")
	}
	if r := g.wait("c", ""); r.StdoutBytes != size || r.ExitCode != 0 {
		t.Errorf("answer %v", r)
	}
}

// A program has time to come to its signal handlers, before it gets a signal that it would lose.
func TestSignalRightAfterStart(t *testing.T) {
	for _, test := range []struct {
		signal unix.Signal
		waits  bool
	}{{unix.SIGHUP, true}, {unix.SIGKILL, false}} {
		g := newGuest(t)
		g.create("c", process("sh", "-c", "trap 'exit 3' HUP; sleep 1000 & wait $!"))
		begin := time.Now()
		g.start("c")
		if err := g.kill("c", "", test.signal); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		if test.waits && took < 50*time.Millisecond {
			t.Errorf("%v after %v", test.signal, took)
		}
		r := g.wait("c", "")
		if test.waits != (r.ExitCode == 3) {
			t.Errorf("%v: %v", test.signal, r)
		}
	}
}

// A process that does not read its stdin does not keep the host from writing all of it.
func TestStdinNobodyReads(t *testing.T) {
	g := newGuest(t)
	e := g.run("c", "true")
	if _, err := e.stdin.Write(make([]byte, 4<<20)); err != nil {
		t.Error(err)
	}
	e.stdin.CloseWrite()
	g.wait("c", "")
}

// Somebody else may keep a process's stdout open after its exit.
func TestBackgroundHolder(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	e := g.exec("c", "x", process("sh", "-c", "sleep 1000 & echo hi"))
	if r := g.wait("c", "x"); r.StdoutBytes != 3 {
		t.Errorf("answer %v", r)
	}
	if got := line(t, e.stdout); got != "hi\n" {
		t.Errorf("stdout %q", got)
	}
	g.delete("c", "x")
	if got := read(t, e.stdout); got != "" {
		t.Errorf("after delete: %q", got)
	}
}

func TestStalledReader(t *testing.T) {
	g := newGuest(t)
	g.run("c", "yes") // nobody reads
	e := g.exec("c", "x", process("echo", "hi"))
	if got := read(t, e.stdout); got != "hi\n" {
		t.Errorf("stdout %q", got)
	}
	if err := g.kill("c", "", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := g.wait("c", "")
	if r.Signal != 9 || r.StdoutBytes == 0 || r.StdoutBytes > 1<<20 {
		t.Errorf("answer %v", r)
	}
	g.delete("c", "")
}

// What the host does not want any more the process cannot write any more.
func TestHostClosesOutput(t *testing.T) {
	g := newGuest(t)
	e := g.run("c", "yes")
	line(t, e.stdout)
	e.stdout.Close()
	if r := g.wait("c", ""); r.Signal != uint32(unix.SIGPIPE) && r.ExitCode != 1 {
		t.Errorf("answer %v", r)
	}
}

func TestTerminal(t *testing.T) {
	g := newGuest(t)
	p := process("sh", "-c", "stty size; read x; stty size; echo got $x; exit 3")
	p["terminal"], p["consoleSize"] = true, object{"width": 100, "height": 30}
	e := g.open()
	e.numbers.Stderr = 0
	if _, err := g.Create(g.ctx, g.createRequest("c", g.spec("c", p), e.numbers)); err != nil {
		t.Fatal(err)
	}
	g.start("c")
	if got := line(t, e.stdout); got != "30 100\r\n" {
		t.Errorf("size %q", got)
	}
	resize := &protocol.ResizeRequest{ContainerId: "c", Size: &protocol.Size{Width: 81, Height: 24}}
	if _, err := g.Resize(g.ctx, resize); err != nil {
		t.Fatal(err)
	}
	io.WriteString(e.stdin, "abc\n")
	if got := read(t, e.stdout); got != "abc\r\n24 81\r\ngot abc\r\n" {
		t.Errorf("stdout %q", got)
	}
	if r := g.wait("c", ""); r.ExitCode != 3 || r.StdoutBytes != 29 {
		t.Errorf("answer %v", r)
	}
}

func TestTerminalOfExec(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	for i := range 20 {
		id := fmt.Sprint(i)
		p := process("sh", "-c", "setsid sleep 1000 & seq 1 2000")
		p["terminal"] = true
		e := g.exec("c", id, p)
		r := g.wait("c", id) // before anything is read, and with a holder of the terminal left
		got := make([]byte, r.StdoutBytes)
		if _, err := io.ReadFull(e.stdout, got); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(got), "1\r\n") || !strings.HasSuffix(string(got), "\r\n2000\r\n") {
			t.Fatalf("exec %d: %d bytes, %q", i, len(got), got[max(0, len(got)-20):])
		}
		g.delete("c", id)
	}
}

func TestManyExecs(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			id := fmt.Sprint(i)
			e := g.exec("c", id, process("sh", "-c", "cat; exit "+id))
			io.WriteString(e.stdin, "in "+id)
			e.stdin.CloseWrite()
			if got := read(t, e.stdout); got != "in "+id {
				t.Errorf("exec %d: stdout %q", i, got)
			}
			if r := g.wait("c", id); r.ExitCode != uint32(i) {
				t.Errorf("exec %d: answer %v", i, r)
			}
			g.delete("c", id)
		})
	}
	all.Wait()
}

func TestSignals(t *testing.T) {
	g := newGuest(t)
	tests := []struct {
		name    string
		started bool
		signal  unix.Signal
		code    uint32
		by      uint32
	}{
		{"handled", true, unix.SIGTERM, 5, 0},
		{"not to be handled", true, unix.SIGKILL, 0, 9},
		{"before start", false, unix.SIGTERM, 0, 15},
		{"killed before start", false, unix.SIGKILL, 0, 9},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := g.create("c", process("sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done"))
			if test.started {
				g.start("c")
				line(t, e.stdout)
			}
			if err := g.kill("c", "", test.signal); err != nil {
				t.Fatal(err)
			}
			if r := g.wait("c", ""); r.ExitCode != test.code || r.Signal != test.by {
				t.Errorf("answer %v", r)
			}
			want(t, g.kill("c", "", unix.SIGTERM), codes.NotFound, "container not running")
			g.delete("c", "")
		})
	}
	g.run("c", "sleep", "1000")
	g.exec("c", "x", process("sleep", "1000"))
	if err := g.kill("c", "x", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if r := g.wait("c", "x"); r.Signal != 15 {
		t.Errorf("answer %v", r)
	}
	want(t, g.kill("c", "x", unix.SIGTERM), codes.NotFound, "no such process")
}

func TestSignalAll(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	g.exec("c", "x", process("sleep", "1000"))
	list, err := g.Processes(g.ctx, &protocol.ProcessesRequest{ContainerId: "c"})
	if err != nil || len(list.Pids) != 2 {
		t.Fatalf("processes %v, %v", list, err)
	}
	if _, err := g.Signal(g.ctx, &protocol.SignalRequest{ContainerId: "c", Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	if a, b := g.wait("c", ""), g.wait("c", "x"); a.Signal != 9 || b.Signal != 9 {
		t.Errorf("answers %v, %v", a, b)
	}
}

func TestPause(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	pause, resume := &protocol.PauseRequest{ContainerId: "c"}, &protocol.ResumeRequest{ContainerId: "c"}
	_, err := g.Resume(g.ctx, resume)
	want(t, err, codes.FailedPrecondition, "container not paused")
	if _, err := g.Pause(g.ctx, pause); err != nil {
		t.Fatal(err)
	}
	_, err = g.Pause(g.ctx, pause)
	want(t, err, codes.FailedPrecondition, "container already paused")
	_, err = g.Exec(g.ctx, g.execRequest("c", "x", process("true"), nil))
	want(t, err, codes.FailedPrecondition, "cannot exec in a paused container")
	if _, err := g.Resume(g.ctx, resume); err != nil {
		t.Fatal(err)
	}
	g.exec("c", "x", process("true"))
	g.wait("c", "x")
}

func TestUpdate(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	if _, err := g.Update(g.ctx, &protocol.UpdateRequest{ContainerId: "c", Resources: []byte(`{"pids":{"limit":7}}`)}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/sys/fs/cgroup/pids" + cgroup + "/c/pids.max")
	if string(text) != "7\n" {
		t.Errorf("pids.max %q, %v", text, err)
	}
}

func TestStates(t *testing.T) {
	g := newGuest(t)
	g.create("c", process("true"))
	_, err := g.Create(g.ctx, g.createRequest("c", g.spec("c", process("true")), nil))
	want(t, err, codes.AlreadyExists, "container with given ID already exists")
	_, err = g.Resize(g.ctx, &protocol.ResizeRequest{ContainerId: "c"})
	want(t, err, codes.FailedPrecondition, "process has no terminal")
	g.start("c")
	g.wait("c", "")
	_, err = g.Start(g.ctx, &protocol.StartRequest{ContainerId: "c"})
	want(t, err, codes.FailedPrecondition, "cannot start a container that has stopped")
	_, err = g.Exec(g.ctx, g.execRequest("c", "x", process("true"), nil))
	want(t, err, codes.FailedPrecondition, "cannot exec in a stopped container")
	_, err = g.Pause(g.ctx, &protocol.PauseRequest{ContainerId: "c"})
	want(t, err, codes.FailedPrecondition, "container not running")
	_, err = g.Wait(g.ctx, &protocol.WaitRequest{ContainerId: "c", ExecId: "x"})
	want(t, err, codes.NotFound, "exec process does not exist")
	want(t, g.kill("other", "", 9), codes.NotFound, "container does not exist")
	for _, id := range []string{"", ".", "..", "a/b"} {
		_, err := g.Create(g.ctx, g.createRequest(id, g.spec("c", process("true")), nil))
		want(t, err, codes.InvalidArgument, fmt.Sprintf("invalid container id %q", id))
	}
	g.run("d", "sleep", "1000")
	_, err = g.Start(g.ctx, &protocol.StartRequest{ContainerId: "d"})
	want(t, err, codes.FailedPrecondition, "cannot start an already running container")
	g.exec("d", "x", process("sleep", "1000"))
	_, err = g.Delete(g.ctx, &protocol.DeleteRequest{ContainerId: "d", ExecId: "x"})
	want(t, err, codes.FailedPrecondition, "exec process is still running")
	g.delete("d", "") // with both processes
}

// What engines make 126 and 127 of comes from create and exec, in the words that they look for.
func TestCommandsThatCannotRun(t *testing.T) {
	g := newGuest(t)
	g.run("c", "sleep", "1000")
	tests := []struct{ command, text string }{
		{"nothing", `exec: "nothing": executable file not found in $PATH`},
		{"/nothing", `exec: "/nothing": stat /nothing: no such file or directory`},
		{"./nothing", `exec: "./nothing": stat ./nothing: no such file or directory`},
		{"/etc/motd", `exec: "/etc/motd": permission denied`},
		{"/etc", `exec: "/etc": is a directory`},
		{"/etc/motd/x", `exec: "/etc/motd/x": stat /etc/motd/x: not a directory`},
	}
	for _, test := range tests {
		e := g.open()
		_, err := g.Create(g.ctx, g.createRequest("x", g.spec("x", process(test.command)), e.numbers))
		want(t, err, codes.Unknown, test.text)
		gone(t, e)
		e = g.open()
		_, err = g.Exec(g.ctx, g.execRequest("c", "x", process(test.command), e.numbers))
		want(t, err, codes.Unknown, test.text)
		gone(t, e)
		p := process(test.command)
		p["terminal"] = true
		_, err = g.Exec(g.ctx, g.execRequest("c", "x", p, nil))
		want(t, err, codes.Unknown, test.text)
	}
}

// gone checks that the streams of a process that did not start are closed, without a byte.
func gone(t *testing.T, e *ends) {
	t.Helper()
	for _, s := range []*client.Stream{e.stdin, e.stdout, e.stderr} {
		if got := read(t, s); got != "" {
			t.Errorf("stream has %q", got)
		}
	}
}

// After everything is deleted the agent holds no descriptor, process or file more than before.
func TestNothingIsLeft(t *testing.T) {
	g := newGuest(t)
	run := func() {
		e := g.run("c", "sh", "-c", "echo hi; cat")
		x := g.exec("c", "x", process("echo", "hi"))
		read(t, x.stdout)
		read(t, x.stderr)
		x.stdin.Close()
		g.wait("c", "x")
		g.delete("c", "x")
		e.stdin.Close()
		read(t, e.stdout)
		read(t, e.stderr)
		g.wait("c", "")
		g.delete("c", "")
	}
	count := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	run()
	before := count()
	for range 5 {
		run()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// Whoever waits for OOM kills is told when there can be no more.
func TestAwaitOOMUntilExit(t *testing.T) {
	g := newGuest(t)
	_, err := g.AwaitOOM(g.ctx, &protocol.AwaitOOMRequest{ContainerId: "c"})
	want(t, err, codes.NotFound, "container does not exist")
	g.run("c", "sleep", "1000")
	answered := make(chan error)
	go func() {
		r, err := g.AwaitOOM(g.ctx, &protocol.AwaitOOMRequest{ContainerId: "c"})
		if err == nil && (r.OomKills != 0 || g.wait("c", "").Signal != uint32(unix.SIGKILL)) {
			err = fmt.Errorf("answer %v", r)
		}
		answered <- err
	}()
	if err := g.kill("c", "", unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
