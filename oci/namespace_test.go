package oci

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNamespaces(t *testing.T) {
	got := Namespaces(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace, Path: "/run/netns/x"}, {Type: specs.UserNamespace},
		{Type: specs.MountNamespace}, {Type: specs.UTSNamespace, Path: "/proc/1/ns/uts"},
	}}})
	if want := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID); got.Flags != want {
		t.Errorf("flags %#x, want %#x", got.Flags, want)
	}
	want := []NamespacePath{{specs.NetworkNamespace, "/run/netns/x"}, {specs.UTSNamespace, "/proc/1/ns/uts"}}
	if len(got.Join) != 2 || got.Join[0] != want[0] || got.Join[1] != want[1] {
		t.Errorf("join %v, want %v", got.Join, want)
	}
}

func TestEnter(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		kind specs.LinuxNamespaceType
		path string
		want string // part of the error; empty: none
	}{
		{specs.IPCNamespace, "/proc/self/ns/ipc", ""},
		{specs.MountNamespace, "/proc/self/ns/mnt", ""},
		{specs.IPCNamespace, "/proc/self/ns/cgroup", "is not a ipc namespace"},
		{specs.MountNamespace, "/proc/self/ns/ipc", "is not a mount namespace"},
		{specs.NetworkNamespace, "/proc/self/ns/mnt", "is not a network namespace"},
		{specs.PIDNamespace, "/proc/self/ns/net", "is not a pid namespace"},
		{specs.CgroupNamespace, "/proc/self/ns/uts", "is not a cgroup namespace"},
		{specs.NetworkNamespace, "/proc/self/ns/net", "host network is not supported"},
		{specs.NetworkNamespace, "/run/netns/gone-xyz", "no such file or directory"},
		{specs.NetworkNamespace, "/dev/null", "is not a namespace"},
		{specs.NetworkNamespace, fifo, "is not a namespace"},
	}
	for _, test := range tests {
		t.Run(string(test.kind)+test.path, func(t *testing.T) {
			err := inThread(t, NamespacePath{test.kind, test.path}.Enter)
			if test.want == "" && err != nil {
				t.Error(err)
			}
			if test.want != "" {
				wantError(t, err, test.want)
			}
		})
	}
}

func TestEnterOtherNetwork(t *testing.T) {
	path := make(chan string)
	done := make(chan struct{})
	defer close(done)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		self, err := os.Readlink("/proc/thread-self")
		if err != nil {
			t.Error(err)
		}
		path <- "/proc/" + self + "/ns/net"
		<-done
	}()
	ns := NamespacePath{specs.NetworkNamespace, <-path}
	if err := inThread(t, func() error {
		if err := ns.Enter(); err != nil {
			return err
		}
		joined, err := os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		if want, err := os.Readlink(ns.Path); joined != want {
			t.Errorf("in %s, want %s, %v", joined, want, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// inThread runs f in a thread that is given up afterwards.
func inThread(t *testing.T, f func() error) error {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// A thread that enters a mount namespace by its path is in it, and the process's others are not.
func TestEnterMounts(t *testing.T) {
	holder := exec.Command("unshare", "--mount", "sh", "-c", "echo up; read wait")
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	defer in.Close()
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	path := ProcessNamespace(specs.MountNamespace, holder.Process.Pid).Path
	inside := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := EnterMounts(path); err != nil {
			t.Error(err)
		}
		inside <- NamespacePath{specs.MountNamespace, "/proc/thread-self/ns/mnt"}.Is(NamespacePath{specs.MountNamespace, path})
	}()
	if !<-inside {
		t.Error("the thread is elsewhere")
	}
	if (NamespacePath{specs.MountNamespace, "/proc/thread-self/ns/mnt"}).Is(NamespacePath{specs.MountNamespace, path}) {
		t.Error("another thread is there, too")
	}
}
