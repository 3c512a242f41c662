package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/keeper"
)

var eventsCommand = &cli.Command{
	Name:      "events",
	Usage:     "print the container's figures, as its guest counts them, and OOM kills as lines of JSON until it stops",
	ArgsUsage: "ID",
	Flags: []cli.Flag{
		&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "time between two lines of figures"},
		&cli.BoolFlag{Name: "stats", Usage: "print the figures once, now"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		if _, err := containerID(cmd); err != nil {
			return err
		}
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		out := json.NewEncoder(os.Stdout)
		if !cmd.Bool("stats") {
			return c.Events(ctx, cmd.Duration("interval"), func(e keeper.Event) error { return out.Encode(e) })
		}
		event, err := c.Stats(ctx)
		if err != nil {
			return err
		}
		return out.Encode(event)
	},
}
