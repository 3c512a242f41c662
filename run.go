package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/keeper"
)

var runCommand = &cli.Command{
	Name:      "run",
	Usage:     "create a container, start it, and unless detached wait for it and delete it",
	ArgsUsage: "ID",
	Flags: append(createFlags(),
		&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return when the container runs"},
		&cli.BoolFlag{Name: "keep", Usage: "do not delete the container when it has exited"},
		&cli.BoolFlag{Name: "no-subreaper", Usage: "accepted; no subreaper is used"},
	),
	Action: func(ctx context.Context, cmd *cli.Command) error {
		o, err := createOptions(cmd)
		if err != nil {
			return err
		}
		status, err := keeper.Run(ctx, o, cmd.Bool("detach"), cmd.Bool("keep"))
		if err != nil {
			return err
		}
		if status != 0 {
			return exitCode{code: status}
		}
		return nil
	},
}
