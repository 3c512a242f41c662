package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHomeOf(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nuser:x:1000:1000::/home/user:\nrelative:x:5:5::home:\n"
	for name, prepare := range map[string]func(etc string) error{
		"file": func(etc string) error { return os.WriteFile(etc+"/passwd", []byte(passwd), 0o644) },
		"link out of the root": func(etc string) error {
			return os.Symlink("../../../../../../../../../../../../etc/passwd", etc+"/passwd")
		},
		"FIFO":      func(etc string) error { return unix.Mkfifo(etc+"/passwd", 0o644) },
		"directory": func(etc string) error { return os.Mkdir(etc+"/passwd", 0o755) },
		"none":      func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			etc := filepath.Join(root, "etc")
			if err := os.Mkdir(etc, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := prepare(etc); err != nil {
				t.Fatal(err)
			}
			want := map[uint32]string{0: "/", 1000: "/", 5: "/", 7: "/"}
			if name == "file" {
				want[0], want[1000] = "/root", "/home/user"
			}
			for uid, home := range want {
				if got := homeOf(root, uid); got != home {
					t.Errorf("home of %d is %q, want %q", uid, got, home)
				}
			}
		})
	}
}

func TestWithHome(t *testing.T) {
	for process, want := range map[string]string{
		`{"env":["A=b"],"args":["x"],"user":{"uid":3},"umask":18446744073709551615}`: `"env":["A=b","HOME=/"]`,
		`{"env":["HOME=/kept"]}`:          `"env":["HOME=/kept"]`,
		`{"env":["HOME=","HOME=/last"]}`:  `"env":["HOME=","HOME=/last"]`,
		`{"env":["HOME="]}`:               `"env":["HOME=/"]`,
		`{"env":["HOME=/first","HOME="]}`: `"env":["HOME=/"]`,
		`{}`:                              `"env":["HOME=/"]`,
	} {
		got, err := withHome(json.RawMessage(process), t.TempDir())
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s becomes %s, %v; want %s in it", process, got, err, want)
		}
		if strings.Contains(process, "umask") && !strings.Contains(string(got), "18446744073709551615") {
			t.Errorf("%s has lost a number: %s", process, got)
		}
	}
}
