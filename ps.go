package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"
)

// one is how many arguments ps and exec take for themselves; the rest is for ps(1) or the container.
var one = 1

var psCommand = &cli.Command{
	Name:         "ps",
	Usage:        "list the host's processes that stand for a container's",
	ArgsUsage:    "ID [ps options]",
	StopOnNthArg: &one,
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "table or json"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		pids, err := c.Processes(ctx)
		if err != nil {
			return err
		}
		switch format := cmd.String("format"); format {
		case "json":
			return json.NewEncoder(os.Stdout).Encode(pids)
		case "table":
			return printProcesses(ctx, pids, cmd.Args().Tail())
		default:
			return fmt.Errorf("invalid format option %q: table or json", format)
		}
	},
}

// printProcesses runs ps(1) and prints its head line and the lines of the pids, as runc does.
func printProcesses(ctx context.Context, pids []int, options []string) error {
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return fmt.Errorf("ps %s: %w", strings.Join(options, " "), err)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s: no column PID", strings.Join(options, " "))
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		if fields := strings.Fields(line); len(fields) > column {
			if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
				fmt.Println(line)
			}
		}
	}
	return nil
}
