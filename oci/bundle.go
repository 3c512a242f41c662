// Package oci reads and checks what an engine hands to an OCI runtime: the bundle with its config.json, the namespaces
// and hooks that it names on the host. It also knows the forms of what a runtime answers: state and features.
package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ConfigFile is the name of the configuration in a bundle (runtime-spec, bundle.md).
const ConfigFile = "config.json"

// maxConfig is the most bytes that a config.json may have: it travels in one ttrpc message, whose limit is 4 MiB.
const maxConfig = 3 << 20

// Bundle is a loaded bundle.
type Bundle struct {
	Path string      // absolute
	Spec *specs.Spec // Raw, decoded
	Raw  []byte      // config.json as it was read
}

// Load reads the configuration of the bundle in the directory dir. It never blocks on what it finds there, and checks
// nothing but the form: see Check for the rest. The text for a missing file is runc's, which engines look for.
func Load(dir string) (*Bundle, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", dir, err)
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	raw, err := readConfig(filepath.Join(path, ConfigFile))
	if err != nil {
		return nil, err
	}
	return Decode(path, raw)
}

// Decode makes the bundle at the absolute path from a config.json that was read before.
func Decode(path string, raw []byte) (*Bundle, error) {
	spec := new(specs.Spec)
	if err := json.Unmarshal(raw, spec); err != nil {
		return nil, fmt.Errorf("%s: %s%w", ConfigFile, position(raw, err), err)
	}
	return &Bundle{Path: path, Spec: spec, Raw: raw}, nil
}

// Root is the absolute path of the container's root file system, which must be a directory.
func (b *Bundle) Root() (string, error) {
	if b.Spec.Root == nil || b.Spec.Root.Path == "" {
		return "", errors.New("root.path must not be empty")
	}
	path := b.Spec.Root.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.Path, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("invalid rootfs: %w", err)
	}
	if !info.IsDir() {
		return "", fmt.Errorf("invalid rootfs: %s: not a directory", path)
	}
	return filepath.Clean(path), nil
}

func readConfig(path string) ([]byte, error) {
	// Without O_NONBLOCK a FIFO would hang the open.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("JSON specification file %s not found", ConfigFile)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxConfig)
	}
	return raw, nil
}

// position tells where in raw the decoder stopped, as "line 3, column 7: ", or nothing where it does not say.
func position(raw []byte, err error) string {
	var offset int64
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	} else if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = kind.Offset
	}
	if offset <= 0 || offset > int64(len(raw)) {
		return ""
	}
	before := raw[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - 1 - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d, column %d: ", line, column)
}
