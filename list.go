package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/keeper"
)

var listCommand = &cli.Command{
	Name:  "list",
	Usage: "list the containers below the root",
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "table or json"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "only ids"},
	},
	Action: func(_ context.Context, cmd *cli.Command) error {
		if cmd.IsSet("root") { // one that was asked for is there, or else misspelt; as with runc
			if _, err := os.Stat(rootDir(cmd)); err != nil {
				return err
			}
		}
		states, err := keeper.List(rootDir(cmd))
		if err != nil {
			return err
		}
		if cmd.Bool("quiet") {
			for _, s := range states {
				fmt.Println(s.ID)
			}
			return nil
		}
		switch format := cmd.String("format"); format {
		case "table":
			w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
			fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n",
					s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
			}
			return w.Flush()
		case "json":
			return json.NewEncoder(os.Stdout).Encode(states)
		default:
			return fmt.Errorf("invalid format option %q: table or json", format)
		}
	},
}
