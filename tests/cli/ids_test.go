package cli_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// Ids that could be taken for a path, a flag or a line end are refused before anything is made.
func TestBadIDs(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	b := h.Bundle("true")
	b.Write()
	ids := []string{"", ".", "..", "a/b", "/", "../x", "-flag", "--", strings.Repeat("x", 1025), "\xff\xfe", "a b", "a\nb", "a\x1b[31mb", "ä", "a=b", "*"}
	for _, id := range ids {
		for _, call := range [][]string{
			{"create", "--bundle", b.Dir, id}, {"run", "--bundle", b.Dir, id}, {"state", id}, {"start", id}, {"kill", id, "KILL"},
			{"delete", id}, {"exec", id, "true"}, {"ps", id},
		} {
			if r := h.Run(call...); r.Code == 0 {
				t.Fatalf("%q: %v, want a refusal", call, r)
			}
		}
		if entries, err := os.ReadDir(h.Root); err == nil && len(entries) > 0 {
			t.Fatalf("id %q left %v in the root", id, entries)
		}
	}
}

// All that an id may hold, at the length of a Kubernetes sandbox's, in a root whose path is longer than a Unix socket's.
func TestLongIDAndRoot(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	h.Root = h.Path(strings.Repeat("d", 60) + "/" + strings.Repeat("e", 60) + "/root")
	id := (h.Token + "_+-.Az09" + strings.Repeat("x", 76))[:76]
	c, r := h.CreateWritten(written(h.Shell("cat")), id)
	if c == nil {
		t.Fatalf("create: %v", r)
	}
	c.Start()
	if _, err := c.Stdin.WriteString("text"); err != nil {
		t.Error(err)
	}
	if out := c.Sh("echo exec"); out != "exec\n" {
		t.Errorf("exec: %q", out)
	}
	c.Stdin.Close()
	if r := c.Wait(); r.Code != 0 || r.Stdout != "text" {
		t.Errorf("container: %v", r)
	}
	h.OK("delete", id)
}

// Odd characters in every path that the runtime is given. Line ends are for those that others choose; the state root
// is the admin's.
func TestOddPaths(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	odd := "a b,c=d,,e\"f'g\\h:i%j\nk\tü$HOME;l"
	h.Root = h.Path(strings.NewReplacer("\n", "", "\t", "").Replace(odd) + "/root")
	b := h.Shell("cat /mnt/file")
	h.WriteFile(odd+"/src/file", "source\n", 0o644)
	dir := h.Path(odd + "/bundle")
	if err := os.Rename(b.Dir, dir); err != nil {
		t.Fatal(err)
	}
	b.Dir, b.Rootfs = dir, dir+"/rootfs"
	b.Bind(h.Path(odd+"/src"), "/mnt")
	b.AddAnnotation("org.example.odd", odd)
	b.Write()
	h.Flags = []string{"--log", h.Path(odd + "/log")}
	if r := h.Run("run", "--bundle", b.Dir, "--pid-file", h.Path(odd+"/pid"), h.ID()); r.Code != 0 || r.Stdout != "source\n" {
		t.Errorf("run: %v", r)
	}
	h.ReadPid(h.Path(odd + "/pid"))
}

// written writes a bundle and returns it.
func written(b *harness.Bundle) *harness.Bundle {
	b.Write()
	return b
}
