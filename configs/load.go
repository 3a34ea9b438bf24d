package configs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Load reads the configuration file at path ("-": stdin), lets HAFEN_SECTION_KEY variables of environ override it, fills in the
// defaults and validates the whole. The error is Problems, all of them at once, or a *fs.PathError when there is
// nothing to read. It never holds a secret's value. Load keeps nothing: each call is a new beginning, as a reload needs it.
func Load(path string, stdin io.Reader, environ []string) (*Config, error) {
	text, err := readAll(path, stdin)
	if err != nil {
		return nil, err
	}
	r := &reading{origins: make(map[string]string)}
	values, ok := r.readFile(text, reflect.TypeFor[Config]())
	if !ok {
		return nil, r.problems
	}
	overrides := r.readEnv(environ)
	c, err := decode(values, overrides)
	if err != nil {
		return nil, err
	}
	c.tidy()
	seen, err := c.ByHand(environ)
	if err != nil {
		return nil, err
	}
	problems := r.problems
	for _, p := range seen.Validate() {
		if !r.hasSpoilt(p.Key) {
			p.Origin = r.originOf(p.Key)
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return c, nil
}

func readAll(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		if stdin == nil {
			stdin = bytes.NewReader(nil)
		}
		return limited("standard input", stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return limited(path, f)
}

func limited(path string, from io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(from, maxFileSize+1))
	var pathError *fs.PathError
	switch {
	case errors.As(err, &pathError):
		return nil, pathError
	case err != nil:
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	case len(text) > maxFileSize:
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("larger than 1 MiB")}
	}
	return text, nil
}

// decode lets viper lay file and environment over the defaults. The delimiter is one that no key contains, since viper would cut a key with
// a dot in it.
func decode(values map[string]any, overrides []override) (*Config, error) {
	const delimiter = "::"
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	defaults, _ := plain(reflect.ValueOf(*Default())).(map[string]any)
	for name, value := range defaults {
		v.SetDefault(name, value)
	}
	if err := v.MergeConfigMap(values); err != nil {
		return nil, undecodable()
	}
	for _, o := range overrides {
		v.Set(strings.ReplaceAll(o.key, ".", delimiter), o.value)
	}
	c := new(Config)
	if err := v.UnmarshalExact(c, strictly); err != nil {
		// Everything was checked against the structs before, and mapstructure's own words may cite values.
		return nil, undecodable()
	}
	dropEmpty(reflect.ValueOf(c).Elem())
	return c, nil
}

func undecodable() error {
	return Problems{{Key: "file", Problem: "cannot be read as a configuration", Write: "start again from the commented default, hafen config default"}}
}

func strictly(d *mapstructure.DecoderConfig) {
	d.WeaklyTypedInput = false
	d.DecodeHook = mapstructure.ComposeDecodeHookFunc(
		mapstructure.StringToTimeDurationHookFunc(),
		mapstructure.TextUnmarshallerHookFunc(), // netip
	)
}

// dropEmpty makes empty lists and maps nil, so that equal configurations are equal however they were written.
func dropEmpty(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range fieldsOf(v.Type()) {
			dropEmpty(v.Field(f.index))
		}
	case reflect.Slice:
		if v.Len() == 0 {
			v.SetZero()
		}
		for i := range v.Len() {
			dropEmpty(v.Index(i))
		}
	case reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
		}
	}
}

// tidy brings all names into the form in which they are compared.
func (c *Config) tidy() {
	tidy := func(hosts []string) {
		for i := range hosts {
			hosts[i] = CanonicalHost(hosts[i])
		}
	}
	c.Name = CanonicalHost(c.Name)
	tidy(c.Aliases)
	for i := range c.Services {
		s := &c.Services[i]
		s.GatewayName = CanonicalHost(s.GatewayName)
		tidy(s.Hosts)
		tidy(s.Probes.CallServers)
	}
	for i := range c.Hosts {
		c.Hosts[i].Host = CanonicalHost(c.Hosts[i].Host)
	}
	for i := range c.Signaling.Routes {
		c.Signaling.Routes[i].Host = CanonicalHost(c.Signaling.Routes[i].Host)
	}
}

func (r *reading) hasSpoilt(key string) bool {
	return slices.ContainsFunc(r.spoilt, func(spoilt string) bool { return related(spoilt, key) })
}

// originOf finds where key, or the section around it, was written.
func (r *reading) originOf(key string) string {
	for key != "" {
		if origin, ok := r.origins[key]; ok {
			return origin
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return ""
}
