package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}` + "\r\n"

// command is what the script sees of each command.
type command struct {
	Execute   string
	Arguments map[string]any
	ID        uint64
}

// connect returns a client whose QEMU is the given script. It greets and accepts the capabilities; then the script
// reads commands with next and writes lines with say.
func connect(t *testing.T, script func(next func() command, say func(format string, args ...any))) *Client {
	t.Helper()
	near, far := net.Pipe()
	var qemu sync.WaitGroup
	qemu.Go(func() {
		defer far.Close()
		lines := bufio.NewScanner(far)
		next := func() (c command) {
			if lines.Scan() {
				if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
					t.Errorf("command %q: %v", lines.Text(), err)
				}
			}
			return c
		}
		say := func(format string, args ...any) { fmt.Fprintf(far, format+"\r\n", args...) }
		_, _ = io.WriteString(far, greeting)
		say(`{"return": {}, "id": %d}`, next().ID)
		script(next, say)
	})
	c, err := New(context.Background(), near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); qemu.Wait() })
	return c
}

func TestGreeting(t *testing.T) {
	c := connect(t, func(next func() command, _ func(string, ...any)) { next() })
	if c.Version() != (Version{7, 2, 22}) {
		t.Errorf("version %v", c.Version())
	}
}

func TestBadGreeting(t *testing.T) {
	for _, test := range []struct{ says, want string }{
		{"", "read qmp greeting: EOF"},
		{"hello\n", "read qmp greeting: invalid character"},
		{`{"return": {}}` + "\n", "read qmp greeting: the first message is no greeting"},
		{strings.Repeat("x", MaxMessage+1), "read qmp greeting: bufio.Scanner: token too long"},
		{greeting, "qmp qmp_capabilities: EOF"},
		{greeting + `{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 1}` + "\n", "qmp qmp_capabilities: no"},
	} {
		near, far := net.Pipe()
		go func() {
			_, _ = io.WriteString(far, test.says)
			if strings.Contains(test.says, "QMP") {
				_, _ = bufio.NewReader(far).ReadString('\n')
			}
			far.Close()
		}()
		_, err := New(context.Background(), near)
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%.40q: got %v, want %s", test.says, err, test.want)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%.40q: the connection is open: %v", test.says, err)
		}
	}
}

func TestNoGreeting(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := New(ctx, near); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAnswersAreRoutedByID(t *testing.T) {
	const callers = 20
	c := connect(t, func(next func() command, say func(string, ...any)) {
		var commands []command
		for range callers {
			commands = append(commands, next())
		}
		for i := range commands { // the last first, with other things in between
			k := commands[callers-1-i]
			say(`{"event": "NOISE", "timestamp": {"seconds": 1, "microseconds": 2}}`)
			say(`{"return": "nobody asked", "id": 4000}`)
			say("")
			if int(k.Arguments["n"].(float64))%2 == 0 {
				say(`{"return": %v, "id": %d}`, k.Arguments["n"], k.ID)
			} else {
				say(`{"error": {"class": "GenericError", "desc": "%v is odd"}, "id": %d}`, k.Arguments["n"], k.ID)
			}
			say(`{"return": "again", "id": %d}`, k.ID)
		}
		next()
	})
	var all sync.WaitGroup
	for n := range callers {
		all.Go(func() {
			var got int
			err := c.Execute(context.Background(), "double", map[string]int{"n": n}, &got)
			var refused *Error
			if n%2 == 0 && (err != nil || got != n) {
				t.Errorf("%d: got %d, %v", n, got, err)
			}
			if n%2 == 1 && (!errors.As(err, &refused) || *refused != Error{"double", "GenericError", fmt.Sprintf("%d is odd", n)}) {
				t.Errorf("%d: %v", n, err)
			}
		})
	}
	all.Wait()
}

func TestAllWaitersWakeWhenQEMUEnds(t *testing.T) {
	const callers = 10
	for name, last := range map[string]string{"EOF": "", "token too long": strings.Repeat("x", MaxMessage+1), "invalid character": "{x}", "neither": `{"return": {}}`} {
		c := connect(t, func(next func() command, say func(string, ...any)) {
			for range callers {
				next()
			}
			if last != "" {
				say("%s", last)
			}
		})
		events, _ := c.Subscribe()
		var all sync.WaitGroup
		for range callers {
			all.Go(func() {
				if err := c.Execute(context.Background(), "wait", nil, nil); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
		all.Wait()
		<-c.Done()
		if _, open := <-events; open {
			t.Errorf("%s: events open", name)
		}
		if late, _ := c.Subscribe(); func() bool { _, open := <-late; return open }() {
			t.Errorf("%s: late events open", name)
		}
		if err := c.Execute(context.Background(), "late", nil, nil); !errors.Is(err, c.Err()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestContextEndsTheWaitForAnAnswer(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := connect(t, func(next func() command, say func(string, ...any)) {
		slow := next()
		cancel()
		quick := next()
		say(`{"return": 1, "id": %d}`, slow.ID) // its caller has gone
		say(`{"return": 2, "id": %d}`, quick.ID)
		next()
	})
	if err := c.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	var got int
	if err := c.Execute(context.Background(), "quick", nil, &got); err != nil || got != 2 {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestContextEndsAStalledWrite(t *testing.T) {
	release := make(chan struct{})
	c := connect(t, func(func() command, func(string, ...any)) { <-release })
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 3 { // one writes, the others wait for their turn
		all.Go(func() {
			err := c.Execute(ctx, "stalled", nil, nil)
			if !errors.Is(err, context.Canceled) && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	time.AfterFunc(time.Millisecond, cancel)
	all.Wait()
}

func TestEvents(t *testing.T) {
	c := connect(t, func(next func() command, say func(string, ...any)) {
		k := next()
		for i := range eventQueue + 1 {
			say(`{"event": "TICK", "data": {"n": %d}, "timestamp": {"seconds": 5, "microseconds": 7}}`, i)
		}
		say(`{"event": "LAST", "timestamp": {"seconds": -1, "microseconds": -1}}`)
		say(`{"return": {}, "id": %d}`, k.ID)
		next()
	})
	last, _ := c.Subscribe("LAST", "OTHER")
	stuck, _ := c.Subscribe()
	gone, cancel := c.Subscribe("TICK")
	cancel()
	cancel()
	if err := c.Execute(context.Background(), "go", nil, nil); err != nil {
		t.Fatal(err) // a reader that is stuck does not block commands
	}
	if e := <-last; e.Name != "LAST" || e.Data != nil {
		t.Errorf("got %v", e)
	}
	if _, open := <-gone; open {
		t.Error("an event after cancel")
	}
	n := 0
	for e := range stuck { // ends: what did not fit is not passed over
		if want := fmt.Sprintf(`{"n": %d}`, n); string(e.Data) != want || !e.Time.Equal(time.Unix(5, 7000)) {
			t.Fatalf("event %d: %s at %v", n, e.Data, e.Time)
		}
		n++
	}
	if n != eventQueue {
		t.Errorf("%d events", n)
	}
}

func TestCloseWakesCallers(t *testing.T) {
	asked := make(chan struct{})
	c := connect(t, func(next func() command, _ func(string, ...any)) { next(); close(asked); next() })
	go func() { <-asked; c.Close() }()
	if err := c.Execute(context.Background(), "wait", nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
