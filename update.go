package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"
)

// maxResources is the most bytes that are read as resources.
const maxResources = 1 << 20

var updateCommand = &cli.Command{
	Name:      "update",
	Usage:     "change the limits of a container in its guest; the size of the virtual machine stays",
	ArgsUsage: "ID",
	Flags: []cli.Flag{
		&cli.StringFlag{Name: "resources", Aliases: []string{"r"}, Usage: "file with an OCI linux.resources object; - is stdin"},
	},
	Action: func(ctx context.Context, cmd *cli.Command) error {
		c, err := loadContainer(cmd)
		if err != nil {
			return err
		}
		resources, err := readResources(cmd.String("resources"))
		if err != nil {
			return err
		}
		return c.Update(ctx, resources)
	},
}

func readResources(path string) (*specs.LinuxResources, error) {
	file := os.Stdin
	switch path {
	case "":
		return nil, errors.New("update: --resources is required")
	case "-":
	default:
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		file = f
	}
	var r specs.LinuxResources
	if err := json.NewDecoder(io.LimitReader(file, maxResources)).Decode(&r); err != nil {
		return nil, fmt.Errorf("decode resources: %w", err)
	}
	return &r, nil
}
