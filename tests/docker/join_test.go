package docker_test

import (
	"strings"
	"testing"
)

// docker run --network, --ipc and --pid container:x: with the network of another container goes its VM, in which the
// rest can be shared too.
func TestDockerJoin(t *testing.T) {
	t.Parallel()
	e := startEngine(t)
	one := e.sleeper(t, "--ipc", "shareable")
	e.ok(t, "exec", one, "sh", "-c", "echo shared >/dev/shm/file")
	e.ok(t, "exec", "--detach", one, "sh", "-c", "echo hello | nc -l -p 7000; exec sleep 4321")

	two := e.sleeper(t, "--network", "container:"+one, "--ipc", "container:"+one, "--pid", "container:"+one)
	r := e.run(t, "exec", two, "sh", "-c", "until nc 127.0.0.1 7000 </dev/null 2>/dev/null; do sleep 0.1; done; cat /dev/shm/file; hostname; exit 3")
	if r.Code != 3 || r.Stdout != "hello\nshared\n"+one[:12]+"\n" {
		t.Errorf("exec in the second: %v", r)
	}
	if r := e.run(t, "exec", two, "ps", "-o", "args"); !strings.Contains(r.Stdout, "sleep 4321") {
		t.Errorf("processes of both: %v", r)
	}
	if n := len(e.VMs()); n != 1 {
		t.Errorf("%d VMs, want 1", n)
	}
	e.ok(t, "rm", "--force", two)
	if r := e.run(t, "exec", one, "cat", "/dev/shm/file"); r.Stdout != "shared\n" {
		t.Errorf("the first afterwards: %v", r)
	}
	if r := e.run(t, "run", "--rm", "--network", "container:"+one, image, "sh", "-c", "ls /dev/shm; exit 5"); r.Code != 5 || r.Stdout != "" {
		t.Errorf("with the network alone: %v", r)
	}
	if r := e.run(t, "run", "--rm", "--pid", "container:"+one, image, "true"); r.Code == 0 || !strings.Contains(r.Stderr, "not in the same VM") {
		t.Errorf("with the pid namespace alone: %v", r)
	}
}
