package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/keeper"
	"github.com/hyper-runtime/hyper/oci"
)

var execCommand = &cli.Command{
	Name:         "exec",
	Usage:        "start one more process in a container",
	ArgsUsage:    "ID [COMMAND [ARG...]]",
	StopOnNthArg: &one,
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "file with an OCI process object, instead of a command"},
		&cli.StringFlag{Name: "cwd", Usage: "working directory in the container"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "environment variable (name=value)"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the process a terminal"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "uid[:gid]"},
		&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "further group ids"},
		&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "capability to add"},
		&cli.BoolFlag{Name: "no-new-privs", Usage: "forbid the process to gain privileges"},
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return when the process runs"},
		&cli.StringFlag{Name: "pid-file", Usage: "file for the pid that stands for the process on the host"},
		&cli.StringFlag{Name: "console-socket", Usage: "Unix socket that receives the master of the process's terminal"},
		&cli.StringFlag{Name: "process-label", Usage: "accepted; the guest has no SELinux"},
		&cli.StringFlag{Name: "apparmor", Usage: "accepted; the guest has no AppArmor"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "must be 0: a descriptor of the host cannot reach into a VM"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		status, err := runExec(ctx, cmd)
		if err != nil {
			return exitCode{code: 255, err: fmt.Errorf("exec failed: %w", err)}
		}
		if status != 0 {
			return exitCode{code: status}
		}
		return nil
	},
}

func runExec(ctx context.Context, cmd *cli.Command) (int, error) {
	if cmd.Int("preserve-fds") != 0 {
		return 0, errPreserveFDs
	}
	c, err := loadContainer(cmd)
	if err != nil {
		return 0, err
	}
	process, err := execProcess(cmd, c)
	if err != nil {
		return 0, err
	}
	if err := oci.CheckProcess(process); err != nil {
		return 0, err
	}
	return c.Exec(ctx, keeper.ExecOptions{
		Process: process, Detach: cmd.Bool("detach"), ConsoleSocket: cmd.String("console-socket"), PidFile: cmd.String("pid-file"),
	})
}

// execProcess is the process that --process or the flags describe. What the flags leave open is as for the container's
// own first process.
func execProcess(cmd *cli.Command, c *keeper.Container) (*specs.Process, error) {
	if path := cmd.String("process"); path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, fmt.Errorf("decode %s: %w", path, err)
		}
		return &p, nil
	}
	if cmd.NArg() < 2 {
		return nil, errors.New("process args cannot be empty")
	}
	p, err := c.Process()
	if err != nil {
		return nil, err
	}
	p.Args = cmd.Args().Tail()
	p.Terminal = cmd.Bool("tty")
	p.ConsoleSize = nil
	p.Env = append(p.Env, cmd.StringSlice("env")...)
	if cwd := cmd.String("cwd"); cwd != "" {
		p.Cwd = cwd
	}
	if cmd.Bool("no-new-privs") {
		p.NoNewPrivileges = true
	}
	addCapabilities(p, cmd.StringSlice("cap"))
	for _, gid := range cmd.Int64Slice("additional-gids") {
		if gid < 0 || gid > 1<<32-2 {
			return nil, fmt.Errorf("additional-gids must be between 0 and %d, not %d", uint32(1<<32-2), gid)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	if user := cmd.String("user"); user != "" {
		if err := setUser(p, user); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// addCapabilities adds them to the sets that runc adds them to.
func addCapabilities(p *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	for _, set := range []*[]string{
		&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Permitted, &p.Capabilities.Ambient,
	} {
		*set = append(slices.Clone(*set), names...)
	}
}

// setUser reads uid[:gid].
func setUser(p *specs.Process, user string) error {
	uid, gid, hasGid := strings.Cut(user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("parsing uid %q: not a number below 2^32", uid)
	}
	p.User.UID = uint32(n)
	if !hasGid {
		return nil
	}
	if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
		return fmt.Errorf("parsing gid %q: not a number below 2^32", gid)
	}
	p.User.GID = uint32(n)
	return nil
}
