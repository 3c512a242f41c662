package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-tools/generate"
	"github.com/urfave/cli/v3"
)

var specCommand = &cli.Command{
	Name:  "spec",
	Usage: "write a config.json to start from",
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "directory of the bundle (default: the working directory)"},
	},
	Action: func(_ context.Context, cmd *cli.Command) error {
		if cmd.NArg() != 0 {
			return fmt.Errorf("spec: no arguments expected, got %d", cmd.NArg())
		}
		spec, err := defaultSpec()
		if err != nil {
			return err
		}
		raw, err := json.MarshalIndent(spec, "", "\t")
		if err != nil {
			return fmt.Errorf("encode spec: %w", err)
		}
		path := filepath.Join(cmd.String("bundle"), "config.json")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("file %s exists. Remove it first", path)
		}
		if err != nil {
			return err
		}
		_, err = f.Write(append(raw, '\n'))
		return errors.Join(err, f.Close())
	},
}

// defaultSpec is what runc's spec verb writes: the generator's default narrowed to an interactive shell with few rights.
func defaultSpec() (*specs.Spec, error) {
	g, err := generate.New("linux")
	if err != nil {
		return nil, fmt.Errorf("generate spec: %w", err)
	}
	g.SetRootReadonly(true)
	g.SetHostname("hyper")
	g.SetProcessTerminal(true)
	g.SetProcessNoNewPrivileges(true)
	g.ClearProcessCapabilities()
	for _, name := range []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"} {
		if err := errors.Join(
			g.AddProcessCapabilityBounding(name), g.AddProcessCapabilityEffective(name), g.AddProcessCapabilityPermitted(name),
		); err != nil {
			return nil, fmt.Errorf("generate spec: %w", err)
		}
	}
	g.AddMount(specs.Mount{
		Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
	})
	for _, path := range []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
	} {
		g.AddLinuxMaskedPaths(path)
	}
	for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		g.AddLinuxReadonlyPaths(path)
	}
	g.Config.Linux.Seccomp = nil
	return g.Config, nil
}
