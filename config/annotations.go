package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// AnnotationPrefix begins the name of every annotation that is meant for us.
const AnnotationPrefix = "io.hyper-runtime."

// annotated is all that an annotation can ever change, by key. Annotations come from whoever writes a pod, so this list
// holds sizes only, each with the bound that the admin sets, and never a path, a binary or an argument.
var annotated = map[string]struct {
	value func(*Config) *int
	max   func(*Config) int // 0: none but the host's size, which package resource applies
}{
	"vcpus":      {func(c *Config) *int { return &c.VCPUs }, func(c *Config) int { return c.MaxVCPUs }},
	"memory_mib": {func(c *Config) *int { return &c.MemoryMiB }, func(c *Config) int { return c.MaxMemoryMiB }},
}

func annotatedKeys() string {
	return strings.Join(slices.Sorted(maps.Keys(annotated)), ", ")
}

// Annotated returns the settings as a container's annotations change them. Annotations without AnnotationPrefix
// are not ours and are ignored. One of ours that the admin did not list, or whose value is no number within the
// key's bounds, is refused: a container that asked for something and silently did not get it is worse than none.
func (c Config) Annotated(annotations map[string]string) (Config, error) {
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		key, ours := strings.CutPrefix(name, AnnotationPrefix)
		if !ours {
			continue
		}
		if err := c.annotate(key, annotations[name]); err != nil {
			return Config{}, fmt.Errorf("annotation %.80q: %w", name, err)
		}
	}
	return c, nil
}

func (c *Config) annotate(key, value string) error {
	a, exists := annotated[key]
	if !exists || !slices.Contains(c.AllowedAnnotations, key) {
		return errors.New("not in the config's allowed_annotations")
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("%.40q is not a whole number", value)
	}
	for _, s := range settings() {
		if s.key == key && (int64(n) < s.min || int64(n) > s.max) {
			return fmt.Errorf("%d is not between %d and %d", n, s.min, s.max)
		}
	}
	if max := a.max(c); max != 0 && n > max {
		return fmt.Errorf("%d is above the config's max_%s, which is %d", n, key, max)
	}
	*a.value(c) = n
	return nil
}
