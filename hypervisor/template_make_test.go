package hypervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyper-runtime/hyper/hypervisor"
	"github.com/hyper-runtime/hyper/hypervisor/hypervisortest"
	"github.com/hyper-runtime/hyper/program"
)

func TestTwoMakersMakeOne(t *testing.T) {
	all, m := templates(t)
	other := m
	other.VCPUs++
	var atWork, made atomic.Int32
	ready := func(ctx context.Context, vm *hypervisor.VM) error {
		if atWork.Add(1) != 1 {
			t.Error("two makers are at work")
		}
		for range 100 { // a while
			if _, err := vm.Status(ctx); err != nil {
				return err
			}
		}
		made.Add(1)
		atWork.Add(-1)
		return nil
	}
	var makers sync.WaitGroup
	for i := range 8 {
		makers.Go(func() {
			m := []hypervisor.Machine{m, other}[i%2]
			if err := all.Make(t.Context(), m, hypervisor.NIC{}, ready); err != nil {
				t.Error(err)
			}
		})
	}
	makers.Wait()
	if made.Load() != 2 {
		t.Errorf("made %d templates, want 2", made.Load())
	}
	if list, err := all.List(); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

// While one maker is at work nobody wants another, and one that waits for it can give up.
func TestWaitForMakerEnds(t *testing.T) {
	all, m := templates(t)
	other := m
	other.VCPUs++
	err := all.Make(t.Context(), m, hypervisor.NIC{}, func(context.Context, *hypervisor.VM) error {
		expectWants(t, all, m, false)
		expectWants(t, all, other, false)
		expectKeys(t, all)
		if _, err := all.Use(m); !errors.Is(err, hypervisor.ErrNoTemplate) {
			t.Errorf("a half-made template: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := all.Make(ctx, other, hypervisor.NIC{}, atOnce); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	mustMake(t, all, other)
}

// templateProcess is what makes the test binary play a process with a template.
const templateProcess = "template-process"

// playTemplateProcess uses or makes a template, says so in a line, and waits to be killed.
func playTemplateProcess() {
	if len(os.Args) != 5 || os.Args[1] != templateProcess {
		return
	}
	var m hypervisor.Machine
	if err := json.Unmarshal([]byte(os.Args[4]), &m); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	all := hypervisor.Templates{Dir: os.Args[3], MaxMiB: 64}
	var err error
	if os.Args[2] == "use" {
		if _, err = all.Use(m); err == nil {
			fmt.Println(os.Getpid())
			select {}
		}
	} else {
		err = all.Make(context.Background(), m, hypervisor.NIC{}, func(_ context.Context, vm *hypervisor.VM) error {
			fmt.Println(vm.ID().PID)
			select {}
		})
	}
	fmt.Println(err)
	os.Exit(1)
}

// startTemplateProcess returns the process and the pid that it told.
func startTemplateProcess(t *testing.T, what string, all hypervisor.Templates, m hypervisor.Machine) (*exec.Cmd, int) {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", templateProcess, what, all.Dir, string(text))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		said, _ := io.ReadAll(out)
		t.Fatalf("%v: %s", err, said)
	}
	return cmd, pid
}

func TestKilledUserLetsGo(t *testing.T) {
	all, m := templates(t)
	all.MaxMiB = 0
	key := mustMake(t, all, m)
	cmd, _ := startTemplateProcess(t, "use", all, m)
	if err := all.Remove(key); !errors.Is(err, hypervisor.ErrInUse) {
		t.Error(err)
	}
	m.VCPUs++
	other := mustMake(t, all, m) // makes no room at the cost of the one in use
	if list, err := all.List(); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := all.Remove(key); err != nil {
		t.Error(err)
	}
	expectKeys(t, all, other)
}

func TestKilledMakerDoesNoHarm(t *testing.T) {
	all, m := templates(t)
	cmd, pid := startTemplateProcess(t, "make", all, m)
	qemu, err := program.Identify(pid)
	if err != nil {
		t.Fatal(err)
	}
	expectWants(t, all, m, false)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := qemu.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if left := names(t, all.Dir); len(left) != 2 || !strings.HasPrefix(left[1], ".making-") {
		t.Errorf("left are %q", left)
	}
	expectKeys(t, all)
	expectWants(t, all, m, true)
	if _, err := all.Use(m); !errors.Is(err, hypervisor.ErrNoTemplate) {
		t.Error(err)
	}
	key := mustMake(t, all, m)
	mustUse(t, all, m)
	if left := names(t, all.Dir); !slices.Equal(left, []string{".lock", key}) {
		t.Errorf("left are %q", left)
	}
}

// What has another name than its key is never used, though it be whole.
func TestHalfMadeIsNeverUsed(t *testing.T) {
	all, m := templates(t)
	key := mustMake(t, all, m)
	for _, name := range []string{".making-123", ".gone-" + key, ".gone-" + strings.Repeat("0", 24)} {
		if err := os.Rename(filepath.Join(all.Dir, key), filepath.Join(all.Dir, name)); err != nil {
			t.Fatal(err)
		}
		expectKeys(t, all)
		expectWants(t, all, m, true)
		if _, err := all.Use(m); !errors.Is(err, hypervisor.ErrNoTemplate) {
			t.Error(err)
		}
		mustMake(t, all, m)
		if left := names(t, all.Dir); !slices.Equal(left, []string{".lock", key}) {
			t.Errorf("left are %q", left)
		}
	}
	// And in the way of a removal it does not stand.
	if err := os.MkdirAll(filepath.Join(all.Dir, ".gone-"+key, "memory"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := all.Remove(key); err != nil {
		t.Error(err)
	}
}

func TestFailureIsNoted(t *testing.T) {
	all, m := templates(t)
	m.QEMU = hypervisortest.QEMU(t, hypervisortest.DyingAtStart)
	err := all.Make(t.Context(), m, hypervisor.NIC{}, atOnce)
	if err == nil || !strings.HasPrefix(err.Error(), "make template: QEMU did not start: ") {
		t.Error(err)
	}
	expectWants(t, all, m, false)
	left := names(t, all.Dir)
	if len(left) != 2 || !strings.HasPrefix(left[0], ".failed-") || left[1] != ".lock" {
		t.Fatalf("left are %q", left)
	}
	note := filepath.Join(all.Dir, left[0])
	if text, readErr := os.ReadFile(note); readErr != nil || string(text) != err.Error()+"\n" {
		t.Errorf("the note says %q, %v", text, readErr)
	}
	for _, test := range []struct {
		age  time.Duration
		want bool
	}{{9 * time.Minute, false}, {11 * time.Minute, true}} {
		then := time.Now().Add(-test.age)
		if err := os.Chtimes(note, then, then); err != nil {
			t.Fatal(err)
		}
		expectWants(t, all, m, test.want)
	}
	other := m
	other.VCPUs++
	expectWants(t, all, other, true)
}

// A note keeps nobody from trying by hand, and does not outlive a success.
func TestSuccessEndsTheNote(t *testing.T) {
	all, m := templates(t)
	refuse := func(context.Context, *hypervisor.VM) error { return errors.New("the guest does not like it") }
	if err := all.Make(t.Context(), m, hypervisor.NIC{}, refuse); err == nil || !strings.Contains(err.Error(), "the guest does not like it") {
		t.Error(err)
	}
	expectWants(t, all, m, false)
	key := mustMake(t, all, m)
	if left := names(t, all.Dir); !slices.Equal(left, []string{".lock", key}) {
		t.Errorf("left are %q", left)
	}
}

func TestCancelledMaker(t *testing.T) {
	all, m := templates(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := all.Make(ctx, m, hypervisor.NIC{}, func(ctx context.Context, _ *hypervisor.VM) error {
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	expectWants(t, all, m, true)
	if left := names(t, all.Dir); !slices.Equal(left, []string{".lock"}) {
		t.Errorf("left are %q", left)
	}
}

// The time limit ends a maker wherever its QEMU hangs.
func TestHangingMaker(t *testing.T) {
	for _, mode := range []hypervisortest.Mode{
		hypervisortest.Hanging, hypervisortest.Stalling, hypervisortest.NeverConnecting, hypervisortest.NeverSaving,
	} {
		all, m := templates(t)
		m.QEMU = hypervisortest.QEMU(t, mode)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := all.Make(ctx, m, hypervisor.NIC{}, atOnce)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", mode, err)
		}
		expectWants(t, all, m, false)
		expectKeys(t, all)
	}
}

func TestNoTemplateWithBalloon(t *testing.T) {
	all, m := templates(t)
	m.Balloon = true
	if err := all.Make(t.Context(), m, hypervisor.NIC{}, atOnce); err == nil || !strings.Contains(err.Error(), "balloon") {
		t.Error(err)
	}
}
