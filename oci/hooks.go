package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxHookOutput is how much of a hook's output an error shows.
const maxHookOutput = 4 << 10

// RunHooks runs hooks of one kind ("createRuntime"), one after the other, each with the state on stdin, and stops at
// the first that fails (runtime-spec, config.md, POSIX-platform Hooks). A hook without env gets ours, as in runc, whose
// error text this has too.
func RunHooks(ctx context.Context, kind string, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode state for %s hooks: %w", kind, err)
	}
	for i, hook := range hooks {
		if err := runHook(ctx, hook, raw); err != nil {
			return fmt.Errorf("error running %s hook #%d: %w", kind, i, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, hook specs.Hook, state []byte) error {
	// Files, not pipes: a daemon that a hook leaves behind can hold a pipe open for ever.
	files := [3]*os.File{}
	for i := range files {
		file, err := memoryFile()
		if err != nil {
			return err
		}
		defer file.Close()
		files[i] = file
	}
	stdin, stdout, stderr := files[0], files[1], files[2]
	if _, err := stdin.Write(state); err != nil {
		return err
	}
	if _, err := stdin.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if hook.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*hook.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case hook.Timeout != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("hook ran past specified timeout of %.1fs", float64(*hook.Timeout))
	}
	return fmt.Errorf("%w, stdout: %s, stderr: %s", err, head(stdout), head(stderr))
}

func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("hook", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return os.NewFile(uintptr(fd), "hook"), nil
}

// head is the beginning of what was written to a file. It is for an error message: a read error gives less of it.
func head(file *os.File) string {
	buffer := make([]byte, maxHookOutput)
	n, _ := file.ReadAt(buffer, 0)
	return string(buffer[:n])
}
