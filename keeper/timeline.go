package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/hyper-runtime/hyper/store"
)

// relay repeats in our log what the keeper has written to its own, from offset on, and returns where it stopped. It is
// for --debug, which shows when each stage of a start was reached; a line that cannot be read is left out.
func relay(dir *store.Dir, offset int64) int64 {
	if !slog.Default().Enabled(context.Background(), slog.LevelDebug) {
		return offset
	}
	f, err := os.Open(dir.Path(store.KeeperLog))
	if err != nil {
		return offset
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return offset
	}
	lines := json.NewDecoder(f)
	for {
		var line struct {
			Time time.Time
			Msg  string
			Err  string `json:"error"`
		}
		if err := lines.Decode(&line); err != nil {
			if !errors.Is(err, io.EOF) {
				slog.Debug("the keeper's log", "error", err)
			}
			return offset + lines.InputOffset()
		}
		r := slog.NewRecord(line.Time, slog.LevelDebug, "keeper: "+line.Msg, 0)
		if line.Err != "" {
			r.AddAttrs(slog.String("error", line.Err))
		}
		slog.Default().Handler().Handle(context.Background(), r)
	}
}
