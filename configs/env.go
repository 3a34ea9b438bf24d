package configs

import (
	"reflect"
	"slices"
	"strings"
)

// override is a value from the environment, on its way to viper.
type override struct {
	key   string
	value any
}

// envName is the variable that overrides a key: listen.https is HAFEN_LISTEN_HTTPS.
func envName(key string) string {
	return "HAFEN_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// readEnv collects the overrides of an environment: single values, and lists separated by commas. Lists of sections and maps can't be
// given so. An empty variable counts as not set. A variable that is no key is refused only where it looks like a typing mistake: in
// containers all sorts of things are called HAFEN_ (Kubernetes names a service's ports that way).
func (r *reading) readEnv(environ []string) []override {
	var overrides []override
	set := make(map[string]string)
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && value != "" && strings.HasPrefix(name, "HAFEN_") {
			set[name] = value
		}
	}
	var names []string
	walkKeys(reflect.TypeFor[Config](), "", func(key string, f field) {
		if strings.Contains(key, "[]") || kindOf(f.typ) == sectionKind {
			return
		}
		name := envName(key)
		names = append(names, name)
		text, ok := set[name]
		if !ok {
			return
		}
		delete(set, name)
		r.origins[key] = name
		if value, good := r.envValue(key, text, f.typ); good {
			overrides = append(overrides, override{key, value})
		}
	})
	r.mistypedEnv(set, names)
	return overrides
}

func (r *reading) envValue(key, text string, t reflect.Type) (any, bool) {
	k := kindOf(t)
	if k == numbersKind || k == listKind && kindOf(t.Elem()) == sectionKind {
		r.bad(key, nil, "can't be given in the environment", "write it in the file")
		return nil, false
	}
	if k != listKind {
		value, err := parseScalar(text, t)
		if err != nil {
			r.bad(key, nil, err.problem, err.write)
		}
		return value, err == nil
	}
	var values []any
	for member := range strings.SplitSeq(text, ",") {
		if member = strings.TrimSpace(member); member == "" {
			continue
		}
		value, err := parseScalar(member, t.Elem())
		if err != nil {
			r.bad(key, nil, err.problem, err.write)
			return nil, false
		}
		values = append(values, value)
	}
	return values, true
}

func (r *reading) mistypedEnv(set map[string]string, names []string) {
	var left []string
	for name := range set {
		left = append(left, name)
	}
	slices.Sort(left)
	for _, name := range left {
		if name == "HAFEN_PORT" || name == "HAFEN_SERVICE_HOST" || strings.HasPrefix(name, "HAFEN_PORT_") || strings.HasPrefix(name, "HAFEN_SERVICE_PORT") {
			continue
		}
		for _, real := range names {
			if mistakes(name, real) <= 2 {
				r.bad(shown(name), nil, "is no variable of ours", "write "+real)
				break
			}
		}
	}
}
