package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Store {
	s, err := Open(filepath.Join(t.TempDir(), "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, id string) *Dir {
	d, err := s.Create(id)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestValidID(t *testing.T) {
	for _, id := range []string{"a", "A-1_b+c.d", "...", "_x", strings.Repeat("a", 76), strings.Repeat("a", 255)} {
		if err := ValidID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{".", "..", "a/b", "/", "-flag", "a b", "a,b", "a:b", "ä", "a\xff", "a\x00", "a\n",
		strings.Repeat("a", 256), strings.Repeat("a", 1025)} {
		if err := ValidID(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := ValidID(""); err == nil || err.Error() != "container id cannot be empty" {
		t.Errorf("empty: %v", err)
	}
}

func TestInvalidIDMakesNothing(t *testing.T) {
	s := open(t)
	for _, id := range []string{"", "..", "a/b", strings.Repeat("a", 1025)} {
		if _, err := s.Create(id); err == nil {
			t.Errorf("%q was created", id)
		}
		if _, err := s.Get(id); err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("%q was looked for: %v", id, err)
		}
		if err := s.Remove(id); err == nil {
			t.Errorf("%q was removed", id)
		}
	}
	if names, err := os.ReadDir(s.path); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestModesWhateverTheUmask(t *testing.T) {
	parent := t.TempDir()
	for _, umask := range []int{0, 0o077, 0o777} {
		old := unix.Umask(umask)
		s, err := Open(filepath.Join(parent, fmt.Sprint(umask)))
		if err != nil {
			t.Fatal(err)
		}
		d := create(t, s, "c")
		if err := d.SaveConfig([]byte("{}")); err != nil {
			t.Fatal(err)
		}
		l, err := d.Listen()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		unix.Umask(old)
		for path, want := range map[string]fs.FileMode{
			s.path: 0o700, d.Path(""): 0o700, d.Path(StateFile): 0o600, d.Path(Config): 0o600, d.Path(Socket): 0o600,
		} {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
				t.Errorf("umask %o: %s: %v, %v", umask, path, info.Mode(), err)
			}
		}
	}
}

func TestOpenRefusesRootsThatOthersControl(t *testing.T) {
	dir := t.TempDir()
	make := func(name string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	real := make("real", 0o755)
	link, file, foreign := filepath.Join(dir, "link"), filepath.Join(dir, "file"), make("foreign", 0o700)
	if err := errors.Join(os.Symlink(real, link), os.WriteFile(file, nil, 0o600), os.Chown(foreign, 1, 1)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, file, foreign, make("open", 0o777), filepath.Join(file, "below")} {
		if _, err := Open(path); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range []string{real, make("sticky", fs.ModeSticky|0o777), filepath.Join(dir, "new", "er")} {
		if _, err := Open(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestOneCreateWins(t *testing.T) {
	s := open(t)
	var wg sync.WaitGroup
	results := make(chan error, 50)
	for range 50 {
		wg.Go(func() {
			_, err := s.Create("c")
			results <- err
		})
	}
	wg.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if err != ErrExists {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d creates won", won)
	}
	d, err := s.Get("c")
	if err != nil {
		t.Fatal(err)
	}
	if st, err := d.LoadState(); err != nil || st.Status != "creating" || st.ID != "c" {
		t.Errorf("first state is %+v, %v", st, err)
	}
}

func TestGetOfNothing(t *testing.T) {
	if _, err := open(t).Get("c"); err != ErrNotExist {
		t.Errorf("got %v", err)
	}
}

// TestListShowsEveryEntry is attacks 24 and 27: what others forged and what broke is marked, hides nothing, and goes away.
func TestListShowsEveryEntry(t *testing.T) {
	s := open(t)
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.MkdirAll(filepath.Join(canary, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	create(t, s, "good")
	gone := create(t, s, "stateless")
	foreign := create(t, s, "foreign")
	if err := errors.Join(
		os.Remove(gone.Path(StateFile)),
		os.Chown(foreign.Path(""), 1, 1),
		os.Symlink(canary, filepath.Join(s.path, "link")),
		os.WriteFile(filepath.Join(s.path, "file"), nil, 0o600),
		unix.Mkfifo(filepath.Join(s.path, "fifo"), 0o600),
		os.Mkdir(filepath.Join(s.path, "no id"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	entries, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		mark := ""
		if errors.Is(e.Err, ErrDamaged) {
			mark = "!"
		}
		got = append(got, e.ID+mark)
	}
	if want := "fifo! file! foreign! good link! stateless!"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	for _, e := range entries {
		if err := s.Remove(e.ID); err != nil {
			t.Error(err)
		}
	}
	if entries, err := s.List(); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if _, err := os.Stat(filepath.Join(canary, "in")); err != nil {
		t.Error(err)
	}
}
