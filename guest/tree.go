package guest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// Tree is the file tree of an initramfs. The zero value is empty.
// Paths have no leading slash; one is removed where given.
type Tree struct {
	nodes map[string]node
}

type node struct {
	mode cpio.FileMode
	data []byte
}

// Dir adds a directory with the permission bits perm. The directories above it
// are added with 0755 unless they are there.
func (t *Tree) Dir(name string, perm cpio.FileMode) {
	t.add(name, node{mode: cpio.TypeDir | perm})
}

// File adds a file, and the directories above it.
func (t *Tree) File(name string, data []byte, perm cpio.FileMode) {
	t.add(name, node{mode: cpio.TypeReg | perm, data: data})
}

// Copy adds the host's file source under the given name.
func (t *Tree) Copy(name, source string, perm cpio.FileMode) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	t.File(name, data, perm)
	return nil
}

func (t *Tree) add(name string, n node) {
	if t.nodes == nil {
		t.nodes = map[string]node{}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t.nodes[dir]; !ok {
			t.nodes[dir] = node{mode: cpio.TypeDir | 0o755}
		}
	}
	t.nodes[name] = n
}

// Archive returns the tree as a cpio archive in the "newc" format, which is the
// one that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
// The entries are in the order of their names, so a directory comes before what is in
// it. Owner is root and times are zero: equal trees give equal bytes.
func (t *Tree) Archive() ([]byte, error) {
	var out bytes.Buffer
	w := cpio.NewWriter(&out)
	for i, name := range slices.Sorted(maps.Keys(t.nodes)) {
		n := t.nodes[name]
		header := &cpio.Header{Name: name, Mode: n.mode, Size: int64(len(n.data)), Inode: int64(i + 1), Links: 1}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("archive %s: %w", name, err)
		}
		if _, err := w.Write(n.data); err != nil {
			return nil, fmt.Errorf("archive %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end archive: %w", err)
	}
	return out.Bytes(), nil
}
