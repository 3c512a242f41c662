package docker_test

import (
	"syscall"
	"testing"
)

// testOOM checks that the engine learns of a process that the kernel has killed for memory: while the container runs,
// and when it was its first one.
func testOOM(t *testing.T, e *engine) {
	const script = "tail /dev/zero; echo $?; read line; exec tail /dev/zero"
	id := e.ok(t, "create", "-i", "--memory", "40m", image, "sh", "-c", script)
	events := e.In(t).Spawn(e.command("events", "--since", "0", "--filter", "container="+id, "--format", "{{.Action}}"))
	p := e.In(t).Spawn(e.command("start", "--attach", "--interactive", id))
	p.Stdout.Expect(t, "137\n")
	events.Stdout.Expect(t, "oom\n")
	if _, err := p.Stdin.WriteString("\n"); err != nil {
		t.Error(err)
	}
	if r := p.Wait(); r.Code != 137 {
		t.Errorf("start: %v", r)
	}
	if out := e.inspect(t, id, "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"); out != "exited 137 true" {
		t.Errorf("state: %q", out)
	}
	events.Stdout.Expect(t, "die\n")
	events.Signal(syscall.SIGTERM)
	events.Wait()
	e.ok(t, "rm", id)
}
