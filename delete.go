package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/keeper"
)

var deleteCommand = &cli.Command{
	Name:      "delete",
	Usage:     "remove a stopped container and all that was made for it",
	ArgsUsage: "ID",
	Flags: []cli.Flag{
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill the container if it still runs; no error if there is none"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		id, err := containerID(cmd)
		if err != nil {
			return err
		}
		return keeper.Delete(ctx, rootDir(cmd), id, cmd.Bool("force"))
	},
}
