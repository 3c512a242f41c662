package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"
)

var killCommand = &cli.Command{
	Name:      "kill",
	Usage:     "send a signal (default SIGTERM) to the container's init process",
	ArgsUsage: "ID [SIGNAL]",
	Flags: []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "signal every process of the container"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		if cmd.NArg() > 2 {
			return fmt.Errorf("kill: at most an id and a signal, not %d arguments", cmd.NArg())
		}
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		name := cmd.Args().Get(1)
		if name == "" {
			name = "SIGTERM"
		}
		signal, err := parseSignal(name)
		if err != nil {
			return err
		}
		return c.Kill(ctx, signal, cmd.Bool("all"))
	},
}

// parseSignal reads a signal's number or its name, with or without SIG, in any case.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("invalid signal %q", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}
