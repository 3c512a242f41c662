package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/keeper"
)

var templateCommand = &cli.Command{
	Name:  "template",
	Usage: "list, make and remove the templates that virtual machines start from",
	Commands: []*cli.Command{
		{
			Name:  "list",
			Usage: "list the templates, the least recently used first",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "table or json"},
			},
			Action: listTemplates,
		},
		{
			Name:  "create",
			Usage: "make the template of a machine of this size now",
			Flags: []cli.Flag{
				&cli.IntFlag{Name: "vcpus", Usage: "vCPUs (default: as for a container without limits)"},
				&cli.IntFlag{Name: "memory-mib", Usage: "MiB of the machine, its own need included (default: as for a container without limits)"},
			},
			Action: func(ctx context.Context, cmd *cli.Command) error {
				cfg, err := config.Load(cmd.String("config"))
				if err != nil {
					return err
				}
				return keeper.MakeTemplate(ctx, cfg, cmd.Int("vcpus"), cmd.Int("memory-mib"))
			},
		},
		{
			Name:      "remove",
			Usage:     "remove templates that no virtual machine uses",
			ArgsUsage: "KEY...",
			Flags:     []cli.Flag{&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all of them"}},
			Action:    removeTemplates,
		},
	},
}

func listTemplates(_ context.Context, cmd *cli.Command) error {
	cfg, err := config.Load(cmd.String("config"))
	if err != nil {
		return err
	}
	list, err := keeper.Templates(cfg).List()
	if err != nil {
		return err
	}
	switch format := cmd.String("format"); format {
	case "json":
		return printJSON(list)
	case "table":
	default:
		return fmt.Errorf("invalid format option %q: table or json", format)
	}
	w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "KEY\tMACHINE\tKERNEL\tMIB\tHITS\tAGE\tUSED\n")
	for _, t := range list {
		used := "never"
		if !t.Used.IsZero() {
			used = age(t.Used) + " ago"
		}
		fmt.Fprintf(w, "%s\t%s %d vCPUs %d MiB\t%s\t%d\t%d\t%s\t%s\n",
			t.Key, t.Machine.Accel, t.Machine.VCPUs, t.Machine.MemoryMiB, t.Machine.Kernel, t.Bytes>>20, t.Hits, age(t.Created), used)
	}
	return w.Flush()
}

func age(t time.Time) string { return time.Since(t).Round(time.Second).String() }

// removeTemplates removes what can be removed, and says of the rest why it stays.
func removeTemplates(_ context.Context, cmd *cli.Command) (failed error) {
	cfg, err := config.Load(cmd.String("config"))
	if err != nil {
		return err
	}
	templates := keeper.Templates(cfg)
	keys := cmd.Args().Slice()
	if cmd.Bool("all") {
		list, err := templates.List()
		if err != nil {
			return err
		}
		for _, t := range list {
			keys = append(keys, t.Key)
		}
	} else if len(keys) == 0 {
		return errors.New("template remove: a key, or --all")
	}
	for _, key := range keys {
		failed = errors.Join(failed, templates.Remove(key))
	}
	return failed
}
