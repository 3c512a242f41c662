package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Load reads the file at path and returns the checked settings, with the empty paths and machine type filled in.
// An empty path means DefaultPath, which need not exist. A file that was named must exist.
// Errors are one line and name the file, the line in it and the key.
func Load(path string) (Config, error) {
	named := path != ""
	if !named {
		path = DefaultPath
	}
	text, err := os.ReadFile(path)
	if err != nil && (named || !errors.Is(err, fs.ErrNotExist)) {
		return Config{}, fmt.Errorf("read config: %w", err)
	}
	c, err := Parse(path, string(text))
	if err != nil {
		return Config{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return Config{}, fmt.Errorf("find the installed guest image: %w", err)
	}
	c.resolve(filepath.Join(filepath.Dir(exe), "..", "share", "hyper"), runtime.GOARCH)
	return c, nil
}
