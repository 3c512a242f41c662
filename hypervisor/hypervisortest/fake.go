// Package hypervisortest has what tests need in place of real virtual machines: a fake QEMU, which is the test binary
// itself, kernels of a few dozen bytes, and the contract that the fake and the real QEMU both keep.
package hypervisortest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Mode is how a fake QEMU behaves.
type Mode string

// The modes of a fake QEMU.
const (
	Answering       Mode = "answering"        // as the real one does, as far as the contract goes
	Refusing        Mode = "refusing"         // answers each command with an error
	DyingAtStart    Mode = "dying-at-start"   // ends with a message before its greeting
	DyingInCommand  Mode = "dying-in-command" // ends in the middle of its first answer
	Hanging         Mode = "hanging"          // never greets
	Stalling        Mode = "stalling"         // starts the guest, and answers nothing after that
	NeverConnecting Mode = "never-connecting" // does not begin to save its state
	NeverSaving     Mode = "never-saving"     // does not come to an end of it
)

const prefix = "fake-qemu-"

// QEMU returns the path of a fake QEMU, for hypervisor.Machine.QEMU. The test's TestMain must call Main.
func QEMU(t testing.TB, mode Mode) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), prefix+string(mode))
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// Main plays QEMU, and exits, if this process was started by a path that QEMU returned; else it returns at once. The
// agent is what runs in the guest: it is called with the port once the vCPUs run. Nil means one that sends back what it
// gets.
func Main(agent func(port net.Conn)) {
	mode, ok := strings.CutPrefix(filepath.Base(os.Args[0]), prefix)
	if !ok {
		return
	}
	if agent == nil {
		agent = func(port net.Conn) { _, _ = io.Copy(port, port) }
	}
	f := fake{mode: Mode(mode), agent: agent, status: "prelaunch", devices: newDevices()}
	fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), f.run(os.Args[1:]))
	os.Exit(1)
}

type fake struct {
	mode                   Mode
	agent                  func(net.Conn)
	qmp, port, console     net.Conn
	input                  *socketReader // of qmp
	devices                *devices
	kernel                 string
	powered                sync.Once
	mu                     sync.Mutex // guards writing to qmp, status and migration
	status, migration      string
	negotiated, hasStarted bool
}

// run returns the error that ends QEMU; other ends exit on their way.
func (f *fake) run(args []string) error {
	if err := f.parse(args); err != nil {
		return err
	}
	switch f.mode {
	case DyingAtStart:
		return fmt.Errorf("this machine cannot be")
	case Hanging:
		select {}
	}
	f.say(`{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "fake"}, "capabilities": []}}`)
	f.input = &socketReader{conn: f.qmp.(*net.UnixConn)}
	lines := bufio.NewScanner(f.input)
	for lines.Scan() {
		var c struct {
			Execute   string
			ID        json.RawMessage
			Arguments arguments
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		f.answer(c.Execute, c.Arguments, c.ID)
	}
	select {} // as the real one: it goes on without its monitor
}

// parse takes from the arguments what the fake heeds.
func (f *fake) parse(args []string) error {
	for i := 0; i+1 < len(args); i++ {
		value := args[i+1]
		switch args[i] {
		case "-cpu":
			if model, _, _ := strings.Cut(value, ","); model == NoSuchCPU {
				return fmt.Errorf("unable to find CPU model '%s'", model)
			}
		case "-kernel":
			f.kernel = value
		case "-object":
			if err := makeMemory(value); err != nil {
				return err
			}
		case "-fsdev":
			if err := checkShare(value); err != nil {
				return err
			}
		case "-netdev":
			if err := f.devices.parseNetdev(value); err != nil {
				return err
			}
		case "-device":
			if err := f.devices.parseDevice(value); err != nil {
				return err
			}
		case "-chardev":
			var id string
			var fd int
			if _, err := fmt.Sscanf(strings.ReplaceAll(value, ",", " "), "socket id=%s fd=%d", &id, &fd); err != nil {
				return fmt.Errorf("chardev %s: %w", value, err)
			}
			file := os.NewFile(uintptr(fd), id)
			conn, err := net.FileConn(file)
			if err != nil {
				return fmt.Errorf("chardev %s: %w", value, err)
			}
			file.Close()
			switch id {
			case "qmp":
				f.qmp = conn
			case "agent":
				f.port = conn
			case "console":
				f.console = conn
			}
		}
	}
	if f.qmp == nil || f.port == nil || f.console == nil {
		return fmt.Errorf("a chardev is missing")
	}
	return nil
}

// checkShare looks for the share's directory, as QEMU does.
func checkShare(value string) error {
	_, err := os.Stat(property(value, "path"))
	return err
}

// property returns the value of that name in an option list, where ",," is a comma; empty if there is none.
func property(list, name string) string {
	const comma = "\x00"
	for _, pair := range strings.Split(strings.ReplaceAll(list, ",,", comma), ",") {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return strings.ReplaceAll(value, comma, ",")
		}
	}
	return ""
}

