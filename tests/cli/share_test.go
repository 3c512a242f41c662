package cli_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyper-runtime/hyper/tests/harness"
)

// ownKernel says whether the container's kernel is the one that has our patch of 9p (guest/kernel).
func ownKernel(c *harness.Container) bool {
	return strings.HasSuffix(strings.TrimSpace(c.Sh("uname -r")), "-hyper")
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// send gives the container's process one line, and waits until it has said "done" once more.
func send(t *testing.T, c *harness.Container, line string, count int) {
	t.Helper()
	if _, err := fmt.Fprintln(c.Stdin, line); err != nil {
		t.Fatal(err)
	}
	c.Stdout.ExpectCount(t, "done\n", count)
}

// What is appended to a file goes to its end, wherever the other side has moved that.
func TestAppendInTurn(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	h.WriteFile("src/old", "first\n", 0o644)
	h.WriteFile("src/other", "", 0o644)
	b := h.Shell(`exec 3>>/mnt/old 4>>/mnt/new 5<>/mnt/old; echo ready
		while read -r line; do echo "$line" >&3; echo "$line" >&4; echo done; done; sleep 1000`)
	b.Bind(h.Path("src"), "/mnt")
	c := h.StartNew(b)
	c.Stdout.Expect(t, "ready")
	old, made := h.Path("src/old"), h.Path("src/new")
	want := "guest 1\n"
	send(t, c, "guest 1", 1)
	if ownKernel(c) {
		for _, file := range []string{old, made} {
			appendTo(t, file, "host 1, a longer line\n")
		}
		send(t, c, "guest 2", 2)
		send(t, c, "guest 3", 3)
		want += "host 1, a longer line\nguest 2\nguest 3\n"
		if got := c.Sh("cat /mnt/old"); got != "first\n"+want {
			t.Errorf("the container reads %q", got)
		}
	}
	for file, want := range map[string]string{old: "first\n" + want, made: want} {
		if got := h.ReadFile(file); got != want {
			t.Errorf("%s: %q, want %q", filepath.Base(file), got, want)
		}
	}
	if ownKernel(c) {
		if err := os.Truncate(old, 0); err != nil { // as logrotate's copytruncate does
			t.Fatal(err)
		}
		send(t, c, "guest 4", 4)
		if got := h.ReadFile(old); got != "guest 4\n" {
			t.Errorf("after the host has emptied it: %q", got)
		}
	}
	// By any kernel, when a file that nobody has open is opened, its end is looked up.
	for n := range 2 {
		want := h.ReadFile(h.Path("src/other")) + "host\nguest\n"
		appendTo(t, h.Path("src/other"), "host\n")
		c.Sh("echo guest >>/mnt/other")
		if got := h.ReadFile(h.Path("src/other")); got != want {
			t.Errorf("opened anew, %d: %q, want %q", n, got, want)
		}
	}
}

// Files that programs map and write to, as databases do.
func TestSharedMapping(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	build := exec.Command("go", "build", "-o", h.Path("mapper"), "./testdata/mapper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	long := strings.Repeat(".", 5000)
	plain := h.WriteFile("src/plain", long, 0o644)
	appended := h.WriteFile("src/appended", long, 0o644)
	grown := h.WriteFile("src/grown", long+"first", 0o644)
	b := h.Bundle("/mapper", "watch", "/mnt/grown")
	b.Bind(h.Path("src"), "/mnt")
	b.Bind(h.Path("mapper"), "/mapper")
	c := h.StartNew(b)
	c.Stdout.Expect(t, `"first"`)
	c.Sh("/mapper write /mnt/plain mapped")
	if got, want := h.ReadFile(plain), "mapped"+long[6:]; got != want {
		t.Errorf("written by a mapping: %d bytes, %.20q…", len(got), got)
	}
	if !ownKernel(c) {
		return
	}
	c.Sh("/mapper append /mnt/appended mapped more")
	if got, want := h.ReadFile(appended), "mapped"+long[6:]+"more"; got != want {
		t.Errorf("written by a mapping and appended: %d bytes, %.20q…%.20q", len(got), got, got[min(5000, len(got)):])
	}
	appendTo(t, grown, long+"later")
	if _, err := fmt.Fprintln(c.Stdin); err != nil {
		t.Fatal(err)
	}
	c.Stdout.Expect(t, `"later"`)
}

// The host rewrites a file that the container knows, as engines do with /etc/hosts and people with a configuration.
func TestFileRewrittenOnHost(t *testing.T) {
	t.Parallel()
	h := harness.New(t)
	single := h.WriteFile("single", "one", 0o644)
	inDir := h.WriteFile("src/file", "one", 0o644)
	b := h.Shell("exec 3</mnt/file 4</single; cat <&3; cat <&4; echo ready; while read -r line; do cat /proc/self/fd/3 /proc/self/fd/4; echo done; done; sleep 1000")
	b.Bind(h.Path("src"), "/mnt")
	b.Bind(single, "/single")
	c := h.StartNew(b)
	c.Stdout.Expect(t, "oneoneready")
	texts := []string{"two, and longer"}
	if ownKernel(c) { // others never end to read a file that has become shorter while it is open
		texts = append(texts, "3", "four")
	}
	last := texts[len(texts)-1]
	for n, text := range texts {
		h.WriteFile("single", text, 0o644)
		h.WriteFile("src/file", text, 0o644)
		if got := c.Sh("cat /mnt/file /single"); got != text+text {
			t.Errorf("truncated and written: %q, want %q twice", got, text)
		}
		send(t, c, "", n+1)
		c.Stdout.Expect(t, text+text+"done\n")
	}
	for name, path := range map[string]string{"src": inDir, "": single} {
		if err := os.Rename(h.WriteFile(filepath.Join(name, "next"), "five", 0o644), path); err != nil {
			t.Fatal(err)
		}
	}
	// The bind mount of a file is that of what was there at first.
	if got := c.Sh("cat /mnt/file /single"); got != "five"+last {
		t.Errorf("replaced: %q", got)
	}
}
