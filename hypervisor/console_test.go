package hypervisor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// feed gives the console all that fill writes, and returns when it has read it.
func feed(c *console, fill func(w io.Writer)) {
	r, w := io.Pipe()
	go func() { fill(w); w.Close() }()
	c.follow(r)
	<-c.done
}

// consoleFile is the size of one of a console's files in these tests, in bytes.
const consoleFile = 64 << 10

func TestConsoleKeepsTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	c, err := newConsole(path, 2*consoleFile)
	if err != nil {
		t.Fatal(err)
	}
	const lines = 50000
	feed(c, func(w io.Writer) {
		for i := range lines {
			fmt.Fprintf(w, "line %d\n", i)
		}
	})
	var kept string
	for _, name := range []string{path + ".1", path} {
		data, err := os.ReadFile(name)
		if err != nil || len(data) > consoleFile {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		kept += string(data)
	}
	if len(kept) < consoleFile {
		t.Errorf("only %d bytes are kept", len(kept))
	}
	first, _, _ := strings.Cut(kept[strings.Index(kept, "\n")+1:], "\n")
	var i int
	if _, err := fmt.Sscanf(first, "line %d", &i); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(kept[strings.Index(kept, "\n")+1:]) { // in order, without gaps
		if want := fmt.Sprintf("line %d\n", i); line != want {
			t.Fatalf("got %q, want %q", line, want)
		}
		i++
	}
	if i != lines {
		t.Errorf("the last line is %d", i-1)
	}
	memory := c.last.Lines()
	if memory[len(memory)-1] != fmt.Sprintf("line %d", lines-1) || len(memory) > consoleMemory/8 {
		t.Errorf("memory has %d lines", len(memory))
	}
}

// The guest waits for its console's reader: no trouble on the host's disk ends the reading.
func TestConsoleSurvivesItsDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newConsole(filepath.Join(dir, "console"), 2*consoleFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	feed(c, func(w io.Writer) {
		for range 3 {
			_, _ = w.Write(make([]byte, consoleFile))
		}
		_, _ = io.WriteString(w, "\nlast\n")
	})
	if lines := c.last.Lines(); len(lines) == 0 || lines[len(lines)-1] != "last" {
		t.Errorf("memory has %q", lines)
	}
	full, err := newConsole("/dev/full", 2*consoleFile)
	if err != nil {
		t.Fatal(err)
	}
	feed(full, func(w io.Writer) { _, _ = io.WriteString(w, "first\n"); _, _ = io.WriteString(w, "second\n") })
	if lines := full.last.Lines(); len(lines) != 2 {
		t.Errorf("memory has %q", lines)
	}
}

func TestConsoleFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "console")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if _, err := newConsole(link, 2*consoleFile); err == nil {
		t.Error("the link was followed")
	}
	if data, _ := os.ReadFile(target); string(data) != "precious" {
		t.Errorf("the target has %q", data)
	}
}
