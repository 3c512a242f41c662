package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/hyper-runtime/hyper/oci"
)

var featuresCommand = &cli.Command{
	Name:  "features",
	Usage: "print what this runtime supports as JSON (runtime-spec, features.md)",
	Action: func(context.Context, *cli.Command) error {
		return printJSON(oci.Features())
	},
}
