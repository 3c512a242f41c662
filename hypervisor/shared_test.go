package hypervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A copy has the template's data, and its holes.
func TestCopyMemory(t *testing.T) {
	const mib = 1 << 20
	for name, data := range map[string][]int{
		"empty":            nil,
		"at the beginning": {0},
		"in between":       {3, 5, 6, 11},
		"at the end":       {15},
		"everywhere":       {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	} {
		path := filepath.Join(t.TempDir(), "memory")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := file.Truncate(16 * mib); err != nil {
			t.Fatal(err)
		}
		for _, at := range data {
			if _, err := file.WriteAt(bytes.Repeat([]byte{byte('a' + at)}, mib), int64(at)*mib); err != nil {
				t.Fatal(err)
			}
		}
		memory, err := newMemory(16)
		if err != nil {
			t.Fatal(err)
		}
		defer memory.Close()
		if err := (&Template{memory: file}).copyMemory(memory); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16*mib)
		if _, err := memory.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: the copy is another, %v", name, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(memory.Fd()), &st); err != nil || st.Size != 16*mib || st.Blocks*512 != int64(len(data))*mib {
			t.Errorf("%s: the copy of %d MiB has %d bytes in %d blocks, %v", name, len(data), st.Size, st.Blocks, err)
		}
	}
}
