package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// hookScript appends the hook's kind, its environment's word, whether the pid in the state has a network namespace of
// its own, and the state.
const hookScript = `state=$(cat); pid=$(echo "$state" | sed 's/.*"pid": *\([0-9]*\).*/\1/')
own=same; test "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/1/ns/net)" || own=own
echo "$1 $WORD $own $state" >>"$2"`

// recorder is a hook that records its call in a file.
func recorder(kind, file string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", hookScript, "sh", kind, file}, Env: []string{"WORD=word", "PATH=/usr/bin:/bin"}}
}

// hookCall is what a recorder wrote.
type hookCall struct {
	kind, word, net string
	state           specs.State
}

// readCalls reads a recorder's file.
func readCalls(t *testing.T, path string) []hookCall {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var calls []hookCall
	for line := range strings.Lines(string(text)) {
		words := strings.SplitN(line, " ", 4)
		call := hookCall{kind: words[0], word: words[1], net: words[2]}
		if err := json.Unmarshal([]byte(words[3]), &call.state); err != nil {
			t.Fatalf("state of hook %s: %v", line, err)
		}
		calls = append(calls, call)
	}
	return calls
}

// kinds lists the kinds of calls in order.
func kinds(calls []hookCall) []string {
	var all []string
	for _, call := range calls {
		all = append(all, call.kind)
	}
	return all
}

// Each hook runs once, in its order and time, with the right state on its stdin.
func TestHooks(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	log := h.Path("hooks")
	b := h.Sleeper()
	inside := filepath.Join(b.Rootfs, "hooks")
	b.AddAnnotation("org.example.key", "a value")
	b.Config.Hooks = &specs.Hooks{
		//lint:ignore SA1019 docker hangs its network on this kind
		Prestart:        []specs.Hook{recorder("prestart-1", log), recorder("prestart-2", log)},
		CreateRuntime:   []specs.Hook{recorder("createRuntime", log)},
		CreateContainer: []specs.Hook{recorder("createContainer", log)},
		StartContainer:  []specs.Hook{recorder("startContainer", "/hooks")},
		Poststop:        []specs.Hook{recorder("poststop-1", log), recorder("poststop-2", log)},
	}
	c := h.Create(b)
	want := []string{"prestart-1", "prestart-2", "createRuntime", "createContainer"}
	check := func(when string) []hookCall {
		t.Helper()
		calls := readCalls(t, log)
		if got := kinds(calls); !slices.Equal(got, want) {
			t.Fatalf("hooks after %s: %v, want %v", when, got, want)
		}
		return calls
	}
	check("create")
	if calls := readCalls(t, inside); len(calls) != 0 {
		t.Errorf("in the container after create: %v", calls)
	}

	c.Start()
	c.Stdout.Expect(t, "ready")
	check("start")
	if calls := readCalls(t, inside); len(calls) != 1 || calls[0].kind != "startContainer" || calls[0].state.ID != c.ID || calls[0].word != "word" {
		t.Errorf("in the container after start: %+v", calls)
	}

	h.OK("kill", c.ID, "KILL")
	c.Wait()
	check("the end")
	h.OK("delete", c.ID)
	want = append(want, "poststop-1", "poststop-2")
	for _, call := range check("delete") {
		net, pid, statuses := "own", c.Pid, []specs.ContainerState{specs.StateCreating, specs.StateCreated}
		if strings.HasPrefix(call.kind, "poststop") {
			net, pid, statuses = "same", 0, []specs.ContainerState{specs.StateStopped}
		}
		if call.kind == "createContainer" { // runs in the container's namespaces, and sees their pids
			net, pid = call.net, call.state.Pid
		}
		s := call.state
		if call.word != "word" || net == "own" && call.net != net || s.ID != c.ID || s.Pid != pid || s.Bundle != b.Dir || s.Version == "" ||
			s.Annotations["org.example.key"] != "a value" || !slices.Contains(statuses, s.Status) {
			t.Errorf("hook %s: word %q, net %s, state %+v", call.kind, call.word, call.net, s)
		}
	}
}

// What the specification says of times, states and failures, and runc 1.1 does otherwise.
func TestOursHooks(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	log := h.Path("hooks")
	b := h.Bundle("true")
	b.Config.Hooks = &specs.Hooks{
		//lint:ignore SA1019 docker hangs its network on this kind
		Prestart:      []specs.Hook{recorder("created", log)},
		CreateRuntime: []specs.Hook{recorder("creating", log)},
		Poststart:     []specs.Hook{recorder("running", log)},
		Poststop:      []specs.Hook{failingHook, recorder("stopped", log)},
	}
	c := h.Create(b)
	if got := fmt.Sprint(kinds(readCalls(t, log))); got != "[created creating]" {
		t.Errorf("hooks after create: %s", got)
	}
	c.Start()
	if got := fmt.Sprint(kinds(readCalls(t, log))); got != "[created creating running]" {
		t.Errorf("hooks after start: %s", got)
	}
	c.Wait()
	h.OK("delete", c.ID)
	if got := fmt.Sprint(kinds(readCalls(t, log))); got != "[created creating running stopped]" {
		t.Errorf("hooks after delete: %s", got)
	}
	for _, call := range readCalls(t, log) {
		if string(call.state.Status) != call.kind {
			t.Errorf("status is %s, want %s", call.state.Status, call.kind)
		}
	}
}

var failingHook = specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", "echo the reason >&2; exit 9"}}

func TestFailingHooks(t *testing.T) {
	t.Parallel()
	slow := specs.Hook{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: new(int)}
	*slow.Timeout = 1
	missing := specs.Hook{Path: "/no/such/hook"}
	cases := []struct {
		name  string
		hooks specs.Hooks
	}{
		//lint:ignore SA1019 docker hangs its network on this kind
		{"prestart", specs.Hooks{Prestart: []specs.Hook{failingHook}}},
		{"createRuntime", specs.Hooks{CreateRuntime: []specs.Hook{failingHook}}},
		{"createContainer", specs.Hooks{CreateContainer: []specs.Hook{failingHook}}},
		{"createRuntime too slow", specs.Hooks{CreateRuntime: []specs.Hook{slow}}},
		{"createRuntime missing", specs.Hooks{CreateRuntime: []specs.Hook{missing}}},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			h := harness.New(t)
			b := h.Shell("echo the process ran")
			b.Config.Hooks = &test.hooks
			c, r := h.TryCreate(b)
			if c != nil || !strings.Contains(r.Stderr, "hook") || strings.Contains(r.Stdout, "ran") {
				t.Errorf("create: %v, want a failure that names the hook", r)
			}
			if out := h.OK("list", "-q"); out != "" {
				t.Errorf("left: %q", out)
			}
		})
	}
	t.Run("startContainer", func(t *testing.T) { // start itself may have gone by when it fails
		h := harness.New(t)
		b := h.Shell("echo the process ran")
		b.Config.Hooks = &specs.Hooks{StartContainer: []specs.Hook{failingHook}}
		c := h.Create(b)
		h.Run("start", c.ID)
		if r := c.Wait(); r.Code == 0 || strings.Contains(r.Stdout, "ran") || !strings.Contains(r.Stderr, "the reason") {
			t.Errorf("container: %v", r)
		}
	})
}
