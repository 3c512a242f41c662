package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
)

// Parse returns the settings that text, the TOML of the file name, makes of the defaults. It reads nothing else:
// empty paths stay empty. The first error is returned as one line "name:line: key: what is wrong".
func Parse(name, text string) (Config, error) {
	c := Default()
	if err := c.decode(text); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return Config{}, fmt.Errorf("%s:%d: %s", name, pe.Position.Line, pe.Message)
		}
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// Default returns the settings without any file, paths not yet filled in.
func Default() Config {
	var c Config
	var text strings.Builder
	for _, s := range settings() {
		fmt.Fprintf(&text, "%s = %s\n", s.key, s.defaultTOML)
	}
	if err := c.decode(text.String()); err != nil {
		panic("config: default tag: " + err.Error()) // a tag is part of the program, and every test comes by here
	}
	return c
}

// decode sets the fields that text names. Each key goes through a setter, because an error returned by that comes back
// from the library with the key's line, for unknown keys as for wrong values.
func (c *Config) decode(text string) error {
	var values map[string]toml.Primitive
	md, err := toml.Decode(text, &values)
	if err != nil {
		return err
	}
	known := make(map[string]setting)
	for _, s := range settings() {
		known[s.key] = s
	}
	for _, key := range md.Keys() {
		value := values[key[0]]
		for _, part := range key[1:] { // a dotted key: only its last part has a line
			var table map[string]toml.Primitive
			if err := md.PrimitiveDecode(value, &table); err != nil {
				return err
			}
			value = table[part]
		}
		s, ok := known[key.String()]
		set := setter(func(value any) error {
			if !ok {
				return fmt.Errorf("%s: unknown key", strconv.Quote(strings.Join(key, ".")))
			}
			if err := s.set(reflect.ValueOf(c).Elem().Field(s.field), value); err != nil {
				return fmt.Errorf("%s: %w", s.key, err)
			}
			return nil
		})
		if err := md.PrimitiveDecode(value, &set); err != nil {
			return err
		}
	}
	return nil
}

// setter is a function as the library's Unmarshaler.
type setter func(value any) error

// UnmarshalTOML implements toml.Unmarshaler.
func (s *setter) UnmarshalTOML(value any) error { return (*s)(value) }

// setting is what the tags of one field of Config say.
type setting struct {
	key         string
	field       int    // index in Config
	defaultTOML string // as it would stand in the file
	min, max    int64  // of a number
	oneof       []string
}

func settings() []setting {
	var all []setting
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		s := setting{key: tag.Get("toml"), field: i, defaultTOML: tag.Get("default"), oneof: strings.Fields(tag.Get("oneof"))}
		// Only numbers have bounds; a number without is one that accepts nothing but 0, which no test lets pass.
		s.min, _ = strconv.ParseInt(tag.Get("min"), 10, 64)
		s.max, _ = strconv.ParseInt(tag.Get("max"), 10, 64)
		all = append(all, s)
	}
	return all
}

// set puts value, as the TOML library decoded it, into field, or says what is wrong with it.
func (s setting) set(field reflect.Value, value any) error {
	switch field.Kind() {
	case reflect.Int:
		n, ok := value.(int64)
		if !ok {
			return fmt.Errorf("must be a whole number, not %s", describe(value))
		}
		if n < s.min || n > s.max {
			return fmt.Errorf("%d is not between %d and %d", n, s.min, s.max)
		}
		field.SetInt(n)
	case reflect.String:
		text, err := plainString(value)
		if err != nil {
			return err
		}
		if len(s.oneof) > 0 && !slices.Contains(s.oneof, text) {
			return fmt.Errorf("%q is none of %s", text, strings.Join(s.oneof, ", "))
		}
		field.SetString(text)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("must be a list of strings, not %s", describe(value))
		}
		texts := []string{}
		for _, v := range list {
			text, err := plainString(v)
			if err != nil {
				return fmt.Errorf("in the list: %w", err)
			}
			texts = append(texts, text)
		}
		field.Set(reflect.ValueOf(texts))
	default:
		return fmt.Errorf("no rule for Go type %s", field.Type())
	}
	return nil
}

// plainString is value as a string without control characters: those can only be a mistake in a path, a kernel
// argument or a QEMU option, and would travel far before they hurt.
func plainString(value any) (string, error) {
	text, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("must be a string, not %s", describe(value))
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return "", fmt.Errorf("%q has a control character", text)
	}
	return text, nil
}

// describe names the TOML type of a decoded value.
func describe(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "a whole number"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	case map[string]any, []map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}

// check is about what a single number or word cannot show: paths, and settings that must fit each other.
func (c *Config) check() error {
	for _, p := range []struct{ key, path string }{
		{"kernel", c.Kernel}, {"initrd", c.Initrd}, {"template_dir", c.TemplateDir},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return fmt.Errorf("%s: %q is not an absolute path", p.key, p.path)
		}
	}
	if strings.Contains(c.QEMU, "/") && !filepath.IsAbs(c.QEMU) {
		return fmt.Errorf("qemu: %q is neither an absolute path nor a name to be searched in PATH", c.QEMU)
	}
	for _, key := range c.AllowedAnnotations {
		if _, ok := annotated[key]; !ok {
			return fmt.Errorf("allowed_annotations: %q can not be set by an annotation, only %s", key, annotatedKeys())
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotated)) {
		a := annotated[key]
		if n, max := *a.value(c), a.max(c); max != 0 && n > max {
			return fmt.Errorf("%s: %d is above max_%s, which is %d", key, n, key, max)
		}
	}
	return nil
}
