// Package program runs programs of the host: it starts one so that it cannot outlive its starter, knows a process
// again later, signals and stops it, and keeps its last words.
package program

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Command says what to start.
type Command struct {
	// Path is the binary. A name without a slash is looked up in PATH.
	Path string
	// Args follow the binary's name.
	Args []string
	// Env is the whole environment: what this process has is not passed on. Empty means none.
	Env []string
	// Dir is the working directory. Empty means this process's own.
	Dir string
	// Files become the program's descriptors 3, 4 and so on. They stay the caller's, to close after Start.
	Files []*os.File
}

// Program is a running, or ended, child process.
type Program struct {
	name string
	cmd  *exec.Cmd
	id   ID
	last Tail
	done chan struct{}
	err  error // valid once done is closed
}

// lastWords is how much of a program's output is kept, in bytes.
const lastWords = 8 << 10

// Start starts a program in a process group of its own, so that a terminal's ^C does not reach it. It gets SIGKILL when
// this process ends, however that ends. Standard input is /dev/null; of what it writes to standard output and standard
// error the last 8 KiB are kept. No descriptors but those and Command.Files reach it.
func Start(c Command) (*Program, error) {
	p := &Program{name: filepath.Base(c.Path), last: Tail{Size: lastWords}, done: make(chan struct{})}
	pidfd := -1
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env = append([]string{}, c.Env...) // nil would mean ours
	p.cmd.Dir = c.Dir
	p.cmd.ExtraFiles = c.Files
	p.cmd.Stdout, p.cmd.Stderr = &p.last, &p.last
	p.cmd.WaitDelay = time.Second // how long a grandchild that holds stderr can keep us waiting
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, PidFD: &pidfd}
	if err := onStarter(p.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	defer unix.Close(pidfd)
	// Nobody has waited for it yet, so it has its pid even if it has ended already.
	id, err := identifyPidfd(pidfd)
	if err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", p.name, err)
	}
	p.id = id
	go p.wait()
	return p, nil
}

func (p *Program) wait() {
	err := p.cmd.Wait()
	if state := p.cmd.ProcessState; state == nil {
		p.err = fmt.Errorf("wait for %s: %w", p.name, err)
	} else if status := state.Sys().(syscall.WaitStatus); status != 0 {
		p.err = &ExitError{Name: p.name, Status: status, Output: p.last.Lines()}
	}
	close(p.done)
}

// ID returns the program's identity.
func (p *Program) ID() ID { return p.id }

// Done is closed when the program has ended, has been waited for, and its output has been read.
func (p *Program) Done() <-chan struct{} { return p.done }

// Err returns nil while the program runs and after it exited with 0, else an *ExitError.
func (p *Program) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Output returns the last lines that the program wrote to standard output and standard error.
func (p *Program) Output() []string { return p.last.Lines() }

// Kill sends SIGKILL and returns when the program has ended. It does no harm to one that has.
func (p *Program) Kill() {
	_ = p.cmd.Process.Kill() // fails only for a process that has been waited for
	<-p.done
}

// ExitError says how a program ended, and what it last said.
type ExitError struct {
	Name   string // the binary's base name
	Status syscall.WaitStatus
	Output []string // the last lines of standard output and standard error
}

// Error returns one line with the last three lines of output in it.
func (e *ExitError) Error() string {
	text := e.Name + ": "
	if e.Status.Signaled() {
		text += "killed by " + unix.SignalName(e.Status.Signal())
	} else {
		text += fmt.Sprintf("exit status %d", e.Status.ExitStatus())
	}
	if n := len(e.Output); n > 0 {
		text += ": " + strings.Join(e.Output[max(0, n-3):], "; ")
	}
	return text
}

// starter is the thread that forks all programs. PR_SET_PDEATHSIG fires when the *thread* that forked ends
// (PR_SET_PDEATHSIG(2const)), and Go ends threads as it likes; this one is locked, and lives as long as the process.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// onStarter runs start on the starter's thread.
func onStarter(start func() error) error {
	result := make(chan error)
	starter() <- func() {
		// Descriptors that this process inherited without close-on-exec would go on to every child. Those that
		// Command.Files names are duplicated in the child, which clears the flag there (Linux 5.11).
		if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
			result <- fmt.Errorf("close_range: %w", err)
			return
		}
		result <- start()
	}
	return <-result
}
