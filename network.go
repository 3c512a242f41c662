package main

import (
	"context"

	"github.com/urfave/cli/v3"
)

var networkCommand = &cli.Command{
	Name:  "network",
	Usage: "the network of a virtual machine",
	Commands: []*cli.Command{
		{
			Name:      "refresh",
			Usage:     "make the guest's network the same as that of the container's network namespace, and return when it is",
			ArgsUsage: "ID",
			Action: func(ctx context.Context, cmd *cli.Command) error {
				c, err := loadContainer(cmd)
				if err != nil {
					return err
				}
				return c.RefreshNetwork(ctx)
			},
		},
	},
}
