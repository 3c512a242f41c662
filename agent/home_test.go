package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyper-runtime/hyper/agent/protocol"
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
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	const passwd = "a:x:1:1::/home/a:\nb:x:2:2::/x\",\"LD_PRELOAD=/y\\\x01:\n"
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	const before, after = `{"env":["HOME=`, `"],"umask":18446744073709551615}`
	for uid, want := range map[uint32]string{1: `/home/a`, 2: `/x\",\"LD_PRELOAD=/y\\\u0001`, 3: "/"} {
		got, err := withHome([]byte(before+after), &protocol.Home{Offset: uint32(len(before)), Uid: uid}, root)
		if err != nil || string(got) != before+want+after {
			t.Errorf("with the home of %d: %s, %v; want %s in it", uid, got, err, want)
		}
	}
	if got, err := withHome([]byte(before+after), nil, root); err != nil || string(got) != before+after {
		t.Errorf("without a place for it: %s, %v", got, err)
	}
	for _, offset := range []uint32{3, 1<<32 - 1} {
		if got, err := withHome([]byte("{}"), &protocol.Home{Offset: offset}, root); err == nil {
			t.Errorf("behind the end: %s", got)
		}
	}
}
