package hypervisor

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
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
