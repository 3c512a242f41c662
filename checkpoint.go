package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"
)

// The flags are runc's, so that engines are told what is not supported instead of which flag is not known.
var checkpointCommand = &cli.Command{
	Name:      "checkpoint",
	Usage:     "not supported: save the state of a running container",
	ArgsUsage: "ID",
	Flags: append(criuFlags(),
		&cli.StringFlag{Name: "parent-path", Hidden: true},
		&cli.BoolFlag{Name: "leave-running", Hidden: true},
		&cli.BoolFlag{Name: "tcp-skip-in-flight", Hidden: true},
		&cli.BoolFlag{Name: "link-remap", Hidden: true},
		&cli.IntFlag{Name: "status-fd", Hidden: true},
		&cli.StringFlag{Name: "page-server", Hidden: true},
		&cli.BoolFlag{Name: "pre-dump", Hidden: true},
	),
	Action: func(_ context.Context, cmd *cli.Command) error {
		if _, err := containerID(cmd); err != nil {
			return err
		}
		if _, err := loadContainer(cmd); err != nil {
			return err
		}
		return errors.New("checkpoint is not supported: the container stays as it is")
	},
}

var restoreCommand = &cli.Command{
	Name:      "restore",
	Usage:     "not supported: make a container from a saved state",
	ArgsUsage: "ID",
	Flags: append(criuFlags(),
		&cli.StringFlag{Name: "console-socket", Hidden: true},
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Hidden: true},
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Hidden: true},
		&cli.StringFlag{Name: "pid-file", Hidden: true},
		&cli.BoolFlag{Name: "no-subreaper", Hidden: true},
		&cli.BoolFlag{Name: "no-pivot", Hidden: true},
		&cli.StringFlag{Name: "lsm-profile", Hidden: true},
		&cli.StringFlag{Name: "lsm-mount-context", Hidden: true},
	),
	Action: func(_ context.Context, cmd *cli.Command) error {
		if _, err := containerID(cmd); err != nil {
			return err
		}
		return errors.New("restore is not supported: no container was made")
	},
}

// criuFlags are those that both verbs have.
func criuFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "image-path", Hidden: true},
		&cli.StringFlag{Name: "work-path", Hidden: true},
		&cli.BoolFlag{Name: "tcp-established", Hidden: true},
		&cli.BoolFlag{Name: "ext-unix-sk", Hidden: true},
		&cli.BoolFlag{Name: "shell-job", Hidden: true},
		&cli.BoolFlag{Name: "lazy-pages", Hidden: true},
		&cli.BoolFlag{Name: "file-locks", Hidden: true},
		&cli.StringFlag{Name: "manage-cgroups-mode", Hidden: true},
		&cli.StringSliceFlag{Name: "empty-ns", Hidden: true},
		&cli.BoolFlag{Name: "auto-dedup", Hidden: true},
	}
}
