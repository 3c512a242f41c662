package harness

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// Output gathers what comes out of a pipe or terminal. A nil Output is an empty one.
type Output struct {
	mu    sync.Mutex
	text  []byte
	more  chan struct{} // closed and replaced when text grows
	ended chan struct{}
}

// Collect reads f to its end in the background, then closes it. A terminal's end is its EIO.
func Collect(f *os.File) *Output {
	o := &Output{more: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(o.ended)
		defer f.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			o.mu.Lock()
			o.text = append(o.text, buf[:n]...)
			close(o.more)
			o.more = make(chan struct{})
			o.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return o
}

// Text is what came so far.
func (o *Output) Text() string {
	if o == nil {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

// All waits for the end and returns everything.
func (o *Output) All(t testing.TB) string {
	t.Helper()
	if o == nil {
		return ""
	}
	select {
	case <-o.ended:
	case <-time.After(Patience):
		t.Fatalf("output does not end: someone still holds it; so far %q", o.Text())
	}
	return o.Text()
}

// Expect waits until the output holds the text.
func (o *Output) Expect(t testing.TB, want string) {
	t.Helper()
	o.ExpectCount(t, want, 1)
}

// ExpectCount waits until the output holds the text so many times.
func (o *Output) ExpectCount(t testing.TB, want string, n int) {
	t.Helper()
	guard := time.After(Patience)
	for {
		o.mu.Lock()
		text, more := string(o.text), o.more
		o.mu.Unlock()
		if strings.Count(text, want) >= n {
			return
		}
		select {
		case <-more:
		case <-o.ended:
			if strings.Count(o.Text(), want) < n {
				t.Fatalf("output ended without %q: %q", want, o.Text())
			}
		case <-guard:
			t.Fatalf("no %q in output: %q", want, o.Text())
		}
	}
}
