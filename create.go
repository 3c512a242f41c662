package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/keeper"
)

// createFlags are shared by create and run.
func createFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "directory of the bundle (default: the working directory)"},
		&cli.StringFlag{Name: "console-socket", Usage: "Unix socket that receives the master of the container's terminal"},
		&cli.StringFlag{Name: "pid-file", Usage: "file for the pid that stands for the container on the host"},
		&cli.BoolFlag{Name: "no-pivot", Usage: "accepted; the guest's root can always be pivoted"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "accepted; the guest's keyrings are not the host's"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "must be 0: a descriptor of the host cannot reach into a VM"},
	}
}

var createCommand = &cli.Command{
	Name:      "create",
	Usage:     "create a container in a virtual machine of its own, or in that of its pod",
	ArgsUsage: "ID",
	Flags:     createFlags(),
	Action: func(ctx context.Context, cmd *cli.Command) error {
		o, err := createOptions(cmd)
		if err != nil {
			return err
		}
		_, err = keeper.Create(ctx, o)
		return err
	},
}

// createOptions are the flags of create and run, and the configuration.
func createOptions(cmd *cli.Command) (o keeper.CreateOptions, err error) {
	id, err := containerID(cmd)
	if err != nil {
		return o, err
	}
	if cmd.Int("preserve-fds") != 0 {
		return o, errPreserveFDs
	}
	cfg, err := config.Load(cmd.String("config"))
	if err != nil {
		return o, err
	}
	bundle, err := filepath.Abs(cmd.String("bundle"))
	if err != nil {
		return o, fmt.Errorf("bundle: %w", err)
	}
	return keeper.CreateOptions{
		Root: rootDir(cmd), ID: id, Bundle: bundle, PidFile: cmd.String("pid-file"),
		ConsoleSocket: cmd.String("console-socket"), SystemdCgroup: cmd.Bool("systemd-cgroup"),
		Config: cfg, Debug: cmd.Bool("debug"),
	}, nil
}

var errPreserveFDs = errors.New("--preserve-fds is not supported: a descriptor of the host cannot reach into a virtual machine")
