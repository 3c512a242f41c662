package hypervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// TemplateInfo is what List tells of a template.
type TemplateInfo struct {
	Key     string    `json:"key"`
	Machine Machine   `json:"machine"`
	Bytes   int64     `json:"bytes"` // of memory that it takes
	Created time.Time `json:"created"`
	Used    time.Time `json:"used,omitzero"` // last; zero: never
	Hits    int64     `json:"hits"`          // clones so far
}

// List returns all templates, the least recently used first. What is no template is left out.
func (t Templates) List() ([]TemplateInfo, error) {
	entries, err := os.ReadDir(t.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list templates: %w", err)
	}
	list := []TemplateInfo{} // which JSON does not call null
	for _, entry := range entries {
		if !isKey(entry.Name()) {
			continue
		}
		if info, err := t.info(entry.Name()); err == nil {
			list = append(list, info)
		}
	}
	// slices.SortFunc would be some 25 KiB of code more in every keeper: it is made anew for structs of this size.
	sort.Slice(list, func(i, j int) bool { return list[i].lastUse().Before(list[j].lastUse()) })
	return list, nil
}

func (t Templates) info(key string) (TemplateInfo, error) {
	dir := filepath.Join(t.Dir, key)
	info := TemplateInfo{Key: key}
	var err error
	if info.Machine, err = readMachine(dir); err != nil {
		return info, err
	}
	memory, err := os.Lstat(filepath.Join(dir, memoryFile))
	if err != nil {
		return info, err
	}
	info.Bytes = memory.Sys().(*syscall.Stat_t).Blocks * 512
	info.Created = memory.ModTime()
	if hits, err := os.Lstat(filepath.Join(dir, hitsFile)); err == nil && hits.Size() > 0 {
		info.Hits, info.Used = hits.Size(), hits.ModTime()
	}
	return info, nil
}

func (i TemplateInfo) lastUse() time.Time {
	if i.Used.IsZero() {
		return i.Created
	}
	return i.Used
}

// ErrInUse means that a VM is a clone of the template.
var ErrInUse = errors.New("template is in use")

// Remove removes a template that no VM uses. ErrNoTemplate: there is none of that key.
func (t Templates) Remove(key string) error {
	if !isKey(key) {
		return fmt.Errorf("template %q: %w", key, ErrNoTemplate)
	}
	dir := filepath.Join(t.Dir, key)
	if _, err := os.Lstat(dir); err != nil {
		return fmt.Errorf("template %s: %w", key, ErrNoTemplate)
	}
	memory, err := os.OpenFile(filepath.Join(dir, memoryFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == nil {
		defer memory.Close()
		if unix.Flock(int(memory.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return fmt.Errorf("template %s: %w", key, ErrInUse)
		}
	}
	if err := discard(dir); err != nil {
		return fmt.Errorf("template %s: %w", key, err)
	}
	return nil
}

// isKey tells whether Key could have returned it. The rest of the directory is none of our business.
func isKey(name string) bool { return len(name) == 24 && strings.Trim(name, "0123456789abcdef") == "" }

// shrink removes the least recently used templates until the rest fits, but never the one to keep.
func (t Templates) shrink(keep string) error {
	list, err := t.List()
	if err != nil {
		return err
	}
	var total int64
	for _, info := range list {
		total += info.Bytes
	}
	for _, info := range list {
		if total <= int64(t.MaxMiB)<<20 {
			return nil
		}
		if info.Key == keep {
			continue
		}
		switch err := t.Remove(info.Key); {
		case err == nil:
			total -= info.Bytes
		case !errors.Is(err, ErrInUse):
			return err
		}
	}
	return nil
}
