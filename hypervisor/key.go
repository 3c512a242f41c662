package hypervisor

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Key names the template of a machine. It covers all that the state depends on: the machine, what this program makes of
// it for QEMU, the very files that it is made of, the host's processor, and the host's boot, after which clocks have
// another origin.
func (m Machine) Key() (string, error) {
	if err := m.Validate(); err != nil {
		return "", err
	}
	identity := struct {
		Machine Machine
		Args    []string
		Files   []string
		Host    string
	}{Machine: m.withDefaults(), Args: m.Args(Backends{Role: TemplateRole})}
	qemu, err := exec.LookPath(m.QEMU)
	if err != nil {
		return "", fmt.Errorf("template key: %w", err)
	}
	for _, path := range []string{qemu, m.Kernel, m.Initrd} {
		if path == "" {
			continue
		}
		id, err := fileIdentity(path)
		if err != nil {
			return "", fmt.Errorf("template key: %w", err)
		}
		identity.Files = append(identity.Files, id)
	}
	if identity.Host, err = hostIdentity(); err != nil {
		return "", fmt.Errorf("template key: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", identity)) // which quotes strings so that no two read alike
	return hex.EncodeToString(sum[:12]), nil
}

// fileIdentity changes whenever the file's content does: a write changes the time of the inode's change, which nobody
// can set back, a replacement the inode.
func fileIdentity(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%s %d:%d %d %d.%d", path, st.Dev, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec), nil
}

// hostIdentity is the host's boot, kernel and processor.
func hostIdentity() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	cpu, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	defer cpu.Close()
	text := []string{strings.TrimSpace(string(boot)), unix.ByteSliceToString(uts.Release[:])}
	lines := bufio.NewScanner(cpu)
	// Up to the empty line: the first processor tells enough, and a large host needs long to tell of all.
	for lines.Scan() && lines.Text() != "" {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(name) {
		case "model name", "microcode", "flags", "Features":
			text = append(text, strings.TrimSpace(value))
		}
	}
	return strings.Join(text, "\n"), lines.Err()
}
