// Command hyper is an OCI runtime that runs each container in a virtual machine of its own. It takes runc's command
// line. Each verb is a file of this package: flags, one call, what is printed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/config"
	"github.com/hyper-runtime/hyper/keeper"
)

// version and commit are set by the linker.
var (
	version = "0.1.0"
	commit  = "unknown"
)

// exitCode is an error that has a status of its own; without Err nothing is printed.
type exitCode struct {
	code int
	err  error
}

func (e exitCode) Error() string { return e.err.Error() }

// init keeps the main goroutine of a process that stands for a container on the process's first thread: see keeper.Main.
func init() {
	if len(os.Args) > 1 && (os.Args[1] == keeper.Verb || os.Args[1] == keeper.MemberVerb) {
		runtime.LockOSThread()
	}
}

func main() {
	closeInherited()
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case keeper.Verb:
			os.Exit(keeper.Main())
		case keeper.StandInVerb:
			os.Exit(keeper.StandIn())
		case keeper.MemberVerb:
			os.Exit(keeper.Member())
		case keeper.OOMVerb:
			exit(keeper.OOM(os.Args[2:]))
		case keeper.VictimVerb:
			exit(keeper.Victim(os.Args[2:]))
		case keeper.TemplateMakerVerb:
			os.Exit(keeper.TemplateMaker())
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	app := newApp()
	err := app.Run(ctx, os.Args)
	stop()
	os.Exit(report(app, err))
}

// exit ends a hidden verb that has nothing to tell but an error.
func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// closeInherited lets none of the descriptors that the caller leaked to us go on to what we start.
func closeInherited() {
	// Linux before 5.11 does not know the flag; nothing else would mark descriptors that we do not know of.
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}

func newApp() *cli.Command {
	return &cli.Command{
		Name:    "hyper",
		Usage:   "run containers, each in a virtual machine of its own",
		Version: fmt.Sprintf("%s\ncommit: %s\nspec: %s", version, commit, specs.Version),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Value: keeper.DefaultRoot, Usage: "directory for the state of containers; should be a tmpfs"},
			&cli.StringFlag{Name: "log", Usage: "file that errors are written to, besides stderr"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "format of the log: text or json"},
			&cli.BoolFlag{Name: "debug", Usage: "say on stderr when each stage was reached"},
			&cli.BoolFlag{Name: "systemd-cgroup", Usage: "let systemd make the cgroups of the host"},
			&cli.StringFlag{Name: "rootless", Hidden: true, Value: "auto"},
			&cli.StringFlag{Name: "config", Usage: "configuration file (default: " + config.DefaultPath + ", which need not exist)"},
		},
		Commands: []*cli.Command{
			checkpointCommand, createCommand, deleteCommand, eventsCommand, execCommand, featuresCommand, killCommand, listCommand,
			networkCommand, pauseCommand, psCommand,
			restoreCommand, resumeCommand, runCommand, specCommand, startCommand, stateCommand, templateCommand, updateCommand,
		},
		Before:                    checkGlobals,
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(context.Context, *cli.Command, error) {}, // report does it
		CommandNotFound: func(_ context.Context, _ *cli.Command, name string) {
			fmt.Fprintf(os.Stderr, "hyper: no such command: %s\n", name)
			os.Exit(3)
		},
	}
}

func checkGlobals(ctx context.Context, cmd *cli.Command) (context.Context, error) {
	if f := cmd.String("log-format"); f != "text" && f != "json" {
		return ctx, fmt.Errorf("invalid log format %q: text or json", f)
	}
	slog.SetDefault(slog.New(newTimeline(os.Stderr, cmd.Bool("debug"))))
	return ctx, nil
}

// report prints and logs an error, once, and returns the status to exit with.
func report(app *cli.Command, err error) int {
	if err == nil {
		return 0
	}
	code := 1
	var e exitCode
	if errors.As(err, &e) {
		if e.err == nil {
			return e.code
		}
		code = e.code
	}
	text := oneLine(err)
	fmt.Fprintln(os.Stderr, "hyper: "+text)
	if path := app.String("log"); path != "" {
		if err := appendLog(path, app.String("log-format"), text); err != nil {
			fmt.Fprintln(os.Stderr, "hyper: "+oneLine(err))
		}
	}
	return code
}

// oneLine is the text of an error: joined errors are separated by semicolons, and what a stranger wrote (a guest's
// console, a hook's output) gets no control characters through.
func oneLine(err error) string {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// appendLog adds one record. In JSON it has the keys and the level word that containerd's shim looks for in the last
// line; podman takes the whole file for one object, so nothing else is ever logged there.
func appendLog(path, format, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	line := fmt.Sprintf("time=%q level=error msg=%q\n", now, text)
	if format == "json" {
		record, err := json.Marshal(struct {
			Level   string `json:"level"`
			Message string `json:"msg"`
			Time    string `json:"time"`
		}{"error", text, now})
		if err != nil {
			return fmt.Errorf("write log: %w", err)
		}
		line = string(record) + "\n"
	}
	if _, err := f.WriteString(line); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// containerID is the verb's only argument.
func containerID(cmd *cli.Command) (string, error) {
	if cmd.NArg() != 1 {
		return "", fmt.Errorf("%s: %q requires exactly 1 argument, the container's id", os.Args[0], cmd.Name)
	}
	return cmd.Args().First(), nil
}

// loadContainer finds the container that the verb's first argument names.
func loadContainer(cmd *cli.Command) (*keeper.Container, error) {
	if cmd.NArg() < 1 {
		return nil, fmt.Errorf("%s: %q requires a container's id", os.Args[0], cmd.Name)
	}
	return keeper.Load(rootDir(cmd), cmd.Args().First())
}

// rootDir is the absolute path of the state directory: keepers work elsewhere.
func rootDir(cmd *cli.Command) string {
	path, err := filepath.Abs(cmd.String("root"))
	if err != nil {
		return cmd.String("root")
	}
	return path
}
