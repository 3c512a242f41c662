package main

import (
	"context"

	"github.com/urfave/cli/v3"
)

var pauseCommand = &cli.Command{
	Name:      "pause",
	Usage:     "freeze all processes of a container",
	ArgsUsage: "ID",
	Action: func(ctx context.Context, cmd *cli.Command) error {
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		return c.Pause(ctx)
	},
}

var resumeCommand = &cli.Command{
	Name:      "resume",
	Usage:     "let a paused container go on",
	ArgsUsage: "ID",
	Action: func(ctx context.Context, cmd *cli.Command) error {
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		return c.Resume(ctx)
	},
}
