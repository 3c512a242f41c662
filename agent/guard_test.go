package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
)

// What the rehearsal's container has is what the kept program is for.
func TestRehearsalHasUsualDevices(t *testing.T) {
	text, err := json.Marshal(rehearsalSpec("/run/network"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), protocol.UsualDevices) != 1 {
		t.Errorf("%s\nhas not just one %s", text, protocol.UsualDevices)
	}
}

// allowAll loads a program that allows every device: r0 = 1; exit (linux/bpf.h, struct bpf_insn).
func allowAll(t *testing.T) int {
	t.Helper()
	code := [16]byte{0: unix.BPF_ALU64 | unix.BPF_MOV, 4: 1, 8: unix.BPF_JMP | unix.BPF_EXIT}
	license := [4]byte{'G', 'P', 'L'}
	load := struct {
		kind, count         uint32
		instructions, terms *byte
	}{unix.BPF_PROG_TYPE_CGROUP_DEVICE, 2, &code[0], &license[0]}
	program, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	if err != nil {
		t.Fatal("load program:", err)
	}
	t.Cleanup(func() { unix.Close(program) })
	return program
}

// The program of the rehearsal's container is that of later ones with the same rules, and of no others.
func TestGuard(t *testing.T) {
	tree := t.TempDir()
	if err := unix.Mount("cgroup2", tree, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(tree, unix.MNT_DETACH) })
	top := filepath.Join(tree, fmt.Sprintf("hyper-guard-test-%d", os.Getpid()))
	t.Cleanup(func() {
		for _, name := range []string{"rehearsal", "guard", "usual", "other", "."} {
			unix.Rmdir(filepath.Join(top, name))
		}
	})
	if err := attachGuard(allowAll(t), filepath.Join(top, "rehearsal")); err != nil {
		t.Fatal(err)
	}
	want, err := guardOf(filepath.Join(top, "rehearsal"))
	if err != nil {
		t.Fatal(err)
	}
	const config = `{"linux":{"resources":{` + protocol.UsualDevices + `,"pids":{"limit":1}}}}`
	a := &Agent{config: Config{Cgroups: top}}
	if got, err := a.withGuard([]byte(config), "usual"); err != nil || string(got) != config {
		t.Errorf("without a program: %s, %v", got, err)
	}
	if err := a.keepGuard("rehearsal"); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(a.guard)
	unix.Rmdir(filepath.Join(top, "rehearsal"))

	const empty = `{"linux":{"resources":{"devices":[],"pids":{"limit":1}}}}`
	if got, err := a.withGuard([]byte(config), "usual"); err != nil || string(got) != empty {
		t.Errorf("usual rules: %s, %v", got, err)
	}
	if got, err := guardOf(filepath.Join(top, "usual")); err != nil || got != want {
		t.Errorf("usual rules: program %d, %v, want %d", got, err, want)
	}
	other := strings.Replace(config, "false", "true", 1)
	if got, err := a.withGuard([]byte(other), "other"); err != nil || string(got) != other {
		t.Errorf("other rules: %s, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(top, "other")); err == nil {
		t.Error("other rules: a cgroup was made")
	}
}
