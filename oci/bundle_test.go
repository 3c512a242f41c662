package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLoad(t *testing.T) {
	tests := []struct {
		name   string
		config func(t *testing.T, path string)
		want   string // part of the error; empty: none
	}{
		{"good", write(`{"ociVersion": "1.2.0", "unknown": {"a": 1}}`), ""},
		{"missing", func(*testing.T, string) {}, "JSON specification file config.json not found"},
		{"syntax", write("{\n  \"ociVersion\": 1.0.2\n}"), "config.json: line 2, column 20: invalid character"},
		{"cut off", write("{\n  \"ociVersion\": \"1.0.2\""), "config.json: line 2, column 23: unexpected end of JSON input"},
		{"empty", write(""), "config.json: unexpected end of JSON input"},
		{"uid beyond 32 bits", write(`{"process": {"user": {"uid": 4294967296}}}`), "config.json: line 1, column 39: json: cannot unmarshal number 4294967296"},
		{"two documents", write("{}{}"), "after top-level value"},
		{"too big", write(strings.Repeat(" ", maxConfig+1)), "has more than 3145728 bytes"},
		{"fifo", func(t *testing.T, path string) {
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
		{"directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			test.config(t, filepath.Join(dir, ConfigFile))
			bundle, err := Load(dir)
			if test.want != "" {
				wantError(t, err, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if bundle.Path != dir || bundle.Spec.Version != "1.2.0" || len(bundle.Raw) == 0 {
				t.Errorf("got %+v", bundle)
			}
		})
	}
}

func TestLoadMissingBundle(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "gone"))
	wantError(t, err, "no such file or directory")
}

func TestRoot(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("x")(t, filepath.Join(dir, "file"))
	tests := []struct{ path, want, err string }{
		{"rootfs", filepath.Join(dir, "rootfs"), ""},
		{".", dir, ""},
		{dir + "/rootfs/", filepath.Join(dir, "rootfs"), ""},
		{"file", "", "not a directory"},
		{"gone", "", "no such file or directory"},
		{"", "", "root.path must not be empty"},
	}
	for _, test := range tests {
		spec := minimal()
		spec.Root.Path = test.path
		got, err := (&Bundle{Path: dir, Spec: spec}).Root()
		if test.err != "" {
			wantError(t, err, test.err)
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%q: got %q, %v, want %q", test.path, got, err, test.want)
		}
	}
}

func write(content string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wantError checks that err is one line that contains text.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got error %v, want one line with %q", err, text)
	}
}
