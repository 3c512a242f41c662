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

func TestTranslatesCarelessly(t *testing.T) {
	for version, want := range map[string]bool{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright": true,
		"QEMU emulator version 8.0.5":             true,
		"QEMU emulator version 8.1.0":             false,
		"QEMU emulator version 10.0.2 (Debian 1)": false,
		"another emulator":                        true,
		"":                                        true,
	} {
		if got := translatesCarelessly(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}

func TestMustTakeTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho QEMU emulator version 9.2.0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		accel Accel
		vcpus int
		qemu  string
		want  bool
	}{
		{TCG, 2, path, false}, {TCG, 2, "/bin/false", true}, {TCG, 2, "/missing", true},
		{TCG, 1, "/bin/false", false}, {KVM, 2, "/bin/false", false},
	} {
		if got := MustTakeTurns(test.accel, test.vcpus, test.qemu); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
