package program

import (
	"strings"
	"sync"
	"unicode"
)

// Tail is a writer that keeps the last Size bytes written to it. Its methods can be called at the same time.
type Tail struct {
	Size int // bytes

	mu   sync.Mutex
	data []byte
	cut  bool // data does not begin where a line does
}

// Write keeps p's end. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	keep := p[max(0, len(p)-t.Size):]
	if drop := len(t.data) + len(keep) - t.Size; drop > 0 || len(keep) < len(p) {
		t.data = append(t.data[:0], t.data[min(max(drop, 0), len(t.data)):]...)
		t.cut = true
	}
	t.data = append(t.data, keep...)
	return len(p), nil
}

// Lines returns the lines that are kept, the oldest first, without empty ones and without the one whose beginning is
// lost. What cannot be printed becomes a blank: programs repeat what strangers tell them.
func (t *Tail) Lines() []string {
	t.mu.Lock()
	text, cut := string(t.data), t.cut
	t.mu.Unlock()
	if cut {
		if _, rest, found := strings.Cut(text, "\n"); found {
			text = rest
		}
	}
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(strings.Map(printable, line))
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func printable(r rune) rune {
	if unicode.IsPrint(r) && r != unicode.ReplacementChar {
		return r
	}
	return ' '
}
