package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// timeline prints warnings, and with --debug each stage with the milliseconds since the command began.
type timeline struct {
	out   io.Writer
	begin time.Time
	debug bool
}

func newTimeline(out io.Writer, debug bool) timeline { return timeline{out, time.Now(), debug} }

func (t timeline) Enabled(_ context.Context, level slog.Level) bool {
	return t.debug || level >= slog.LevelWarn
}

func (t timeline) Handle(_ context.Context, r slog.Record) error {
	line := "hyper: warning: " + r.Message
	if t.debug {
		line = fmt.Sprintf("%7.1f ms  %s", float64(r.Time.Sub(t.begin).Microseconds())/1000, r.Message)
	}
	r.Attrs(func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%q", a.Key, a.Value)
		return true
	})
	_, err := fmt.Fprintln(t.out, line)
	return err
}

// WithAttrs and WithGroup make it a slog.Handler; nobody calls them here.
func (t timeline) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t timeline) WithGroup(string) slog.Handler      { return t }