func (f *fake) answer(command string, args arguments, id json.RawMessage) {
	done := func() { f.say(`{"return": {}, "id": %s}`, id) }
	refuse := func(class, text string, args ...any) {
		f.say(`{"error": {"class": %q, "desc": %q}, "id": %s}`, class, fmt.Sprintf(text, args...), id)
	}
	if f.hasStarted {
		switch f.mode {
		case DyingInCommand:
			fmt.Fprintln(os.Stderr, "a bug in the emulator")
			_, _ = io.WriteString(f.qmp, `{"return": {`)
			os.Exit(1)
		case Stalling:
			return
		}
	}
	switch {
	case !f.negotiated && command == "qmp_capabilities":
		f.negotiated = true
		done()
	case !f.negotiated:
		refuse("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'")
	case f.mode == Refusing:
		refuse("GenericError", "refused")
	case command == "query-status":
		f.mu.Lock()
		status := f.status
		f.mu.Unlock()
		f.say(`{"return": {"status": %q, "singlestep": false, "running": %t}, "id": %s}`, status, status == "running", id)
	case command == "stop":
		f.enter("paused", "STOP")
		done()
	case command == "cont":
		f.hasStarted = true
		f.enter("running", "RESUME")
		done()
		f.powered.Do(f.powerOn)
	case command == "migrate-set-capabilities":
		done()
	case command == "migrate":
		done()
		go f.save(args.URI)
	case command == "query-migrate":
		f.mu.Lock()
		status := f.migration
		f.mu.Unlock()
		f.say(`{"return": {"status": %q}, "id": %s}`, status, id)
	case command == "migrate-incoming":
		done()
		go f.load(args.URI)
	case command == "quit":
		done()
		f.shutdown("host-qmp-quit", false)
	case command == "query-version":
		f.say(`{"return": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": "fake"}, "id": %s}`, id)
	case f.plug(command, args, id):
	default:
		refuse("CommandNotFound", "The command %s has not been found", command)
	}
}

// powerOn starts the guest: its kernel, and its agent.
func (f *fake) powerOn() {
	go func() {
		text, act := readKernel(f.kernel)
		_, _ = io.WriteString(f.console, text)
		for act == Repeat {
			_, _ = io.WriteString(f.console, text)
		}
		switch act {
		case PowerOff:
			f.shutdown("guest-shutdown", true)
		case Reset:
			f.shutdown("guest-reset", true)
		}
	}()
	go func() {
		f.event("VSERPORT_CHANGE", `{"open": true, "id": "agent"}`)
		f.agent(f.port)
	}()
}

func (f *fake) enter(status, event string) {
	f.mu.Lock()
	changed := f.status != status
	f.status = status
	f.mu.Unlock()
	if changed {
		f.event(event, "")
	}
}

func (f *fake) shutdown(reason string, guest bool) {
	f.event("SHUTDOWN", fmt.Sprintf(`{"guest": %t, "reason": %q}`, guest, reason))
	os.Exit(0)
}

func (f *fake) event(name, data string) {
	now := time.Now()
	if data != "" {
		data = `"data": ` + data + ", "
	}
	f.say(`{"timestamp": {"seconds": %d, "microseconds": %d}, %s"event": %q}`, now.Unix(), now.Nanosecond()/1000, data, name)
}

func (f *fake) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(f.qmp, format+"\r\n", args...)
}
