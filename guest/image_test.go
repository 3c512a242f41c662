package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

// list reads an archive back: a line "mode size name" for each entry, and the files' contents.
func list(t *testing.T, archive []byte) ([]string, map[string]string) {
	t.Helper()
	var lines []string
	files := map[string]string{}
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lines, files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%06o %d %s", h.Mode, h.Size, h.Name))
		files[h.Name] = string(data)
		if h.Uid != 0 || h.Guid != 0 || h.ModTime.Unix() != 0 || h.Links != 1 {
			t.Errorf("%s: owner %d:%d, time %v, links %d", h.Name, h.Uid, h.Guid, h.ModTime, h.Links)
		}
	}
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTree(t *testing.T) {
	var tree Tree
	tree.File("usr/lib/b", []byte("two"), 0o644)
	tree.File("/init", []byte("x"), 0o755)
	tree.Dir("tmp", 0o1777)
	tree.File("tmp/../usr/a", nil, 0o600)
	tree.Dir("usr", 0o700)
	archive, err := tree.Archive()
	if err != nil {
		t.Fatal(err)
	}
	lines, files := list(t, archive)
	equal(t, lines, []string{
		"100755 1 init",
		"041777 0 tmp",
		"040700 0 usr",
		"100600 0 usr/a",
		"040755 0 usr/lib",
		"100644 3 usr/lib/b",
	})
	if files["usr/lib/b"] != "two" {
		t.Errorf("usr/lib/b has %q", files["usr/lib/b"])
	}
	if !bytes.HasPrefix(archive, []byte("070701")) {
		t.Errorf("not newc: %q", archive[:6])
	}
}

// inputs makes the files that an image is made from.
func inputs(t *testing.T) Image {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/vmlinuz", bzImage(gzipped(t, elfFile(t, pvhNote()))))
	write(t, dir+"/agent", []byte("agent"))
	write(t, dir+"/crun", elfFile(t, nil))
	return Image{Kernel: dir + "/vmlinuz", Agent: dir + "/agent", Crun: dir + "/crun"}
}

// withModules gives GuestModules to the image, half of them built in.
func withModules(t *testing.T, image Image) Image {
	t.Helper()
	builtin, files := "", map[string][]byte{}
	for i, name := range GuestModules {
		if i%2 == 0 {
			builtin += "kernel/" + name + ".ko\n"
		} else {
			files["kernel/"+name+".ko"] = module(t)
		}
	}
	image.Modules = moduleDir(t, builtin, files)
	return image
}

func build(t *testing.T, image Image) (kernel, initrd []byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "made", "here")
	if err := image.Build(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("%d files: %v", len(entries), entries)
	}
	for _, out := range []struct {
		name string
		data *[]byte
	}{{"kernel", &kernel}, {"initrd", &initrd}} {
		if *out.data, err = os.ReadFile(filepath.Join(dir, out.name)); err != nil {
			t.Fatal(err)
		}
	}
	return kernel, initrd
}

func TestBuild(t *testing.T) {
	image := inputs(t)
	kernel, initrd := build(t, image)
	if want := elfFile(t, pvhNote()); !bytes.Equal(kernel, want) {
		t.Errorf("kernel has %d bytes, want the extracted %d", len(kernel), len(want))
	}
	lines, _ := list(t, initrd)
	equal(t, lines, []string{
		"040755 0 bin",
		fmt.Sprintf("100755 %d bin/crun", len(elfFile(t, nil))),
		"040755 0 dev",
		"100755 5 init",
		"040755 0 proc",
		"040755 0 run",
		"040755 0 sys",
		"040755 0 tmp",
	})
}

func TestBuildIsDeterministic(t *testing.T) {
	image := withModules(t, inputs(t))
	_, first := build(t, image)
	_, second := build(t, image)
	if !bytes.Equal(first, second) {
		t.Error("the same inputs made different images")
	}
}

func TestBuildModules(t *testing.T) {
	_, initrd := build(t, withModules(t, inputs(t)))
	_, files := list(t, initrd)
	var want string
	for i, name := range GuestModules {
		if i%2 == 1 {
			want += name + ".ko\n"
		}
	}
	if files["modules/order"] != want {
		t.Errorf("order is\n%swant\n%s", files["modules/order"], want)
	}
	for name := range strings.FieldsSeq(want) {
		if files["modules/"+name] == "" {
			t.Errorf("modules/%s is not there", name)
		}
	}
}

func TestBuildSigned(t *testing.T) {
	image := withModules(t, inputs(t))
	path := filepath.Join(image.Modules, "kernel", GuestModules[1]+".ko")
	signed := string(module(t)) + "sig" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03~Module signature appended~\n"
	write(t, path, []byte(signed))
	for _, keep := range []bool{false, true} {
		image.Signed = keep
		_, initrd := build(t, image)
		_, files := list(t, initrd)
		if got := strings.HasSuffix(files["modules/"+GuestModules[1]+".ko"], "appended~\n"); got != keep {
			t.Errorf("Signed %v: the signature is there: %v", keep, got)
		}
	}
}

func TestBuildErrors(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*Image)
		want string
	}{
		{"no kernel", func(i *Image) { i.Kernel = "/nowhere" }, "read kernel: "},
		{"no agent", func(i *Image) { i.Agent = "/nowhere" }, "add agent: "},
		{"no crun", func(i *Image) { i.Crun = "/nowhere" }, "add crun: "},
		{"no modules", func(i *Image) { i.Modules = "/nowhere" }, "pick modules: "},
	} {
		image := inputs(t)
		test.edit(&image)
		dir := filepath.Join(t.TempDir(), "image")
		err := image.Build(dir)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", test.name)
		}
	}
}

func TestLibraries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "static")
	write(t, path, elfFile(t, nil))
	libraries, err := Libraries(path)
	if err != nil || len(libraries) != 0 {
		t.Errorf("static program: %v, %v", libraries, err)
	}

	libraries, err = Libraries("/bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	if len(libraries) < 2 || !strings.Contains(libraries[0], "/ld") {
		t.Errorf("/bin/ls needs %v, want the interpreter and the C library at least", libraries)
	}
	for _, library := range libraries {
		if _, err := os.Stat(library); err != nil {
			t.Error(err)
		}
	}

	if _, err := Libraries("/etc/passwd"); err == nil {
		t.Error("no error for a text file")
	}
}
