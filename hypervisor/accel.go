package hypervisor

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hyper-runtime/hyper/program"
)

// ChooseAccel turns the setting "auto", "kvm" or "tcg" into an accelerator for this host, and says why in a few words.
// A name forces it. "auto" means KVM only when /dev/kvm opens and, on amd64, /proc/cpuinfo shows vmx or svm: inside
// some virtual machines /dev/kvm exists and opens, and still runs no ordinary guest.
func ChooseAccel(setting string) (Accel, string, error) {
	return chooseAccel(setting, Arch(runtime.GOARCH), "/dev/kvm", "/proc/cpuinfo")
}

func chooseAccel(setting string, arch Arch, device, cpuinfo string) (Accel, string, error) {
	switch setting {
	case string(KVM), string(TCG):
		return Accel(setting), "the configuration says so", nil
	case "auto":
	default:
		return "", "", fmt.Errorf("unknown accelerator %q", setting)
	}
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return TCG, err.Error(), nil
	}
	file.Close()
	if arch != AMD64 {
		return KVM, device + " opens", nil
	}
	info, err := os.ReadFile(cpuinfo)
	if err != nil {
		return TCG, err.Error(), nil
	}
	for line := range strings.Lines(string(info)) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range []string{"vmx", "svm"} {
			if slices.Contains(strings.Fields(flags), flag) {
				return KVM, device + " opens, and the CPU has " + flag, nil
			}
		}
		break // all CPUs have the same
	}
	return TCG, device + " opens, but the CPU shows neither vmx nor svm", nil
}

// MustTakeTurns tells whether all vCPUs have to run in one thread. Before 8.1 QEMU's TCG could translate an instruction
// that another vCPU was just replacing, and keep what it had seen (QEMU commit "accel/tcg: Always lock pages before
// translation"). Linux replaces its own in passing: with two vCPUs one boot in a hundred ended with "Oops: int3". A QEMU
// that does not tell its version counts as old.
func MustTakeTurns(accel Accel, vcpus int, qemu string) bool {
	if accel != TCG || vcpus == 1 {
		return false
	}
	p, err := program.Start(program.Command{Path: qemu, Args: []string{"--version"}})
	if err != nil {
		return true
	}
	defer p.Kill()
	select {
	case <-p.Done():
		return translatesCarelessly(strings.Join(p.Output(), "\n"))
	case <-time.After(versionTime):
		return true
	}
}

const versionTime = 10 * time.Second // that QEMU has to tell its version: a hang guard

// translatesCarelessly reads that from what QEMU says with --version.
func translatesCarelessly(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "QEMU emulator version %d.%d", &major, &minor); err != nil {
		return true
	}
	return major < 8 || major == 8 && minor < 1
}
