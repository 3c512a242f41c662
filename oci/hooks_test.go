package oci

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestRunHooks(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	state := specs.State{Version: "1.0.2", ID: "c1", Status: specs.StateCreating, Pid: 7, Bundle: "/b", Annotations: map[string]string{"a": "b"}}
	err := RunHooks(t.Context(), "prestart", []specs.Hook{
		shell(`cat > "$OUT"; echo " $0" >> "$OUT"`, "OUT="+out),
		shell(`echo "$OUT" >> "$OUT"`, "OUT="+out),
	}, state)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	if want := string(raw) + " argument\n" + out + "\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunHooksError(t *testing.T) {
	second := 1
	tests := []struct {
		name  string
		hooks []specs.Hook
		want  string
	}{
		{"exit code", []specs.Hook{shell("true"), shell("echo out; printf err >&2; exit 3")},
			"error running createRuntime hook #1: exit status 3, stdout: out\n, stderr: err"},
		{"signal", []specs.Hook{shell("kill -9 $$")},
			"error running createRuntime hook #0: signal: killed, stdout: , stderr: "},
		{"missing", []specs.Hook{{Path: "/gone"}},
			"error running createRuntime hook #0: fork/exec /gone: no such file or directory, stdout: , stderr: "},
		{"timeout", []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second}},
			"error running createRuntime hook #0: hook ran past specified timeout of 1.0s"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := RunHooks(t.Context(), "createRuntime", test.hooks, specs.State{})
			if err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestRunHooksLeftBehind(t *testing.T) {
	// The hook ends at once, but leaves a process that holds its stdin, stdout and stderr.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pid := filepath.Join(t.TempDir(), "pid")
	start := time.Now()
	if err := RunHooks(ctx, "prestart", []specs.Hook{shell("sleep 30 & echo $! > " + pid)}, specs.State{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("waited %v for a process that the hook left behind", took)
	}
	if err := RunHooks(ctx, "poststop", []specs.Hook{shell("kill $(cat " + pid + ")")}, specs.State{}); err != nil {
		t.Error(err)
	}
}

func shell(script string, env ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script, "argument"}, Env: append(env, "PATH=/usr/bin:/bin")}
}
