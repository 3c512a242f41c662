package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// script is a program that crun finds and the kernel cannot run.
const script = "#!/missing\n"

func TestProgramThatCannotRun(t *testing.T) {
	g := newGuest(t)
	if err := os.WriteFile(filepath.Join(g.rootfs, "bin/script"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	g.run("c", "sleep", "1000")
	for _, test := range []struct {
		name            string
		exec            bool
		terminal, plain bool
		want            string
	}{
		{name: "init", want: "exec /bin/script: no such file or directory\n"},
		{name: "init with a terminal", terminal: true, want: "exec /bin/script: no such file or directory\r\n"},
		{name: "init with plain newlines", terminal: true, plain: true, want: "exec /bin/script: no such file or directory\n"},
		{name: "exec", exec: true, want: "exec script: no such file or directory\n"},
		{name: "exec with a terminal", exec: true, terminal: true, want: "exec script: no such file or directory\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, e := process("script"), g.open()
			p["terminal"], e.numbers.PlainNewlines = test.terminal, test.plain
			var end *protocol.WaitResponse
			if test.exec {
				if _, err := g.Exec(g.ctx, g.execRequest("c", "x", p, e.numbers)); err != nil {
					t.Fatal(err)
				}
				end = g.wait("c", "x")
				defer g.delete("c", "x")
			} else {
				if _, err := g.Create(g.ctx, g.createRequest("d", g.spec("d", p), e.numbers)); err != nil {
					t.Fatal(err)
				}
				g.start("d")
				end = g.wait("d", "")
				defer g.delete("d", "")
			}
			out, text, n := e.stderr, "", end.StderrBytes
			if test.terminal {
				out, n = e.stdout, end.StdoutBytes
			}
			if text = read(t, out); text != test.want || n != uint64(len(text)) || end.ExitCode == 0 {
				t.Errorf("it wrote %q of %d bytes, want %q; its end is %v", text, n, test.want, end)
			}
		})
	}
}

// hooked is a container with startContainer hooks, as shell scripts.
func (g *guest) hooked(id string, p object, scripts ...string) *ends {
	g.t.Helper()
	var spec object
	if err := json.Unmarshal(g.spec(id, p), &spec); err != nil {
		g.t.Fatal(err)
	}
	var hooks []object
	for i, s := range scripts {
		path := filepath.Join("/bin", id+string(rune('0'+i)))
		if err := os.WriteFile(filepath.Join(g.rootfs, path), []byte("#!/bin/sh\n"+s), 0o755); err != nil {
			g.t.Fatal(err)
		}
		hooks = append(hooks, object{"path": path})
	}
	spec["hooks"] = object{"startContainer": hooks}
	spec["annotations"] = object{"a": "b"}
	e := g.open()
	if _, err := g.Create(g.ctx, g.createRequest(id, encode(g.t, spec), e.numbers)); err != nil {
		g.t.Fatal(err)
	}
	return e
}

func TestStartWaitsForTheProgram(t *testing.T) {
	g := newGuest(t)
	g.hooked("c", process("sleep", "1000"), "sleep 1; echo >/began")
	g.start("c")
	if _, err := os.Stat(filepath.Join(g.rootfs, "began")); err != nil {
		t.Errorf("start has answered before the last hook ended: %v", err)
	}
}

func TestStartContainerHookFails(t *testing.T) {
	g := newGuest(t)
	for id, test := range map[string]struct{ script, want string }{
		"status": {"echo good; echo bad >&2; exit 3", "exit status 3, stdout: good, stderr: bad"},
		"signal": {"kill -SYS $$", "signal: bad system call, stdout: , stderr: "},
	} {
		e := g.hooked(id, process("echo", "hello"), "", test.script)
		g.start(id)
		end, want := g.wait(id, ""), "error running startContainer hook #1: "+test.want+"\n"
		if text := read(t, e.stderr); text != want || end.ExitCode == 0 {
			t.Errorf("%s: it wrote %q, want %q; its end is %v", id, text, want, end)
		}
		if text := read(t, e.stdout); text != "" {
			t.Errorf("%s: the program wrote %q", id, text)
		}
	}
}

// What a program says is its own, also when it looks like crun's.
func TestProgramThatTalksLikeTheRuntime(t *testing.T) {
	g := newGuest(t)
	const message = `{"msg":"exec container process ` + "`/x`" + `: No such file or directory","level":"error"}` + "\n"
	e := g.run("c", "sh", "-c", "echo '"+message[:len(message)-1]+"' >&2; exit 1")
	g.wait("c", "")
	if text := read(t, e.stderr); text != message {
		t.Errorf("it wrote %q, want %q", text, message)
	}
}
