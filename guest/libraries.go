package guest

import (
	"debug/elf"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Libraries returns the absolute paths of the program interpreter and the shared
// libraries that a program needs; nothing for a static one. The interpreter
// itself says where they are (ld.so(8), --list).
func Libraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	interpreter := ""
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, fmt.Errorf("read interpreter: %w", err)
			}
			interpreter = strings.TrimRight(string(name), "\x00")
		}
	}
	if interpreter == "" {
		return nil, nil
	}
	out, err := exec.Command(interpreter, "--list", program).Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", interpreter, err)
	}
	libraries := []string{interpreter}
	// A line is "libc.so.6 => /lib/libc.so.6 (0x7f00)", "linux-vdso.so.1 (0x7f00)" or, for the
	// interpreter, "/lib64/ld-linux-x86-64.so.2 (0x7f00)".
	for line := range strings.Lines(string(out)) {
		if _, target, ok := strings.Cut(line, " => "); ok {
			path, _, _ := strings.Cut(strings.TrimSpace(target), " (")
			if path != interpreter {
				libraries = append(libraries, path)
			}
		}
	}
	return libraries, nil
}
