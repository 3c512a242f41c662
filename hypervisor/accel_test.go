package hypervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestChooseAccel(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	device := write("kvm", "")
	intel := write("intel", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
	amd := write("amd", "flags\t\t: fpu svm\nflags\t\t: fpu svm\n")
	guest := write("guest", "model name\t: svm vmx\nflags\t\t: fpu vmx_not svm_lock\nbugs\t: vmx\n")
	arm := write("arm", "Features\t: fp asimd\n")
	missing := filepath.Join(dir, "missing")
	for _, test := range []struct {
		setting         string
		arch            Arch
		device, cpuinfo string
		want            Accel
		reason          string
	}{
		{"kvm", AMD64, missing, missing, KVM, "the configuration says so"},
		{"tcg", AMD64, device, intel, TCG, "the configuration says so"},
		{"auto", AMD64, device, intel, KVM, "the CPU has vmx"},
		{"auto", AMD64, device, amd, KVM, "the CPU has svm"},
		{"auto", AMD64, device, guest, TCG, "neither vmx nor svm"},
		{"auto", AMD64, device, missing, TCG, "no such file"},
		{"auto", AMD64, missing, intel, TCG, "no such file"},
		{"auto", ARM64, device, arm, KVM, "opens"},
		{"auto", ARM64, missing, arm, TCG, "no such file"},
	} {
		got, reason, err := chooseAccel(test.setting, test.arch, test.device, test.cpuinfo)
		if got != test.want || err != nil || !strings.Contains(reason, test.reason) {
			t.Errorf("%+v: got %s because %s, %v", test, got, reason, err)
		}
	}
	if _, _, err := ChooseAccel("xen"); err == nil {
		t.Error("xen was taken")
	}
}
