package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bench is what all rows work with.
type bench struct {
	ctx      context.Context
	dir      string    // scratch, with a short path: sockets are in it
	hyper    string    // the binary
	machines []machine // that of the measured configuration, then one of each other kernel
	undos    []func() error
	ids      int
}

func newBench(ctx context.Context, hyper, config, others string) (b *bench, err error) {
	b = &bench{ctx: ctx}
	if b.hyper, err = filepath.Abs(hyper); err != nil {
		return nil, err
	}
	if err := hideUnified(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("/tmp", "bench"); err != nil {
		return nil, err
	}
	if err := b.prepare(config, others); err != nil {
		b.close(&err)
		return nil, err
	}
	return b, nil
}

// prepare makes what all rows need: the root file system, and a template for each machine.
func (b *bench) prepare(config, others string) (err error) {
	const script = `mkdir -p "$0"; cd "$0"; mkdir bin dev etc proc sys; cp /bin/busybox bin; for name in true sleep uname; do ln -s busybox bin/$name; done`
	if _, err := b.timed("sh", "-ec", script, b.path("rootfs")); err != nil {
		return err
	}
	if b.machines, err = b.findMachines(config, others); err != nil {
		return err
	}
	for _, m := range b.machines {
		if _, err := b.timed(b.hyperWith("", m.config).verb("template", "create")...); err != nil {
			return err
		}
	}
	return nil
}

// close removes the scratch directory and the templates.
func (b *bench) close(err *error) {
	*err = errors.Join(*err, os.RemoveAll(b.dir), os.RemoveAll(b.templateDir()))
}

// templateDir is on a tmpfs, as the default is, and our own: the first round of a run meets no template of another.
func (b *bench) templateDir() string { return filepath.Join("/dev/shm", filepath.Base(b.dir)) }

// unified is where the version 2 tree of cgroups is beside those of version 1.
const unified = "/sys/fs/cgroup/unified"

// hideUnified covers that tree with an empty tmpfs, in a mount namespace of this thread's own: crun 1.8 refuses to run
// on a host that has both. The tmpfs takes what runtimes think are cgroups there, and goes with the namespace.
func hideUnified() error {
	var fs unix.Statfs_t
	if unix.Statfs(unified, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("bench", unified, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("cover %s: %w", unified, err)
	}
	return nil
}

// later has f called when the row is done, the last one first.
func (b *bench) later(f func() error) { b.undos = append(b.undos, f) }

func (b *bench) undo(err *error) {
	for len(b.undos) > 0 {
		last := len(b.undos) - 1
		f := b.undos[last]
		b.undos = b.undos[:last]
		*err = errors.Join(*err, f())
	}
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// id is new in this run and hardly used by anyone else.
func (b *bench) id() string {
	b.ids++
	return fmt.Sprintf("%s-%d", filepath.Base(b.dir), b.ids)
}

// command is a command that gets SIGTERM when the benchmark is interrupted.
func (b *bench) command(argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(b.ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	return cmd
}

// timed runs a command and returns the time from its start to its end.
func (b *bench) timed(argv ...string) (time.Duration, error) {
	begin := time.Now()
	wait, err := b.start(argv...)
	if err == nil {
		err = wait()
	}
	return time.Since(begin), err
}

// start starts a command. Its input and output are /dev/null, and its errors go to a file: a pipe would be held open by
// what it leaves running.
func (b *bench) start(argv ...string) (wait func() error, err error) {
	log, err := os.CreateTemp(b.dir, "stderr")
	if err != nil {
		return nil, err
	}
	cmd := b.command(argv...)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return func() error {
		defer log.Close()
		if err := cmd.Wait(); err != nil {
			said, _ := os.ReadFile(log.Name()) // the command's failure is the news
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(said))
		}
		return os.Remove(log.Name())
	}, nil
}

// ociRuntime is an OCI runtime's command line up to the verb.
type ociRuntime struct {
	name string
	argv []string
}

// verb is the command line with a verb.
func (r ociRuntime) verb(args ...string) []string {
	return append(r.argv[:len(r.argv):len(r.argv)], args...)
}

// runtimes are hyper as it comes, which clones a template, hyper that boots every VM, runc and crun.
func (b *bench) runtimes() []ociRuntime {
	return []ociRuntime{
		b.hyperWith("hyper", b.machines[0].config),
		b.hyperWith("hyper-cold", b.machines[0].coldConfig),
		{"runc", []string{"runc", "--root", b.path("runc")}},
		{"crun", []string{"crun", "--root", b.path("crun")}},
	}
}

func (b *bench) hyperWith(name, config string) ociRuntime {
	return ociRuntime{name, []string{b.hyper, "--config", config, "--root", b.path("hyper")}}
}

// created is a container, and how long its making took.
type created struct {
	taken  time.Duration
	id     string
	pid    int // the host's process that stands for it
	remove func() error
}

func (b *bench) create(r ociRuntime, bundle string) (c created, err error) {
	c.id = b.id()
	pidFile := b.path(c.id + ".pid")
	c.remove = func() error {
		remove := r.verb("delete", "--force", c.id)
		out, err := exec.Command(remove[0], remove[1:]...).CombinedOutput() // after an interrupt, too
		if err != nil {
			return fmt.Errorf("delete %s: %w: %s", c.id, err, out)
		}
		return nil
	}
	if c.taken, err = b.timed(r.verb("create", "--bundle", bundle, "--pid-file", pidFile, c.id)...); err != nil {
		return c, err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return c, err
	}
	c.pid, err = strconv.Atoi(string(text))
	return c, err
}

// started makes a container that sleeps, which the row's end removes.
func (b *bench) started(r ociRuntime) (c created, err error) {
	bundle, err := b.bundle("sleep", "1000000")
	if err != nil {
		return c, err
	}
	if c, err = b.create(r, bundle); err != nil {
		return c, err
	}
	b.later(c.remove)
	_, err = b.timed(r.verb("start", c.id)...)
	return c, err
}

// bundle makes a bundle: runc's own example, with a busybox root file system and a process without a terminal.
func (b *bench) bundle(args ...string) (dir string, err error) {
	return b.bundleWith(func(*specs.Spec) {}, args...)
}

func (b *bench) bundleWith(change func(*specs.Spec), args ...string) (dir string, err error) {
	dir = b.path(b.id())
	config := filepath.Join(dir, "config.json")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if _, err := b.timed("runc", "spec", "--bundle", dir); err != nil {
		return "", err
	}
	text, err := os.ReadFile(config)
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("read spec: %w", err)
	}
	spec.Process.Terminal, spec.Process.Args, spec.Root.Path = false, args, b.path("rootfs")
	change(&spec)
	if text, err = json.Marshal(spec); err != nil {
		return "", fmt.Errorf("write spec: %w", err)
	}
	return dir, os.WriteFile(config, text, 0o644)
}
