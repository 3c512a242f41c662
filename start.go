package main

import (
	"context"

	"github.com/urfave/cli/v3"
)

var startCommand = &cli.Command{
	Name:      "start",
	Usage:     "let the process of a created container run",
	ArgsUsage: "ID",
	Action: func(ctx context.Context, cmd *cli.Command) error {
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		return c.Start(ctx)
	},
}
