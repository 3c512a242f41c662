package podman_test

import (
	"strings"
	"testing"
)

// TestPod makes a pod with two containers: one VM for all.
func TestPod(t *testing.T) {
	e := newEngine(t)
	pod := e.ok(t, "pod", "create", "--cgroup-parent", "/"+e.Token, "--infra-image", image,
		"--infra-command", "/bin/sleep 100000", "--share", "net,ipc,uts", "--hostname", "a-pod")
	server := e.ok(t, "run", "--detach", "--pod", pod, image, "sh", "-c", "trap 'exit 4' TERM; nc -ll -p 80 -e echo hello & wait $!")
	r := e.run(t, "run", "--rm", "--pod", pod, image, "sh", "-c",
		"for i in $(seq 100); do nc 127.0.0.1 80 </dev/null 2>/dev/null && break; sleep 0.1; done; hostname; echo shared >/dev/shm/x; exit 7")
	if r.Code != 7 || r.Stdout != "hello\na-pod\n" {
		t.Errorf("the second container left %v", r)
	}
	if got := e.ok(t, "exec", server, "cat", "/dev/shm/x"); got != "shared" {
		t.Errorf("/dev/shm: %q", got)
	}
	if strings.HasSuffix(e.Runtime.Path, "/hyper") {
		if vms := e.VMs(); len(vms) != 1 {
			t.Errorf("%d VMs for one pod", len(vms))
		}
	}
	e.expectOOM(t, "137", true, "run", "--detach", "--pod", pod, "--memory", "40m", image, "tail", "/dev/zero")
	e.ok(t, "stop", server)
	if got := e.ok(t, "wait", server); got != "4" {
		t.Errorf("the first container ended with %s", got)
	}
	e.ok(t, "start", server) // created again after its end
	e.ok(t, "exec", server, "true")
	e.ok(t, "pod", "stop", "--time", "20", pod)
	e.ok(t, "pod", "start", pod)
	e.ok(t, "exec", server, "true")
	e.ok(t, "pod", "rm", "--force", "--time", "0", pod)
}
